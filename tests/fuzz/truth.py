"""What the model's own processor makes of a row whose media may be broken, by loaders that are not vlmprep's.

transformers' loaders are led past what they are known to fail at: torchvision's PNG decoder, which ends the process at a
wrong byte; the PyAV loader's belief in the number of frames that a container gives, which mkv and webm do not give; and the
belief in the name of a sound, or of a clip whose bytes then read as nothing: those are read as from a URL, without a name.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata

from tests.every_family import alone
from tests.every_family.alone import run_alone
from vlmprep.mediafiles.containers import FORMATS

__all__ = ["truth_of"]

PNG = b"\x89PNG\r\n\x1a\n"
TEXT = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}


def truth_of(processor: Any, row: dict[str, Any], folder: Path) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Token ids, and the model's media inputs by name.

    Args:
        processor: The model's own.
        row: A row of the corpus.
        folder: Where its media are.
    """
    if sounds := row.get("audios"):
        row = {**row, "audios": [without_suffix(folder, name) for name in sounds]}
    with safe_image_loader(processor.image_processor), clips_from_what_decodes():
        found = run_alone(processor, row, folder)
    media = {name: torch.as_tensor(value) for name, value in found.items() if name not in TEXT}
    return found["input_ids"][0].tolist(), media


def without_suffix(folder: Path, name: str) -> str:
    """A copy of a file whose name says nothing, because transformers believes a sound's name before its bytes."""
    return str(shutil.copyfile(folder / name, folder / f"{Path(name).stem}-sound").relative_to(folder))


@contextmanager
def safe_image_loader(image_processor: Any) -> Iterator[None]:
    """PNGs go through Pillow before they go to torchvision."""
    fetch = image_processor.fetch_images

    def fetch_safely(given: Any) -> Any:
        if isinstance(given, str) and (data := Path(given).read_bytes()).startswith(PNG):
            given = rewritten(given, data)
        return fetch(given)

    if image_processor.backend == "torchvision":
        image_processor.fetch_images = fetch_safely
    try:
        yield
    finally:
        image_processor.__dict__.pop("fetch_images", None)


def rewritten(path: str, data: bytes) -> str:
    """The same PNG as Pillow writes it, with the Exif block before its pixels, the one that torchvision goes by."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        levels = image.convert("RGB")
    at, pixels = data.find(b"eXIf"), data.find(b"IDAT")
    exif = data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")] if 0 <= at < pixels else b""
    levels.save(path + ".again.png", exif=exif)
    return path + ".again.png"


def upright(frame: Any) -> Any:
    """A frame as its display matrix turns it, or mirrors it along one side: [height, width, 3]."""
    levels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return levels
    across, _, _, _, down = np.frombuffer(bytes(matrix), np.int32)[:5]
    if across * 1.0 * down < 0:
        return levels[:: -1 if down < 0 else 1, :: -1 if across < 0 and frame.rotation == 0 else 1]
    return levels


@contextmanager
def clips_from_what_decodes() -> Iterator[None]:
    """The frames that a family samples of those that PyAV decodes, upright."""
    before = alone.clip_of
    alone.clip_of = clip_of
    try:
        yield
    finally:
        alone.clip_of = before


def open_clip(path: Path) -> Any:
    """A container by its name, or where that misleads by its bytes alone, as transformers reads what a URL gives."""
    readers = {"format_whitelist": ",".join(FORMATS)}  # with others in the race, one may win that reads nothing
    try:
        return av.open(str(path), metadata_errors="ignore", container_options=readers)
    except av.error.FFmpegError:
        return av.open(io.BytesIO(path.read_bytes()), metadata_errors="ignore", container_options=readers)


def clip_of(video_processor: Any, path: Path) -> tuple[torch.Tensor, Any]:
    """A clip as `alone.clip_of` gives it."""
    decoded: list[Any] = []
    with open_clip(path) as container:
        stream = container.streams.video[0]
        with suppress(av.error.FFmpegError):  # behind what an edit list shows there may be anything
            decoded.extend(container.decode(video=0))
        rate, total = Fraction(stream.average_rate or 0), len(decoded)
    metadata = VideoMetadata(
        total_num_frames=total,
        fps=float(rate),
        duration=float(total / rate),
        video_backend="pyav",
        height=decoded[0].height,
        width=decoded[0].width,
    )
    known = video_processor.valid_kwargs.__annotations__
    settings = {name: getattr(video_processor, name, None) for name in known}
    for name in ("input_data_format", "do_convert_rgb", "do_sample_frames", "device", "video_metadata"):
        settings.pop(name, None)
    sample = video_processor.sample_frames if video_processor.do_sample_frames else alone.all_frames
    indices = [int(at) for at in sample(metadata=metadata, **settings)]
    frames = np.stack([upright(decoded[at]) for at in indices])
    metadata.frames_indices = indices
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous(), metadata
