"""Which packs share a step: packs of a shuffled epoch, reordered so that those of one step have nearly equal work.

Where single samples nearly fill a pack, packing cannot make packs equal, and at every step all ranks wait for the heaviest pack.
But a step only needs packs that are equal to each other:

    seeded shuffle      | 5 9 1 | 2 8 4 | 9 1 2 | 6 4 8 |  7     work of 13 packs, 3 a step; the last one fills no step
    sorted in windows   | 1 1 2 | 2 4 4 | 5 6 8 | 8 9 9 |  7     here one window; equal packs stay as they were shuffled
    steps shuffled      | 5 8 6 | 1 1 2 | 9 9 8 | 2 4 4 |  7     and inside a step, packs stand as they were shuffled

The shuffle comes first, so a window is a fair draw of the epoch, and so are the packs that fill no step. Of several orders of
the steps, the one is taken whose work is least correlated with its place (Morgan, Rubin, "Rerandomization to improve covariate
balance in experiments", Annals of Statistics 40, 2012): by chance alone, an epoch of few steps may run from light to heavy.
Transformers' length-grouped sampler (`group_by_length`) sorts windows of 50 batches in the same way, by length.

All sums and comparisons are of integers, so the order is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.blocks import Integers, blocks, place_type
from vlmprep.schema.keyed_order import keyed_order

__all__ = ["WINDOW_STEPS", "step_order"]

WINDOW_STEPS = 32
"""Steps of a window, or a few more; an epoch of fewer is one window. The longer windows are, the more equal are steps, and the
more often the same packs meet from epoch to epoch."""

_ONE = 1 << 16
"""The mean of all packs' work as an integer."""
_EQUAL = _ONE // 100
"""A hundredth of the mean: packs that fall into the same one count as equal."""

_AT_A_TIME = 1 << 18
"""Packs that are sorted at a time, or a window's."""

_MOST_DRAWS = 256
_MOST_DRAWN_STEPS = 1 << 18
"""Orders of the steps to choose from, and how long they may be together: many steps need no choice."""


def step_order(work: NDArray[Any], *key: int, global_batch: int) -> Integers:
    """Reorder shuffled packs so that every `global_batch` of them in a row, a step, have nearly equal work.

    Args:
        work: [num_packs] of any unit, finite and at least 0, in a shuffled order of the packs.
        key: Any integers, as `keyed_order` takes them (`seed, epoch`), of the order of the steps.
        global_batch: Packs of a step, over all ranks.

    Returns:
        [num_packs] int32, int64 beyond 2^31: every place of 0..num_packs-1 once; the last places, which fill no step, stay
        where they are. All do where all packs are equal, and with one pack a step.

    Raises:
        ValueError: Some work is negative or not finite, or `global_batch` is below 1.
    """
    if global_batch < 1:
        raise ValueError(f"global_batch must be at least 1, got {global_batch}")
    as_integers = _integers_of(work)
    num_steps = len(work) // global_batch
    order = np.arange(len(work), dtype=place_type(len(work)))
    if global_batch == 1 or num_steps < 2 or np.ptp(as_integers(np.array([work.min(), work.max()]))) < _EQUAL:
        return order
    windows = _windows(num_steps)
    steps = order[: num_steps * global_batch].reshape(num_steps, global_batch)
    totals = _sort_by_work(steps, as_integers, work, windows)
    steps[:] = steps[_shuffled_steps(totals, windows, key)]
    steps.sort(axis=1)
    return order


def _integers_of(work: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[np.int64]]:
    """What turns work into integers, in units of which the mean of all has `_ONE`."""
    most = float(work.max(initial=0)) or 1.0
    if not (np.isfinite(most) and work.min(initial=0) >= 0):
        raise ValueError("the work of every pack must be finite and at least 0")

    def parts(some: NDArray[Any]) -> NDArray[np.int64]:
        return (some / most * 2.0**32).astype(np.int64)  # which is the same everywhere; what follows is exact

    total = sum(int(parts(work[block]).sum()) for block in blocks(len(work)))
    mean = max(total // max(len(work), 1), 1)
    return lambda some: parts(some) * _ONE // mean


def _windows(num_steps: int) -> NDArray[np.int64]:
    """[num_steps] the window of every step: as equally long as can be."""
    return np.arange(num_steps) * max(num_steps // WINDOW_STEPS, 1) // num_steps


def _sort_by_work(
    steps: Integers,
    as_integers: Callable[[NDArray[Any]], NDArray[np.int64]],
    work: NDArray[Any],
    windows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Sort packs by work inside each window, some windows at a time; where it is equal, they stay as they stand.

    Args:
        steps: [num_steps, global_batch] places of packs as they stand; they are sorted here.
        as_integers: What makes work comparable.
        work: [num_packs].
        windows: [num_steps] window of each step, rising.

    Returns:
        [num_steps] work of each step.
    """
    num_steps, global_batch = steps.shape
    totals = np.empty(num_steps, np.int64)
    at_once = max(_AT_A_TIME // (WINDOW_STEPS * global_batch), 1)
    borders = np.searchsorted(windows, np.arange(0, windows[-1] + 1, at_once)).tolist()
    for start, stop in pairwise([*borders, num_steps]):
        integers = as_integers(work[start * global_batch : stop * global_batch])
        levels = (integers // _EQUAL).reshape(-1, global_batch)
        levels += ((windows[start:stop] - windows[start]) * (int(levels.max()) + 1))[:, None]
        order = np.argsort(levels.ravel(), kind="stable").reshape(-1, global_batch)
        totals[start:stop] = integers[order].sum(axis=1)
        steps[start:stop] = order + start * global_batch
    return totals


def _shuffled_steps(totals: NDArray[np.int64], windows: NDArray[np.int64], key: tuple[int, ...]) -> NDArray[np.int64]:
    """Shuffle the windows, and the steps inside each.

    Args:
        totals: [num_steps] work of each step.
        windows: [num_steps] window of each, rising.
        key: Of the epoch.

    Returns:
        [num_steps] the steps in their new order: of several draws, the one in which work is least correlated with place.
    """
    num_steps, num_windows = len(totals), int(windows[-1]) + 1
    from_middle = 2 * np.arange(num_steps) - (num_steps - 1)
    best, least = np.arange(num_steps), np.iinfo(np.int64).max
    for draw in range(min(max(_MOST_DRAWN_STEPS // num_steps, 1), _MOST_DRAWS)):
        steps = keyed_order(num_steps, *key, draw, 0)
        if num_windows > 1:
            place_of_window = keyed_order(num_windows, *key, draw, 1)
            steps = steps[np.argsort(place_of_window[windows[steps]], kind="stable")]
        covariance = abs(int((from_middle * totals[steps]).sum()))
        if covariance < least:
            best, least = steps, covariance
    return best
