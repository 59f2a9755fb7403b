"""The permutation that plans and epochs stand on."""

from __future__ import annotations

import numpy as np
import pytest

from vlmprep.schema import keyed_order as keyed
from vlmprep.schema.keyed_order import keyed_order


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_every_position_stands_once(n):
    order = keyed_order(n, 7)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_another_key_gives_another_order():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (-1,)]
    orders = {tuple(keyed_order(100, *key).tolist()) for key in keys}
    assert len(orders) == len(keys)


def test_keys_count_modulo_two_to_the_sixty_four():
    assert np.array_equal(keyed_order(100, -1), keyed_order(100, (1 << 64) - 1))


def test_the_order_is_the_one_that_published_plans_were_made_with():
    assert keyed_order(10, 3, 4).tolist() == _ordered_by_splitmix64(10, 3, 4)
    assert keyed_order(1000, 12345).tolist() == _ordered_by_splitmix64(1000, 12345)


@pytest.mark.parametrize("place_bits", [17, 40, 60, 63])
def test_outputs_that_agree_in_their_high_bits_stand_in_order_too(place_bits):
    # 63 bits for positions leave one bit of the outputs to sort by; more than a block of positions.
    order = keyed._by_output(100_000, 12345, place_bits)
    outputs = keyed._outputs(np.arange(100_000, dtype=np.uint64), 12345)
    assert len(keyed._ties(np.sort(outputs), np.uint64((1 << place_bits) - 1))) > (0 if place_bits > 30 else -1)
    assert np.array_equal(order, np.argsort(outputs))


def test_positions_are_spread_evenly():
    # The first tenth of an order should take about a tenth of every block of positions.
    counts = np.bincount(keyed_order(100_000, 5)[:10_000] // 10_000, minlength=10)
    assert abs(counts - 1000).max() < 150


def test_a_negative_length_is_refused():
    with pytest.raises(ValueError, match="-1"):
        keyed_order(-1)


def _ordered_by_splitmix64(n, *key):
    """SplitMix64 as published, in Python integers."""
    mask, gamma = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(word):
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
        return word ^ (word >> 31)

    assert mix(1234567 + gamma) == 6457827717110365317  # the published first output for seed 1234567
    state = 0
    for part in key:
        state = mix(((state ^ (part & mask)) + gamma) & mask)
    return sorted(range(n), key=lambda i: mix((state + (i + 1) * gamma) & mask))
