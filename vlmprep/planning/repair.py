"""Bring every pack within its bounds: what is too much leaves its pack and is laid elsewhere by best-fit decreasing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.best_fit import best_fit_decreasing
from vlmprep.planning.problem import PackingProblem

__all__ = ["repair", "without_gaps"]


def repair(problem: PackingProblem, pack_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """Make a plan that keeps all bounds from one that nearly does.

    Args:
        problem: The samples and bounds.
        pack_of: [n] int32, the pack of every sample; not changed.

    Returns:
        [n] int32, packs numbered without gaps; mostly those that were there, and new ones where it must be.
    """
    pack_of = pack_of.copy()
    while len(evicted := _one_of_every_crowded_pack(problem, pack_of)):
        pack_of[evicted] = -1
    return best_fit_decreasing(problem, without_gaps(pack_of))


def without_gaps(pack_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """The same packs, numbered in the same order but without empty ones; -1 stays."""
    taken = np.bincount(pack_of[pack_of >= 0], minlength=1) > 0
    number = (np.cumsum(taken) - 1).astype(np.int32)
    return np.where(pack_of >= 0, number[pack_of], np.int32(-1)).astype(np.int32)


def _one_of_every_crowded_pack(problem: PackingProblem, pack_of: NDArray[np.int32]) -> NDArray[np.int64]:
    """The samples that leave next: of every pack over a bound the shortest that is enough, or else the longest."""
    totals = _totals(problem, pack_of)
    crowded = ~_is_within(problem, *totals)
    members = np.flatnonzero((pack_of >= 0) & crowded[pack_of])
    members = members[np.lexsort((members, problem.lengths[members], pack_of[members]))]
    packs = pack_of[members]
    without = [total[packs] - each[members] for total, each in zip(totals, _amounts(problem), strict=True)]
    place = np.arange(len(members))
    enough = np.where(_is_within(problem, *without), place, len(members))
    starts = np.flatnonzero(np.diff(packs, prepend=-1))
    if not len(starts):
        return members
    first_enough = np.minimum.reduceat(enough, starts)
    longest = np.append(starts[1:], len(members)) - 1
    evicted: NDArray[np.int64] = members[np.where(first_enough < len(members), first_enough, longest)]
    return evicted


def _amounts(problem: PackingProblem) -> list[NDArray[Any]]:
    """[n] each: what a sample adds to the totals of its pack: tokens, media samples, demands on further bounds."""
    return [problem.lengths, (problem.visual_tokens > 0).astype(np.int64), *problem.demands.T]


def _totals(problem: PackingProblem, pack_of: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """[num_packs] each: the sums of `_amounts` over every pack."""
    placed = np.flatnonzero(pack_of >= 0)
    packs = pack_of[placed]
    return [np.bincount(packs, weights=each[placed]).astype(np.int64) for each in _amounts(problem)]


def _is_within(
    problem: PackingProblem, tokens: NDArray[np.int64], media: NDArray[np.int64], *used: NDArray[np.int64]
) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = tokens + problem.fake_tokens * (media == 0) <= problem.pack_size
    for total, limit in zip(used, problem.limits, strict=True):
        within &= total <= limit
    return within
