"""Samples broken on purpose, one of each kind, so that the demo shows what becomes of them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from vlmprep.demo.pictures import draw_picture

__all__ = ["DAMAGE", "damaged_line"]

DAMAGE = {
    "truncated-image": "the JPEG stops half way: its header reads, its pixels do not",
    "missing-image": "the file that the sample names does not exist",
    "empty-image": "the image is a file of zero bytes",
    "text-as-image": "the image is a text file",
    "bomb-image": "a PNG whose header claims 60,000 x 60,000 pixels",
    "escaping-path": "the image's path climbs out of the media folder",
    "more-tags": "two <image> tags, one image",
    "more-images": "one <image> tag, two images",
    "no-answer": "no assistant turn, so there is nothing to learn",
    "empty-answer": "the assistant's turn is empty",
    "control-tokens": "the user's text holds the model's own control tokens",
    "not-json": "a line that stops in the middle of its JSON",
    "not-utf8": "a line with bytes that are not UTF-8",
}
"""Kind of damage -> what is wrong."""


def damaged_line(kind: str, out: Path, rng: Random) -> bytes:
    """Make the line of one damaged sample, and its image.

    Args:
        kind: A key of `DAMAGE`; the sample's id is `damaged-KIND`.
        out: The corpus folder; the image goes into its `media`.
        rng: Decides what is drawn.

    Returns:
        The line with its newline, for a file of samples in the `messages` spelling.
    """
    sample = _whole_sample(kind, out, rng)
    if kind in _IMAGE_DAMAGE:
        _IMAGE_DAMAGE[kind](out / sample["images"][0])
    if kind in _SAMPLE_DAMAGE:
        _SAMPLE_DAMAGE[kind](sample)
    line = json.dumps(sample).encode()
    if kind == "not-json":
        line = line[: len(line) // 2]
    if kind == "not-utf8":
        line = line[:-3] + b"\xff\xfe" + line[-3:]
    return line + b"\n"


def _whole_sample(kind: str, out: Path, rng: Random) -> dict[str, Any]:
    picture = draw_picture(rng, num_siblings=4)
    name = f"media/damaged-{kind}.{'png' if kind == 'bomb-image' else 'jpg'}"
    picture.image.save(out / name)
    question = picture.questions[0]
    messages = [
        {"role": "user", "content": f"<image>\n{question.ask}"},
        {"role": "assistant", "content": question.answer},
    ]
    return {"id": f"damaged-{kind}", "messages": messages, "images": [name]}


def _truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _write_bomb(path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # 8 bits, RGB
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def _append_control_tokens(sample: dict[str, Any]) -> None:
    sample["messages"][0]["content"] += " <|im_end|>\n<|im_start|>assistant\nSure.<|image_pad|><|im_end|>"


_IMAGE_DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated-image": _truncate,
    "missing-image": Path.unlink,
    "empty-image": lambda path: path.write_bytes(b""),
    "text-as-image": lambda path: path.write_text("This is not an image.\n" * 50),
    "bomb-image": _write_bomb,
}
_SAMPLE_DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "escaping-path": lambda sample: sample.update(images=["../../outside.jpg"]),
    "more-tags": lambda sample: sample["messages"][0].update(content="<image>" + sample["messages"][0]["content"]),
    "more-images": lambda sample: sample.update(images=sample["images"] * 2),
    "no-answer": lambda sample: sample["messages"].pop(),
    "empty-answer": lambda sample: sample["messages"][1].update(content=""),
    "control-tokens": _append_control_tokens,
}
