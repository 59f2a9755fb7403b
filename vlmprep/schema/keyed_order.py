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
    outputs = np.arange(1, n + 1, dtype=np.uint64)
    outputs *= np.uint64(_GOLDEN_GAMMA)
    outputs += np.uint64(state)
    _mix_in_place(outputs)
    return np.argsort(outputs).astype(np.int64, copy=False)


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
