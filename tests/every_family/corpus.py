"""A small corpus of every kind of media, written to disk: pictures, clips, sounds, and conversations that name them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["write_audio", "write_corpus", "write_image", "write_video"]

IMAGE_SIZES = ((60, 90), (200, 130), (37, 301), (448, 448), (28, 28), (333, 96))
"""(height, width): thin, tiny, square, large."""
CLIPS = ((33, 48, 64, 12), (40, 96, 64, 8), (35, 64, 112, 24))
"""(frames, height, width, frames per second)."""
SOUNDS = ((0.9, 16_000), (1.4, 22_050), (0.5, 8_000))
"""(seconds, samples per second)."""
TURNS = (
    ("What is this?", "A drawing of noise, in 3 colours."),
    ("And then?", "Then it ends.\nIndeed."),
    ("Once more: what?", "\n\nYes. Noise."),
)


def write_corpus(
    root: Path, kinds: frozenset[str], *, num_rows: int = 12, seed: int = 0, sounds_beside_images: bool = False
) -> Path:
    """Write rows in OpenAI's form with every kind of media that is wanted, text-only ones among them.

    Args:
        root: Folder for the rows and their media.
        kinds: Of image, video and audio; one kind to a row, and rows with two images.
        num_rows: How many rows.
        seed: Of pictures and sounds.
        sounds_beside_images: Every sound stands beside an image, for families that take sounds alone in sets of their own.

    Returns:
        The .jsonl.
    """
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pools = {kind: _pool(kind, root, rng) for kind in sorted(kinds)}
    plans: list[tuple[str, ...]] = [(), *((kind,) for kind in sorted(kinds))]
    plans += [("image", "image"), ("image",)] if "image" in kinds else []
    if sounds_beside_images:
        plans = [("image", "audio") if plan == ("audio",) else plan for plan in plans]
    rows = [_row(number, plans[number % len(plans)], pools) for number in range(num_rows)]
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _row(number: int, media: Sequence[str], pools: dict[str, Iterator[str]]) -> dict[str, Any]:
    question, answer = TURNS[number % len(TURNS)]
    tags = "".join(f"<{kind}>" for kind in media)
    messages = [
        {"role": "user", "content": tags + f"{question} ({number})"},
        {"role": "assistant", "content": answer},
    ]
    if number % 4 == 3:
        question, answer = TURNS[(number + 1) % len(TURNS)]
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": f"{answer} {number}"}]
    row: dict[str, Any] = {"id": f"row-{number}", "messages": messages}
    for kind, column in (("image", "images"), ("video", "videos"), ("audio", "audios")):
        if kind in media:
            row[column] = [next(pools[kind]) for wanted in media if wanted == kind]
    return row


def _pool(kind: str, root: Path, rng: np.random.Generator) -> Iterator[str]:
    """Names of media files of a kind, made on the way, for ever."""
    number = 0
    while True:
        if kind == "image":
            path = write_image(root / f"{number}.png", *IMAGE_SIZES[number % len(IMAGE_SIZES)], rng)
        elif kind == "video":
            path = write_video(root / f"{number}.mp4", *CLIPS[number % len(CLIPS)], rng)
        else:
            path = write_audio(root / f"{number}.wav", *SOUNDS[number % len(SOUNDS)], rng)
        yield path.name
        number += 1


def write_image(path: Path, height: int, width: int, rng: np.random.Generator) -> Path:
    """A smooth picture with noise in it."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    noise = rng.integers(-20, 20, (height, width, 3))
    Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def write_video(
    path: Path, num_frames: int, height: int, width: int, frames_per_second: int, rng: np.random.Generator
) -> Path:
    """A clip whose frames differ."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=Fraction(frames_per_second))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        base = rng.integers(0, 200, (height, width, 3), dtype=np.uint8)
        for number in range(num_frames):
            picture = np.roll(base, number * 3, axis=1) + np.uint8(number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_audio(path: Path, seconds: float, sampling_rate: int, rng: np.random.Generator) -> Path:
    """A tone with noise."""
    import soundfile

    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    wave = 0.5 * np.sin(2 * np.pi * rng.integers(200, 800) * time) + 0.05 * rng.standard_normal(len(time))
    soundfile.write(str(path), wave.astype(np.float32), sampling_rate)
    return path
