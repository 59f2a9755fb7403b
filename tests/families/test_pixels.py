"""Stored levels and the rule that restores them against the processor's own pixel values, bit for bit."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.families.truth import AN_IMAGE, BACKENDS, FAMILIES, full_run, make_family, sample_of, write_image
from tests.sources.pictures import chunk, encode, exif_app1, jpeg, pictures, png, tiff_block, xmp, xmp_app1
from tests.sources.web import serve
from vlmprep.runtime.pixels import restore
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.media import MediaReader

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

SMALL = 60_000


def noise(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Every level, smooth and rough."""
    rng = np.random.default_rng(height * 10_000 + width)
    ramp = np.add.outer(np.linspace(0, 128, height), np.linspace(0, 127, width))[..., None]
    levels = (ramp + rng.integers(-60, 60, (height, width, 3))) % 256
    return Image.fromarray(levels.astype(np.uint8)).convert(mode)


def lossless(height: int, width: int) -> bytes:
    return encode(noise(height, width), "PNG")


SIZES = [
    (1, 1), (1, 200), (200, 1), (13, 17), (28, 28), (56, 56), (64, 64), (61, 203), (84, 112), (112, 84), (140, 196), (150, 333),
    (224, 224), (256, 256), (257, 255), (300, 199), (96, 900), (480, 640), (640, 427), (31, 1_000),
]  # fmt: skip
IMAGES: dict[str, Callable[[], bytes]] = {
    f"{height} x {width}": lambda height=height, width=width: lossless(height, width) for height, width in SIZES
} | {
    "jpeg": lambda: encode(noise(300, 400), "JPEG", quality=88),
    "jpeg sideways": lambda: jpeg(exif_app1(tiff_block(6))),
    "jpeg mirrored": lambda: jpeg(exif_app1(tiff_block(4))),
    "jpeg sideways by xmp": lambda: jpeg(xmp_app1(xmp(8))),
    "jpeg gray": lambda: encode(noise(90, 120, "L"), "JPEG"),
    "jpeg CMYK": lambda: encode(noise(90, 120, "CMYK"), "JPEG"),
    "png palette": lambda: encode(noise(90, 120, "P"), "PNG"),
    "png transparent": lambda: encode(noise(90, 120, "RGBA"), "PNG"),
    "png gray": lambda: encode(noise(90, 120, "L"), "PNG"),
    "png 1-bit": lambda: encode(noise(90, 120, "1"), "PNG"),
    "png 4-bit": lambda: png(depth=4, colour=0),
    "png sideways": lambda: png(before=chunk(b"eXIf", tiff_block(5))),
    "png sideways late": lambda: png(after=chunk(b"eXIf", tiff_block(7))),
    "webp": lambda: encode(noise(90, 120), "WEBP"),
    "webp transparent": lambda: encode(noise(90, 120, "RGBA"), "WEBP", lossless=True),
    "gif": lambda: encode(noise(90, 120), "GIF"),
}


