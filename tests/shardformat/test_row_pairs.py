"""The transform `row_pairs`: every level comes back, over the borders of its blocks, from either memory order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprep.shardformat import row_pairs

SHAPES = [(4, 3, 14, 14), (8, 3, 2, 1), (52, 3, 28, 14), (1, 3, 56, 56), (10_000, 3, 2, 14), (10_001, 3, 4, 16)]


def there_and_back(natural: np.ndarray) -> np.ndarray:
    stored = np.empty(row_pairs.stored_shape(natural.shape), dtype=np.uint8)
    row_pairs.forward(natural, stored)
    return row_pairs.inverse(stored)


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_come_back(shape: tuple[int, ...]) -> None:
    natural = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert row_pairs.fits(natural)
    in_planes = np.ascontiguousarray(natural.transpose(2, 1, 0, 3)).transpose(2, 1, 0, 3)
    for pixels in (natural, in_planes):
        found = there_and_back(pixels)
        np.testing.assert_array_equal(found, natural)
        assert found.flags.writeable


@given(levels=st.binary(min_size=48, max_size=48))
def test_any_levels_come_back(levels: bytes) -> None:
    natural = np.frombuffer(levels, dtype=np.uint8).reshape(2, 3, 2, 4)
    np.testing.assert_array_equal(there_and_back(natural), natural)


def test_even_pixels_make_zeros_of_half_of_the_bytes() -> None:
    natural = np.full((64, 3, 14, 14), 7, dtype=np.uint8)
    stored = np.empty(row_pairs.stored_shape(natural.shape), dtype=np.uint8)
    row_pairs.forward(natural, stored)
    assert not stored[0].any()


@pytest.mark.parametrize("shape", [(7, 3, 14, 14), (4, 3, 15, 14), (4, 1, 14, 14), (0, 3, 14, 14), (4, 3, 14)])
def test_other_arrays_do_not_fit(shape: tuple[int, ...]) -> None:
    assert not row_pairs.fits(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize(
    "shape", [(2, 7, 3, 7, 1), (14, 3, 8, 14), (3, 7, 3, 8, 14), (2, 7, 1, 8, 14), (2, 0, 3, 8, 1)]
)
def test_what_it_never_makes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="row_pairs makes"):
        row_pairs.inverse(np.zeros(shape, dtype=np.uint8))
