"""Small conversations with their media, processors for them, and what their batches must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.families.processors import FAMILY_NAMES, FamilyName, build_processor

__all__ = [
    "END_OF_TURN",
    "TOKEN_FIELDS",
    "a_clip",
    "a_picture",
    "a_sound",
    "assert_batch_is",
    "examples",
    "learned",
    "plain",
    "processor",
]

TOKEN_FIELDS = ("input_ids", "attention_mask", "mm_token_type_ids")
TILED = ("llava_onevision", "internvl", "idefics3", "smolvlm", "step3p7")
END_OF_TURN = dict.fromkeys(FAMILY_NAMES, "<|im_end|>") | {
    "gemma4": "<turn|>",
    "phi4_multimodal": "<|end|>",
    "idefics3": "<end_of_utterance>",
    "smolvlm": "<end_of_utterance>",
}


@cache
def processor(name: FamilyName, *, marked: bool = False) -> Any:
    """A family's processor, one for all tests; who changes it makes one of its own."""
    return build_processor(name, marked=marked, small_tiles=name in TILED)


def a_picture(height: int = 60, width: int = 90, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def a_sound(seconds: float = 0.5, rate: int = 16_000) -> NDArray[np.float32]:
    """A tone."""
    return np.asarray(np.sin(np.arange(int(seconds * rate)) * (440 * 2 * np.pi / rate)) / 2, dtype=np.float32)


def a_clip(path: Path, num_frames: int = 34, rate: int = 10, *, sound_rate: int | None = None) -> str:
    """A clip that gets brighter, with a tone where a rate is given."""
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("mpeg4", rate=rate)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sounds: Any = container.add_stream("pcm_s16le", rate=sound_rate, layout="mono") if sound_rate else None
        for number in range(num_frames):
            levels = np.full((48, 64, 3), number * 200 // num_frames, dtype=np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(levels, format="rgb24")))
        container.mux(pictures.encode())
        if sounds is not None and sound_rate:
            samples = (a_sound(num_frames / rate, sound_rate) * 32_767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = sound_rate
            container.mux(sounds.encode(frame))
            container.mux(sounds.encode())
    return str(path)


def plain(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    """Turns to a conversation; texts become lists of one text, as every family's template reads them."""
    return [
        {"role": role, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}
        for role, content in turns
    ]


def examples() -> list[dict[str, Any]]:
    """Three: an image in two turns, no media, two images; answers with odd beginnings and of the user's own words."""
    image, first, second = a_picture(), a_picture(98, 150, 1), a_picture(50, 50, 2)
    text = {"type": "text"}
    return [
        {
            "conversation": plain(
                ("user", [{"type": "image", "image": image}, {**text, "text": "What is this?"}]),
                ("assistant", "\n\nA cat."),
                ("user", "And yes?"),
                ("assistant", "yes"),
            )
        },
        {"conversation": plain(("system", "Be brief."), ("user", "yes"), ("assistant", "yes"))},
        {
            "conversation": plain(
                (
                    "user",
                    [
                        {"type": "image", "image": first},
                        {"type": "image", "image": second},
                        {**text, "text": "Two? assistant\n"},
                    ],
                ),
                ("assistant", "Thr\u00e9e \U0001f408"),
            )
        },
    ]


def learned(batch: Mapping[str, Any], tokenizer: Any) -> list[list[str]]:
    """The runs of labels of each row, as text; they are held against the next tokens first."""
    rows = []
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        assert all(label in (-100, following) for label, following in zip(labels, ids[1:], strict=False))
        runs: list[list[int]] = [[]]
        for label in labels:
            if label == -100:
                runs.append([])
            else:
                runs[-1].append(label)
        rows.append([tokenizer.decode(run) for run in runs if run])
    return rows


def assert_batch_is(batch: Mapping[str, Any], truth: Mapping[str, Any]) -> None:
    """Everything that a processor returned stands in a batch, tokens without the last, pixels in the batch's type."""
    assert "input_ids" in truth
    for name, value in truth.items():
        expected = value[:, :-1] if name in TOKEN_FIELDS else value.to(batch[name].dtype)
        assert torch.equal(batch[name], expected), name


def conversations(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [row["conversation"] for row in rows]