@pytest.mark.parametrize("inside_the_row", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_are_the_processors_to_the_bit(name, backend, inside_the_row, processor_dir, tmp_path):
    family = make_family(processor_dir, name, backend, SMALL)
    rule = family.pixel_rules()["pixel_values"]
    levels: set[int] = set()
    for title, make in IMAGES.items():
        on_disk = write_image(tmp_path / "image", make())
        medium = Media(kind="image", content=make()) if inside_the_row else on_disk
        tensors = family.tensors(family.load(medium), AN_IMAGE)
        truth = full_run(family, sample_of(("user", [on_disk])))
        stored = tensors["pixel_values"]
        assert stored.dtype == np.uint8
        restored = restore(torch.from_numpy(stored), rule).numpy()
        assert restored.dtype == truth["pixel_values"].dtype == np.float32
        assert restored.shape == truth["pixel_values"].shape, title
        assert (restored.view(np.uint32) == truth["pixel_values"].view(np.uint32)).all(), title
        assert tensors["image_grid_thw"].tolist() == truth["image_grid_thw"].tolist(), title
        size = MediaReader().size(medium, family.loader)
        assert family.measure([size])[0].inputs["image_grid_thw"].tolist() == truth["image_grid_thw"].tolist(), title
        levels.update(np.unique(stored).tolist())
    assert levels == set(range(256))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_two_backends_are_told_apart(name, processor_dir):
    families = [make_family(processor_dir, name, backend, SMALL) for backend in BACKENDS]
    medium = Media(kind="image", content=lossless(61, 203))
    one, other = (family.tensors(family.load(medium), AN_IMAGE)["pixel_values"] for family in families)
    assert not np.array_equal(one, other)
    assert [family.pixel_rules()["pixel_values"].arithmetic for family in families] == ["fused", "two_step"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_settings_of_arithmetic_reach_the_rule(backend, processor_dir, tmp_path):
    options = (("image_mean", (0.1, 0.2, 0.3)), ("image_std", (0.9, 0.7, 0.6)), ("rescale_factor", 1 / 200))
    family = make_family(processor_dir, "qwen2_vl", backend, SMALL, options=options)
    medium = write_image(tmp_path / "image", lossless(64, 96))
    stored = family.tensors(family.load(medium), AN_IMAGE)["pixel_values"]
    truth = full_run(family, sample_of(("user", [medium])))["pixel_values"]
    restored = restore(torch.from_numpy(stored), family.pixel_rules()["pixel_values"]).numpy()
    assert np.array_equal(restored, truth)
    plain = restore(
        torch.from_numpy(stored), make_family(processor_dir, "qwen2_vl", backend).pixel_rules()["pixel_values"]
    )
    assert not np.array_equal(plain.numpy(), truth)


PNGS = {name: make for name, make in pictures().items() if "png" in name}


def test_every_png_gives_the_levels_of_torchvisions_decoder(processor_dir, tmp_path):
    family = make_family(processor_dir, "qwen2_vl", "torchvision")
    fetch = family.processor.image_processor.fetch_images
    compared = 0
    for title, make in PNGS.items():
        if title == "png from a telephone":  # torchvision does not read what need not be read
            continue
        medium = write_image(tmp_path / "image", make())
        try:
            expected = fetch(medium.location)
        except RuntimeError:
            with pytest.raises(RefuseSample):
                family.load(medium)
            continue
        found = family.load(medium)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected), title
        compared += 1
    assert compared > 60


CRASH = """
import base64
import torch
from tests.sources.pictures import png
from torchvision.io import ImageReadMode, decode_image
from vlmprep.families.media.images import load_image
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample

class Processor:  # of which only the loader matters; importing a real one takes its time
    backend = "torchvision"

    def fetch_images(self, uri):
        content = bytearray(base64.b64decode(uri.split(",")[1]))
        return decode_image(torch.frombuffer(content, dtype=torch.uint8), mode=ImageReadMode.RGB)

damaged = bytearray(png())
damaged[len(damaged) // 2] ^= 255
try:
    load_image(Processor(), Media(kind="image", content=bytes(damaged)))
except RefuseSample as refusal:
    print(refusal.code)
"""


def test_a_png_with_one_wrong_byte_does_not_end_the_process():
    # In a process of its own: torchvision's decoder would take this one with it.
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout.strip()) == (0, "undecodable-media"), done.stderr


def test_a_png_whose_checksum_alone_is_wrong_is_refused(processor_dir):
    # Its levels may be right or wrong: torchvision's decoder does not go on either.
    family = make_family(processor_dir, "qwen2_vl", "torchvision")
    data = bytearray(png(num_data_chunks=3))
    data[data.index(b"IDAT", data.index(b"IDAT") + 4) - 5] ^= 1
    with pytest.raises(RefuseSample, match="checksum"):
        family.load(Media(kind="image", content=bytes(data)))


