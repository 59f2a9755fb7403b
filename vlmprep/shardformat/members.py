"""One tensor to its tar member and back.

    key.<field>.npy        the array as it is
    key.<field>.npy.zst    one zstd frame around the .npy
    key.<field>.npy.lz4    one lz4 frame around the .npy

Pixel fields pass through `row_pairs` before a codec, or `patch_rows` where that is not defined; key.json says which member did.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmprep.shardformat import patch_rows, row_pairs
from vlmprep.shardformat.memory import pooled_empty
from vlmprep.shardformat.npy import header_bytes, parse_header
from vlmprep.shardformat.packinfo import MemberInfo

__all__ = [
    "COMPRESSIONS",
    "ENCODED",
    "PIXEL_FIELDS",
    "TRANSFORMS",
    "Compression",
    "decode_member",
    "describe_member",
    "encode_member",
    "split_suffix",
]

Compression: TypeAlias = Literal["zstd", "lz4", "none"]
COMPRESSIONS: tuple[Compression, ...] = ("zstd", "lz4", "none")
"""What `encode_member` offers."""

PIXEL_FIELDS = ("pixel_values", "pixel_values_videos", "pixel_values_local", "image_pixel_values")
"""Fields that hold pixels; as uint8 they are [patches, channels, height, width]."""

ENCODED = "encoded"
"""Field of a pack that holds original files instead of pixels: one after the other, [bytes] uint8; never compressed again."""

_ENDINGS: dict[Compression, str] = {"zstd": ".npy.zst", "lz4": ".npy.lz4", "none": ".npy"}

TRANSFORMS: dict[str, Any] = {row_pairs.ROW_PAIRS: row_pairs, patch_rows.PATCH_ROWS: patch_rows}
"""By name, in the order in which a writer tries them; each has `fits`, `stored_shape`, `forward` and `inverse`."""

_ZSTD_LEVEL = 1
_ZSTD_PIXELS = {"window_log": 20, "hash_log": 6, "chain_log": 6, "search_log": 1, "min_match": 7, "target_length": 0}
"""Level 1 with a tiny hash table: transformed pixels hardly repeat, so entropy coding does the work and looking for
matches only takes time.
Everything else repeats: positions are six times as large without matches."""

Array: TypeAlias = NDArray[Any]


def describe_member(field: str, array: Array, *, compression: Compression) -> MemberInfo:
    """What key.json says of a field that `encode_member` writes.

    Args:
        field: Name of the field.
        array: The field's value in natural order.
        compression: As given to `encode_member`.
    """
    transform = _transform_of(field, array, compression)
    shape = TRANSFORMS[transform].stored_shape(array.shape) if transform else array.shape
    return MemberInfo(
        dtype=array.dtype.name,
        shape=tuple(array.shape),
        transform=transform,
        npy_bytes=len(header_bytes(array.dtype, shape)) + array.nbytes,
    )


def encode_member(field: str, array: Array, *, compression: Compression) -> tuple[str, memoryview]:
    """Make a field's tar member.

    Args:
        field: Name of the field, without dots.
        array: The field's value in natural order, plain little-endian numbers; pixels as [patches, channels, height,
            width] uint8.
        compression: Codec around the .npy.

    Returns:
        What follows `key.` in the member's name, and the member's content.

    Raises:
        ValueError: The array has no place in a pack, such as one of objects.
    """
    compression = "none" if field == ENCODED else compression
    transform = _transform_of(field, array, compression)
    shape = TRANSFORMS[transform].stored_shape(array.shape) if transform else array.shape
    header = header_bytes(array.dtype, shape)
    npy = pooled_empty((len(header) + array.nbytes,))
    npy[: len(header)] = np.frombuffer(header, np.uint8)
    stored = npy[len(header) :].view(array.dtype).reshape(shape)
    if transform:
        TRANSFORMS[transform].forward(array, stored)
    else:
        stored[...] = array
    return field + _ENDINGS[compression], _compress(npy, compression, transformed=transform is not None)


def decode_member(suffix: str, data: memoryview, info: MemberInfo) -> tuple[str, Array]:
    """Read a tar member back.

    Args:
        suffix: What follows `key.` in the member's name.
        data: The member's content.
        info: What key.json says of this member.

    Returns:
        The field's name and its value in natural order: a view of `data` where nothing had to be undone, otherwise of
        new memory; transformed pixels are a strided view of the order that they are stored in.

    Raises:
        ValueError: The content is not what the suffix and `info` say.
    """
    field, compression = split_suffix(suffix)
    npy = data if compression == "none" else _decompress(data, compression, info.npy_bytes)
    dtype, shape, offset = parse_header(npy)
    array: Array = np.frombuffer(npy, dtype=dtype, offset=offset).reshape(shape)
    if info.transform in TRANSFORMS:
        array = TRANSFORMS[info.transform].inverse(array)
    elif info.transform is not None:
        raise ValueError(f"{field}: unknown transform {info.transform!r}; a newer vlmprep may know it")
    if array.dtype.name != info.dtype or array.shape != info.shape:
        raise ValueError(f"{field} is {array.dtype.name} {array.shape}, key.json says {info.dtype} {info.shape}")
    return field, array


def split_suffix(suffix: str) -> tuple[str, Compression]:
    """Field and codec that a member's suffix names.

    Raises:
        ValueError: It is no suffix of a tensor.
    """
    field, dot, ending = suffix.partition(".")
    for compression, known in _ENDINGS.items():
        if dot + ending == known:
            return field, compression
    raise ValueError(f"member .{suffix} is no tensor: expected one of {', '.join(_ENDINGS.values())}")


def _transform_of(field: str, array: Array, compression: Compression) -> str | None:
    """The first transform that is defined for a pixel field, before a codec."""
    if compression == "none" or field not in PIXEL_FIELDS:
        return None
    return next((name for name, transform in TRANSFORMS.items() if transform.fits(array)), None)


def _compress(npy: Array, compression: Compression, *, transformed: bool) -> memoryview:
    if compression == "none":
        return npy.data
    if compression == "zstd" and transformed:
        import zstandard  # writers alone need it: Arrow unpacks, but cannot be told how to pack

        parameters = zstandard.ZstdCompressionParameters(strategy=zstandard.STRATEGY_FAST, **_ZSTD_PIXELS)
        return memoryview(zstandard.ZstdCompressor(compression_params=parameters).compress(npy.data))
    codec = pa.Codec("zstd", compression_level=_ZSTD_LEVEL) if compression == "zstd" else pa.Codec(compression)
    # The slice has the buffer's final size; a view of the buffer itself keeps the length that it was allocated with.
    return memoryview(codec.compress(npy).slice()).cast("B")


def _decompress(data: memoryview, compression: Compression, npy_bytes: int) -> memoryview:
    """Unpack into memory of Arrow's pool, writable."""
    try:
        return memoryview(pa.Codec(compression).decompress(pa.py_buffer(data), npy_bytes)).cast("B")
    except (OSError, OverflowError, MemoryError) as error:
        raise ValueError(f"{compression} member does not unpack to {npy_bytes} bytes: {error}") from error
