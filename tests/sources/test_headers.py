"""Upright sizes from headers against what each loader of transformers makes of the same bytes."""

from __future__ import annotations

import io
import struct
import warnings
from collections import Counter
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from transformers import Qwen2VLImageProcessor, Qwen2VLImageProcessorPil

from tests.sources.pictures import HEIGHT, WIDTH, chunk, encode, exif_app1, jpeg, pictures, png, tiff_block
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import Loader
from vlmprep.sources.headers import upright_size
from vlmprep.sources.media import MediaReader

LOADERS: tuple[Loader, ...] = ("torchvision", "pil")
PICTURES = pictures()
BROKEN_PIXELS = ("jpeg without pixels", "gif header alone", "png from a telephone")
"""Found when they are packed: nothing is wrong with their headers."""
DAMAGEABLE = {
    "torchvision": ("jpeg", "webp", "mpo"),  # a damaged PNG ends the process in torchvision's decoder
    "pil": ("jpeg", "webp", "mpo", "png", "tiff", "avif", "bmp"),
}
UNSAFE = ("eps", "ico")
"""Never opened, though Pillow would."""

pytestmark = [
    pytest.mark.skipif(find_spec("torchcodec") is not None, reason="transformers then decodes with torchcodec"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@cache
def fetch_images(loader: Loader) -> Any:
    return {"torchvision": Qwen2VLImageProcessor, "pil": Qwen2VLImageProcessorPil}[loader]().fetch_images


@cache
def encoded(name: str) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PICTURES[name]()


def counted(name: str, loader: Loader) -> tuple[int, int] | str:
    """What the header says, or the code of the refusal."""
    try:
        size = MediaReader().image_size(Media(kind="image", content=encoded(name)), loader)
    except RefuseSample as refusal:
        return refusal.code
    return size.height, size.width


def loaded(name: str, loader: Loader, tmp_path: Any) -> tuple[int, int] | str:
    """What the loader makes of the file: a size, or why its result cannot be used."""
    path = tmp_path / "picture"
    path.write_bytes(encoded(name))
    try:
        image = fetch_images(loader)(str(path))
    except Exception as error:  # noqa: BLE001 - whatever it is, the loader failed
        return f"fails: {error!r:.80}"
    if isinstance(image, torch.Tensor):
        if image.ndim != 3:
            return "a clip"
        return (image.shape[1], image.shape[2]) if image.dtype == torch.uint8 else f"{image.dtype}"
    with Image.open(path) as source:
        deep = source.mode.startswith(("I", "F"))
    if deep and (np.asarray(image) == 255).mean() > 0.95:
        return "cut off at 255"
    return image.height, image.width


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", [name for name in PICTURES if name not in UNSAFE])
def test_a_header_gives_the_size_that_the_loader_gives(name, loader, tmp_path):
    ours, theirs = counted(name, loader), loaded(name, loader, tmp_path)
    if isinstance(theirs, str) and isinstance(ours, tuple):
        assert theirs.startswith("fails"), f"{theirs}, counted as {ours}"
        assert name in BROKEN_PIXELS, f"{theirs}, counted as {ours}"
    elif isinstance(theirs, str):
        assert isinstance(ours, str)
    else:
        assert ours == theirs, name


def test_the_pictures_are_of_every_kind():
    outcomes = {
        loader: Counter("refused" if isinstance(size := counted(name, loader), str) else size for name in PICTURES)
        for loader in LOADERS
    }
    for counts in outcomes.values():
        assert counts[HEIGHT, WIDTH] > 50
        assert counts[WIDTH, HEIGHT] > 20
        assert counts["refused"] > 5
    different = [name for name in PICTURES if counted(name, "pil") != counted(name, "torchvision")]
    assert len(different) > 50


@pytest.mark.parametrize(
    ("name", "loader", "code"),
    [
        ("animated gif", "torchvision", "animated-image"),
        ("animated webp", "torchvision", "animated-image"),
        ("webp clip of one frame", "torchvision", "animated-image"),
        ("bmp", "torchvision", "unread-format"),
        ("avif", "torchvision", "unread-format"),
        ("tiff 1", "torchvision", "unread-format"),
        ("png 16-bit gray", "torchvision", "high-bit-depth"),
        ("png 16-bit RGB", "torchvision", "high-bit-depth"),
        ("png 16-bit gray", "pil", "high-bit-depth"),
        ("tiff float", "pil", "high-bit-depth"),
        ("tiff 32-bit", "pil", "high-bit-depth"),
        ("eps", "pil", "unread-format"),
        ("ico", "pil", "unread-format"),
        ("text", "pil", "not-an-image"),
        ("text", "torchvision", "not-an-image"),
    ],
)
def test_a_refusal_says_of_what_kind_it_is(name, loader, code):
    assert counted(name, loader) == code


@pytest.mark.parametrize("loader", LOADERS)
def test_headers_are_read_without_decoding_a_pixel(loader, monkeypatch):
    usual = {name: counted(name, loader) for name in PICTURES}
    decoded: list[str] = []
    for kind in {Image.Image, ImageFile.ImageFile, *subclasses(Image.Image)}:
        for method in ("load", "load_prepare", "load_read", "load_end"):
            if method in vars(kind):
                monkeypatch.setattr(kind, method, lambda *_, kind=kind: decoded.append(kind.__name__))
    assert {name: counted(name, loader) for name in PICTURES} == usual
    assert not decoded


def subclasses(kind: type) -> set[type]:
    children: list[type] = kind.__subclasses__()
    return {kind, *(found for child in children for found in subclasses(child))}


class CountingFile(io.BytesIO):
    """Counts what is read of it."""

    num_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.num_read += len(data)
        return data


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF"])
def test_a_large_image_is_not_read_through(loader, file_format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8))
    file = CountingFile(encode(noise, file_format))
    with suppress(RefuseSample):  # torchvision reads no BMP and no TIFF
        assert upright_size(file, "it", loader, 10**9) == (700, 900)
    assert 0 < file.num_read < 10_000 < len(file.getvalue()) / 20


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("limit", "fits"), [(WIDTH * HEIGHT, True), (WIDTH * HEIGHT - 1, False)])
def test_the_limit_of_pixels_is_held_to_the_pixel(loader, limit, fits):
    reader, medium = MediaReader(max_image_pixels=limit), Media(kind="image", content=png())
    if fits:
        assert reader.image_size(medium, loader).width == WIDTH
    else:
        with pytest.raises(RefuseSample, match=f"{WIDTH} x {HEIGHT} pixels, above --max-image-pixels {limit}"):
            reader.image_size(medium, loader)


