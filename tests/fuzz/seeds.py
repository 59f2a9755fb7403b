"""Whole media of every kind and format, which mutations begin with."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from tests.clips import X265, Recipe, clip, mp3, sound
from tests.sources.pictures import encode, pictures
from vlmprep.mediafiles.heif import teach_pillow_heif
from vlmprep.schema.conversation import MediaKind

__all__ = ["SEEDS", "seed_bytes"]

HEIGHT, WIDTH = 120, 90
"""Of a picture with enough in it that most bytes are pixels."""
UNSAFE = frozenset({"eps"})
"""Nothing is learned from a program for Ghostscript, which nobody calls."""


@functools.cache
def photograph(mode: str = "RGB") -> Image.Image:
    """A smooth picture with noise in it."""
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse).astype(np.int64) + rng.integers(-12, 12, (HEIGHT, WIDTH, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert(mode)


def _written(file_format: str, mode: str = "RGB", **options: Any) -> Callable[[], bytes]:
    return lambda: encode(photograph(mode), file_format, **options)


def _animated(file_format: str, **options: Any) -> Callable[[], bytes]:
    return lambda: encode(
        photograph(),
        file_format,
        save_all=True,
        append_images=[photograph().rotate(180), photograph().rotate(90)],
        **options,
    )


def _written_heif() -> bytes:
    """Where pillow-heif is missing, a file that nobody reads."""
    return encode(photograph(), "HEIF") if teach_pillow_heif() else b"\0\0\0\x18ftypheic" + bytes(400)


PHOTOGRAPHS: dict[str, Callable[[], bytes]] = {
    "jpeg": _written("JPEG"),
    "jpeg progressive": _written("JPEG", progressive=True),
    "jpeg 4:4:4": _written("JPEG", subsampling=0, quality=95),
    "jpeg gray": _written("JPEG", "L"),
    "jpeg CMYK": _written("JPEG", "CMYK"),
    "jpeg restarts": _written("JPEG", restart_marker_blocks=2),
    "mpo": _animated("MPO"),
    "png": _written("PNG"),
    "png RGBA": _written("PNG", "RGBA"),
    "png palette": _written("PNG", "P"),
    "png gray": _written("PNG", "L"),
    "png animated": _animated("PNG"),
    "gif": _written("GIF", "P"),
    "gif animated": _animated("GIF"),
    "webp": _written("WEBP"),
    "webp lossless": _written("WEBP", lossless=True),
    "webp RGBA": _written("WEBP", "RGBA"),
    "webp animated": _animated("WEBP"),
    "tiff": _written("TIFF"),
    "tiff lzw": _written("TIFF", compression="tiff_lzw"),
    "tiff deflate": _written("TIFF", compression="tiff_adobe_deflate"),
    "tiff jpeg": _written("TIFF", compression="jpeg"),
    "tiff group 4": _written("TIFF", "1", compression="group4"),
    "tiff pages": _animated("TIFF"),
    "bmp": _written("BMP"),
    "bmp palette": _written("BMP", "P"),
    "avif": _written("AVIF"),
    "avif animated": _animated("AVIF"),
    "jpeg 2000": _written("JPEG2000"),
    "ico": _written("ICO"),
    "ppm": _written("PPM"),
    "tga": _written("TGA", compression="tga_rle"),
    "pcx": _written("PCX"),
    "dds": _written("DDS"),
    "qoi": _written("QOI"),
    "sgi": _written("SGI"),
    "icns": lambda: encode(photograph().resize((128, 128)), "ICNS"),
    "spider": _written("SPIDER", "F"),
    "xbm": _written("XBM", "1"),
    "msp": _written("MSP", "1"),
    "im": _written("IM"),
    "dib": _written("DIB"),
    "blp": _written("BLP", "P"),
    "heif": _written_heif,
}
CLIPS: dict[str, Callable[[], bytes]] = {
    "mp4": functools.partial(clip, Recipe(num_frames=6)),
    "mp4 HEVC": functools.partial(clip, Recipe(num_frames=6, codec="libx265", options=X265)),
    "mp4 turned": functools.partial(clip, Recipe(num_frames=6, rotation=90)),
    "mp4 with sound": functools.partial(clip, Recipe(num_frames=6, sound="aac")),
    "webm": functools.partial(clip, Recipe(num_frames=6, container="webm", codec="libvpx-vp9")),
    "avi": functools.partial(clip, Recipe(num_frames=6, container="avi", codec="mpeg4")),
    "mkv": functools.partial(clip, Recipe(num_frames=6, container="matroska", codec="mjpeg", pixels="yuvj420p")),
    "gif as a clip": _animated("GIF"),
}
SOUNDS: dict[str, Callable[[], bytes]] = {
    "wav": sound,
    "wav stereo": functools.partial(sound, channels=2),
    "flac": functools.partial(sound, "FLAC"),
    "ogg": functools.partial(sound, "OGG"),
    "mp3": mp3,
    "mp3 without note": functools.partial(mp3, noted=False),
}
SEEDS: dict[MediaKind, dict[str, Callable[[], bytes]]] = {
    "image": {**PHOTOGRAPHS, **{name: make for name, make in pictures().items() if name not in UNSAFE}},
    "video": CLIPS,
    "audio": SOUNDS,
}
"""By kind and name."""


@functools.cache
def seed_bytes(kind: MediaKind, name: str) -> bytes:
    """A seed's file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SEEDS[kind][name]()
