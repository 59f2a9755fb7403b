"""How good a plan is, as one number: the predicted time of an epoch against one without any waste.

A step lasts as long as its heaviest rank. Part of its time goes to every place of the pack, filled or not, and part to the
work that is to be balanced. With `fill_weight` for the first part, an epoch takes

    fill_weight * packs / fewest packs possible  +  (1 - fill_weight) * mean of (max / mean over ranks)

times the ideal. The second mean is exact: the expected greatest of `RANKS` packs drawn at random.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RANKS", "epoch_time", "expected_straggler_ratio"]

RANKS = 64
"""Data-parallel ranks that plans are judged for."""


def epoch_time(weights: NDArray[Any], fewest_packs: float, fill_weight: float) -> float:
    """Predicted time of an epoch in units of the ideal: 1.0 is full and equal.

    Args:
        weights: [num_packs] work of every pack.
        fewest_packs: A lower bound of the number of packs.
        fill_weight: 0 to 1, the part of a step's time that is spent on places, filled or not.
    """
    return fill_weight * len(weights) / fewest_packs + (1 - fill_weight) * expected_straggler_ratio(weights)


def expected_straggler_ratio(weights: NDArray[Any], ranks: int = RANKS) -> float:
    """Expected greatest of some packs drawn at random, over the mean of all.

    The k-th lightest of m packs is the greatest of r drawn with probability (k/m)^r - ((k-1)/m)^r.

    Args:
        weights: [num_packs] work of every pack.
        ranks: How many are drawn.
    """
    total = float(weights.sum())
    if total == 0:
        return 1.0
    at_most = _power(np.arange(len(weights) + 1) / len(weights), ranks)
    return float((np.sort(weights) * np.diff(at_most)).sum() * len(weights) / total)


def _power(base: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    """By squaring: multiplications are the same on every machine, powers are not."""
    result = np.ones_like(base)
    while exponent:
        if exponent & 1:
            result *= base
        base = base * base
        exponent >>= 1
    return result
