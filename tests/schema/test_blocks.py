"""Large arrays worked on in pieces give what they give at once."""

from __future__ import annotations

import numpy as np
import pytest

from vlmprep.schema.blocks import _BLOCK, blocks, gather, place_type


@pytest.mark.parametrize("n", [0, 1, _BLOCK - 1, _BLOCK, _BLOCK + 1, 3 * _BLOCK])
def test_every_number_is_in_one_block(n):
    covered = np.zeros(n, np.uint8)
    for block in blocks(n):
        assert 0 < block.stop - block.start <= _BLOCK
        covered[block] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("n", [0, 5, 2 * _BLOCK + 3])
def test_what_is_gathered_is_what_indexing_gives(n):
    values = np.arange(7, dtype=np.float32) * 1.5
    places = (np.arange(n, dtype=np.int32) * 5) % 7
    gathered = gather(values, places)
    assert gathered.dtype == np.float32
    np.testing.assert_array_equal(gathered, values[places])


def test_places_take_four_bytes_as_long_as_they_fit():
    assert place_type(1 << 31) == np.int32
    assert np.iinfo(np.int32).max == (1 << 31) - 1
    assert place_type((1 << 31) + 1) == np.int64
