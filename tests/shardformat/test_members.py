from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vlmprep.shardformat.members import COMPRESSIONS, Compression, decode_member, describe_member, encode_member

ARRAYS = hnp.arrays(
    dtype=st.sampled_from(["bool", "uint8", "uint16", "int32", "int64", "float32"]),
    shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6),
)
PIXELS = hnp.arrays(dtype="uint8", shape=st.tuples(*map(st.integers, (0, 1, 1, 1), (5, 4, 5, 5))))


def unpacked(data: memoryview, compression: Compression) -> bytes:
    """The member's .npy, by stream: what other programs' decoders do."""
    if compression == "none":
        return bytes(data)
    stream = pa.input_stream(pa.BufferReader(data), compression=compression)
    content: bytes = stream.read()
    return content


def picture(patches: int) -> np.ndarray:
    """[patches, 3, 14, 14] uint8 of a smooth picture with some noise, as photographs are."""
    rng = np.random.default_rng(0)
    rows = np.add.outer(np.arange(14) * 3.0, np.arange(14) * 2.0)
    brightness = rng.uniform(20, 160, (patches, 1, 1, 1))
    pixels: np.ndarray = np.clip(brightness + rows + rng.normal(0, 1, (patches, 3, 14, 14)), 0, 255).astype(np.uint8)
    return pixels


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(array=ARRAYS)
def test_every_array_comes_back(compression: Compression, array: np.ndarray) -> None:
    suffix, data = encode_member("labels", array, compression=compression)
    info = describe_member("labels", array, compression=compression)
    field, decoded = decode_member(suffix, data, info)
    assert field == "labels"
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(array=PIXELS)
def test_pixels_come_back_in_natural_order(compression: Compression, array: np.ndarray) -> None:
    suffix, data = encode_member("pixel_values", array, compression=compression)
    info = describe_member("pixel_values", array, compression=compression)
    transformed = compression != "none" and array.size > 0 and array.shape[1] == 3
    in_pairs = array.shape[2] % 2 == 0 and array.shape[0] * array.shape[3] % 8 == 0
    assert info.transform == (("row_pairs" if in_pairs else "patch_rows") if transformed else None)
    np.testing.assert_array_equal(decode_member(suffix, data, info)[1], array)


@pytest.mark.parametrize(("compression", "ending"), [("none", ".npy"), ("zstd", ".npy.zst"), ("lz4", ".npy.lz4")])
def test_a_member_is_an_npy_in_one_frame(compression: Compression, ending: str) -> None:
    array = np.arange(300, dtype=np.int32).reshape(3, 100)
    suffix, data = encode_member("position_ids", array, compression=compression)
    npy = unpacked(data, compression)
    assert suffix == "position_ids" + ending
    assert len(npy) == describe_member("position_ids", array, compression=compression).npy_bytes
    np.testing.assert_array_equal(np.load(io.BytesIO(npy), allow_pickle=False), array)


def test_plain_members_are_read_without_a_copy() -> None:
    array = np.arange(1000, dtype=np.int32)
    suffix, data = encode_member("labels", array, compression="none")
    decoded = decode_member(suffix, data, describe_member("labels", array, compression="none"))[1]
    assert np.shares_memory(decoded, np.frombuffer(data, np.uint8))


def test_transformed_pixels_are_a_view_of_the_unpacked_planes() -> None:
    pixels = picture(40)
    suffix, data = encode_member("pixel_values", pixels, compression="zstd")
    decoded = decode_member(suffix, data, describe_member("pixel_values", pixels, compression="zstd"))[1]
    assert decoded.transpose(2, 1, 0, 3).flags.c_contiguous


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_the_transform_makes_pictures_smaller(compression: Compression) -> None:
    pixels = picture(400)
    natural = len(encode_member("others", pixels, compression=compression)[1])
    transformed = len(encode_member("pixel_values", pixels, compression=compression)[1])
    assert transformed < 0.9 * natural


def test_positions_cost_next_to_nothing() -> None:
    positions = np.tile(np.concatenate([np.arange(length) for length in (900, 2100, 700)]), (3, 1)).astype(np.int32)
    assert len(encode_member("position_ids", positions, compression="zstd")[1]) < 0.2 * positions.nbytes


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_memory_order_does_not_matter(compression: Compression) -> None:
    pixels = picture(20)
    strided = np.asfortranarray(pixels)
    assert strided.strides != pixels.strides
    plain = encode_member("pixel_values", pixels, compression=compression)
    assert encode_member("pixel_values", strided, compression=compression) == plain


def test_objects_are_not_stored() -> None:
    with pytest.raises(ValueError, match="plain little-endian numbers"):
        encode_member("labels", np.array([{}]), compression="zstd")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_content_that_contradicts_its_description_is_refused(compression: Compression) -> None:
    array = np.arange(24, dtype=np.int32).reshape(2, 12)
    suffix, data = encode_member("labels", array, compression=compression)
    info = describe_member("labels", array, compression=compression)
    for wrong in (
        replace(info, shape=(12, 2)),
        replace(info, dtype="uint32"),
        replace(info, transform="rot13"),
        *([replace(info, npy_bytes=info.npy_bytes + n) for n in (-1, 1)] if compression != "none" else []),
    ):
        with pytest.raises(ValueError, match=r"labels|unpack|npy"):
            decode_member(suffix, data, wrong)
    with pytest.raises(ValueError, match=r"unpack|npy"):
        decode_member(suffix, data[:-3], info)


@pytest.mark.parametrize("suffix", ["labels", "labels.pyd", "labels.npy.gz", "txt", ""])
def test_unknown_suffixes_are_refused(suffix: str) -> None:
    info = describe_member("labels", np.zeros(1), compression="none")
    with pytest.raises(ValueError, match="is no tensor"):
        decode_member(suffix, memoryview(b""), info)


def test_a_transform_on_something_that_has_none_is_refused() -> None:
    array = np.arange(6, dtype=np.int32)
    suffix, data = encode_member("labels", array, compression="zstd")
    info = replace(describe_member("labels", array, compression="zstd"), transform="patch_rows")
    with pytest.raises(ValueError, match="patch_rows"):
        decode_member(suffix, data, info)