def test_a_bomb_is_refused_whoever_holds_the_limit(monkeypatch):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = png()[:8] + chunk(b"IHDR", header) + png()[33:]
    for pillows_limit in (None, 1_000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
        with pytest.raises(RefuseSample) as caught:
            MediaReader().image_size(Media(kind="image", content=bomb), "pil")
        assert caught.value.code == "image-too-large"


def test_an_orientation_that_is_no_number_turns_nothing():
    # Pillow finds the text "6", which is no key of its table; torchvision reads the bytes as a number.
    data = jpeg(exif_app1(tiff_block(6, kind=2)))
    assert MediaReader().image_size(Media(kind="image", content=data), "pil").height == HEIGHT


def test_what_decoders_mutter_about_a_header_stays_with_them(recwarn):
    for name in PICTURES:
        counted(name, "pil")
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("loader", LOADERS)
@settings(max_examples=300, derandomize=True)
@given(data=st.data())
def test_damaged_headers_are_refused_or_give_the_size_that_the_loader_gives(loader, data, tmp_path_factory):
    name = data.draw(st.sampled_from([name for name in PICTURES if name.startswith(DAMAGEABLE[loader])]))
    damaged = bytearray(encoded(name))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        size = MediaReader(max_image_pixels=100_000).image_size(Media(kind="image", content=bytes(damaged)), loader)
    except RefuseSample:
        return
    path = tmp_path_factory.mktemp("damaged", numbered=True) / "picture"
    path.write_bytes(damaged)
    try:
        image = fetch_images(loader)(str(path))
    except Exception:  # noqa: BLE001 - pixels that do not decode are found when they are packed
        return
    got = tuple(image.shape[-2:]) if isinstance(image, torch.Tensor) else (image.height, image.width)
    assert got == (size.height, size.width)
