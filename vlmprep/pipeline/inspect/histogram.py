"""Histograms of whole numbers, binned the way that people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram", "doubling_edges", "doubling_histogram", "even_histogram", "filling_histogram"]

MAX_BINS = 10
CLIPPED_PERCENT = 1
"""Share of the values at either end that does not stretch the bins; it is gathered in one wide bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How values spread; bin `i` counts those from `edges[i]` to `edges[i + 1] - 1`."""

    num_values: int
    least: int
    median: float
    mean: float
    greatest: int
    edges: tuple[int, ...]
    """[num_bins + 1], rising; empty without values."""
    counts: tuple[int, ...]
    """[num_bins]"""


def even_histogram(values: NDArray[Any]) -> Histogram:
    """Bins of one round width over nearly all values, and a wide one at either end for outliers.

    Args:
        values: [n] integers, at least 0.
    """
    if not len(values):
        return _histogram(values, [])
    low, high = (int(np.percentile(values, at, method="nearest")) for at in (CLIPPED_PERCENT, 100 - CLIPPED_PERCENT))
    width = round_width((high - low + 1) / MAX_BINS)
    edges = list(range(low // width * width, high + width, width))
    if edges[-1] <= high:
        edges.append(edges[-1] + width)
    least, greatest = int(values.min()), int(values.max())
    before = [least] if least < edges[0] else []
    behind = [greatest + 1] if greatest >= edges[-1] else []
    return _histogram(values, [*before, *edges, *behind])


def filling_histogram(values: NDArray[Any], capacity: int) -> Histogram:
    """Bins that get finer towards a capacity that the values come close to: what is left is 0, 1-3, 4-15, 16-63, ...

    Args:
        values: [n] integers, 0..capacity.
        capacity: The greatest that a value can be.
    """
    edges, left = [capacity + 1], 1
    least = int(values.min(initial=capacity))
    while edges[-1] > least:
        edges.append(max(least, capacity + 1 - left))
        left *= 4
    return _histogram(values, edges[::-1])


def doubling_histogram(values: NDArray[Any], edges: Sequence[int]) -> Histogram:
    """Bins that double in width, for lengths that span orders of magnitude.

    Args:
        values: [n] integers.
        edges: As `doubling_edges` makes them of these values, or of more.
    """
    return _histogram(values, edges)


def doubling_edges(values: NDArray[Any]) -> list[int]:
    """Powers of two around all values, which are at least 0; 0 stands before 1."""
    if not len(values):
        return []
    least, greatest = int(values.min()), int(values.max())
    first = least.bit_length() - 1
    return [1 << power if power >= 0 else 0 for power in range(first, greatest.bit_length() + 1)]


def round_width(width: float) -> int:
    """The least of 1, 2, 5, 10, 20, 50, ... that is at least `width`."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= width:
                return factor * step
        step *= 10


def _histogram(values: NDArray[Any], edges: Sequence[int]) -> Histogram:
    if not len(values):
        return Histogram(num_values=0, least=0, median=0.0, mean=0.0, greatest=0, edges=(), counts=())
    bins = np.searchsorted(np.asarray(edges), values, side="right") - 1
    assert bins.min() >= 0, "every value has a bin"
    counts = np.bincount(bins, minlength=len(edges) - 1)
    assert len(counts) == len(edges) - 1, "every value has a bin"
    return Histogram(
        num_values=len(values),
        least=int(values.min()),
        median=float(np.median(values)),
        mean=float(values.mean()),
        greatest=int(values.max()),
        edges=tuple(int(edge) for edge in edges),
        counts=tuple(counts.tolist()),
    )