def without_checksums(data: bytes) -> bytes:
    """The same PNG with right checksums over whatever its chunks hold."""
    found, at = data[:8], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 8 : at + 8 + size]
        found += data[at : at + 8] + body + zlib.crc32(data[at + 4 : at + 8] + body).to_bytes(4, "big")
        at += 12 + size
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=200, derandomize=True)
@given(data=st.data())
def test_damaged_images_load_or_are_refused(backend, data, processor_dir):
    family = make_family(processor_dir, "qwen2_vl", backend, SMALL)
    name = data.draw(
        st.sampled_from(["png sideways", "png palette", "png 4-bit", "13 x 17", "jpeg", "jpeg gray", "webp"])
    )
    damaged = bytearray(IMAGES[name]())
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(1, len(damaged)))]
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    content = without_checksums(bytes(damaged)) if data.draw(st.booleans()) and "png" in name else bytes(damaged)
    medium = Media(kind="image", content=content)
    try:
        size = MediaReader(max_image_pixels=200_000).size(medium, family.loader)
        (count,) = family.measure([size])
        tensors = family.tensors(family.load(medium), AN_IMAGE)
    except RefuseSample:
        return
    assert tensors["image_grid_thw"].tolist() == count.inputs["image_grid_thw"].tolist()
    assert tensors["pixel_values"].shape[0] == count.num_patches


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "content", [b"", b"text", b"\xff\xd8\xff", lossless(90, 120)[:2_000], encode(noise(90, 120), "JPEG")[:2_000]]
)
def test_what_does_not_decode_is_refused(content, backend, processor_dir, tmp_path):
    family = make_family(processor_dir, "qwen2_5_vl", backend, SMALL)
    for medium in (Media(kind="image", content=content), write_image(tmp_path / "image", content)):
        with pytest.raises(RefuseSample) as caught:
            family.load(medium)
        assert caught.value.code == "undecodable-media"
        assert len(caught.value.reason) < 600


@pytest.mark.parametrize("backend", BACKENDS)
def test_places_without_an_image_are_refused(backend, processor_dir, tmp_path):
    family = make_family(processor_dir, "qwen2_5_vl", backend, SMALL)
    for place in (
        tmp_path / "none",
        tmp_path,
        "/dev/null",
        "http://127.0.0.1:9/a.png",
        "nonsense://b/a",
        "http://[b/a",
    ):
        with pytest.raises(RefuseSample, match="does not decode"):
            family.load(Media(kind="image", location=str(place)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_an_image_in_another_file_system_loads(file_format, backend, processor_dir):
    import fsspec

    family = make_family(processor_dir, "qwen2_5_vl", backend, SMALL)
    content = encode(noise(40, 50), file_format)
    with fsspec.open("memory://media/image", "wb") as file:
        file.write(content)
    found = family.tensors(family.load(Media(kind="image", location="memory://media/image")), AN_IMAGE)
    here = family.tensors(family.load(Media(kind="image", content=content)), AN_IMAGE)
    assert np.array_equal(found["pixel_values"], here["pixel_values"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_on_the_web_loads(backend, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", backend, SMALL)
    with serve() as address:
        found = family.tensors(family.load(Media(kind="image", location=f"{address}/a.png")), AN_IMAGE)
        with pytest.raises(RefuseSample, match="404"):
            family.load(Media(kind="image", location=f"{address}/b.png"))
    here = family.tensors(family.load(Media(kind="image", content=png())), AN_IMAGE)
    assert np.array_equal(found["pixel_values"], here["pixel_values"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_decoded_images_of_a_refused_shape_are_refused(backend, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", backend, SMALL)
    for shape in ((1, 300), (300, 1)):
        decoded = family.load(Media(kind="image", content=encode(noise(*shape), "PNG")))
        with pytest.raises(RefuseSample, match="aspect ratio"):
            family.tensors(decoded, AN_IMAGE)


def test_levels_deeper_than_eight_bits_are_refused(processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL)
    deep = torch.full((3, 56, 56), 40_000, dtype=torch.int32)
    with pytest.raises(RefuseSample) as caught:
        family.tensors(deep, AN_IMAGE)
    assert caught.value.code == "not-eight-bit"
