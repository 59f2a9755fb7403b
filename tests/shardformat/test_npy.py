from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vlmprep.shardformat.npy import header_bytes, parse_header

PLAIN = st.sampled_from(["bool", "uint8", "uint16", "int32", "int64", "float32", "float64"]).map(np.dtype)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(PLAIN, SHAPES)
def test_numpy_reads_what_we_write(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    header = header_bytes(dtype, shape)
    read = np.load(io.BytesIO(header + array.tobytes()), allow_pickle=False)
    assert (read.dtype, read.shape) == (dtype, shape)
    assert len(header) % 64 == 0


@given(PLAIN, SHAPES)
def test_we_read_what_numpy_writes(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros(shape, dtype))
    data = file.getvalue()
    found = parse_header(memoryview(data))
    assert found == (dtype, shape, len(data) - np.zeros(shape, dtype).nbytes)


def test_the_header_is_the_same_whatever_numpy_is_installed() -> None:
    header = header_bytes(np.dtype("int32"), (3, 8192))
    text = b"{'descr': '<i4', 'fortran_order': False, 'shape': (3, 8192), }"
    assert header == b"\x93NUMPY\x01\x00" + bytes([118, 0]) + text.ljust(117) + b"\n"


@pytest.mark.parametrize("dtype", ["O", ">i4", "U4", "datetime64[s]", "complex64", [("a", "i4")]])
def test_arrays_that_are_no_plain_numbers_are_not_written(dtype: Any) -> None:
    with pytest.raises(ValueError, match="plain little-endian numbers"):
        header_bytes(np.dtype(dtype), (1,))


def saved(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01",
        b"not an array at all",
        saved(np.array([{}]), allow_pickle=True),
        saved(np.asfortranarray(np.zeros((2, 3)))),
        saved(np.zeros(3, ">i4")),
        saved(np.zeros(3, "U4")),
        saved(np.zeros(3, "<c8")),
        saved(np.arange(4))[:-1],
        saved(np.arange(4)) + b"\0",
        saved(np.arange(4)).replace(b"'shape': (4,)", b"'shape': (9,)"),
        saved(np.arange(4)).replace(b"'shape': (4,)", b"'shape': (x,)"),
        saved(np.arange(4)).replace(b"'<i8'", b"'<i9'"),
    ],
)
def test_what_is_no_plain_array_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"npy|dtype|plain"):
        parse_header(memoryview(data))
