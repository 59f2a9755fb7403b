"""A permutation that is a pure function of its key, the same on every machine and under every NumPy version.

Position `i` gets the `i`-th output of SplitMix64 started at a state that the key was folded into; the permutation lists
the positions by rising output. SplitMix64's finalizer is a bijection of 64-bit words and the states are distinct, so no
two outputs are equal and the order does not depend on the sorting algorithm.

Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (finalizer: Stafford's Mix13).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["keyed_order"]

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_BLOCK = 1 << 16
"""Positions worked on at a time: few enough to stay near."""


def keyed_order(n: int, *key: int) -> NDArray[np.int64]:
    """Shuffle 0..n-1 by a key.

    Args:
        n: How many positions, at least 0.
        key: Any integers, taken modulo 2**64; their order and number matter (`seed, epoch`).

    Returns:
        [n] int64, every number of 0..n-1 once.
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    state = 0
    for part in key:
        state = _mix((state ^ (int(part) & _MASK)) + _GOLDEN_GAMMA & _MASK)
    return _by_output(n, state, max(n - 1, 1).bit_length())


def _by_output(n: int, state: int, place_bits: int) -> NDArray[np.int64]:
    """[n] positions by rising output: a word of an output's high bits and its position is sorted where it lies.

    Half the time and memory of an argsort. The few outputs that agree in their high bits are then put in order.

    Args:
        n: How many positions.
        state: That the key was folded into.
        place_bits: Low bits of a word, that hold the position.
    """
    words = np.empty(n, np.uint64)
    low = np.uint64((1 << place_bits) - 1)
    for start in range(0, n, _BLOCK):
        places = np.arange(start, min(start + _BLOCK, n), dtype=np.uint64)
        words[start : start + _BLOCK] = _outputs(places, state) & ~low | places
    words.sort()
    ties = _ties(words, low)
    words &= low
    order = words.view(np.int64)
    order[ties] = order[ties][np.argsort(_outputs(words[ties], state))]
    return order


def _ties(words: NDArray[np.uint64], low: np.uint64) -> NDArray[np.int64]:
    """[ties] rising places of sorted words that agree with a neighbour in all but their low bits."""
    first = [np.zeros(0, np.int64)]
    for start in range(0, len(words) - 1, _BLOCK):
        part = words[start : start + _BLOCK + 1]
        first.append(start + np.flatnonzero(part[1:] ^ part[:-1] <= low))
    places = np.concatenate(first)
    return np.union1d(places, places + 1)


def _outputs(places: NDArray[np.uint64], state: int) -> NDArray[np.uint64]:
    """The outputs of some positions."""
    outputs = places + np.uint64(1)
    outputs *= np.uint64(_GOLDEN_GAMMA)
    outputs += np.uint64(state)
    _mix_in_place(outputs)
    return outputs


def _mix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _MASK
    return word ^ (word >> 31)


def _mix_in_place(words: NDArray[np.uint64]) -> None:
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
