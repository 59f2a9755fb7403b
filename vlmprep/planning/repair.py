"""Bring every pack within its bounds: what is too much leaves its pack and is laid elsewhere by best-fit decreasing."""

from __future__ import annotations

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
    crowded = np.flatnonzero(_is_over(problem, pack_of)[pack_of])
    members = crowded[np.lexsort((crowded, problem.lengths[crowded], pack_of[crowded]))]
    starts = np.flatnonzero(np.diff(pack_of[members], prepend=-1))
    for pack in np.split(members, starts[1:]):
        if pack.size:
            pack_of[_evicted(problem, pack)] = -1
    return best_fit_decreasing(problem, without_gaps(pack_of))


def without_gaps(pack_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """The same packs, numbered in the same order but without empty ones; -1 stays."""
    taken = np.bincount(pack_of[pack_of >= 0], minlength=1) > 0
    number = (np.cumsum(taken) - 1).astype(np.int32)
    return np.where(pack_of >= 0, number[pack_of], np.int32(-1)).astype(np.int32)


def _is_over(problem: PackingProblem, pack_of: NDArray[np.int32]) -> NDArray[np.bool_]:
    """[num_packs] whether a pack is over a bound, its fake image included."""
    tokens = np.bincount(pack_of, weights=problem.lengths)
    media = np.bincount(pack_of, weights=problem.visual_tokens)
    over: NDArray[np.bool_] = tokens + problem.fake_tokens * (media == 0) > problem.pack_size
    for demand, limit in zip(problem.demands.T, problem.limits, strict=True):
        over |= np.bincount(pack_of, weights=demand) > limit
    return over


def _evicted(problem: PackingProblem, pack: NDArray[np.int64]) -> list[int]:
    """Which samples leave one pack: the shortest one that is enough, or the longest and then again.

    Args:
        problem: The samples and bounds.
        pack: Its sample numbers by rising length.
    """
    members = [int(sample) for sample in pack]
    evicted: list[int] = []
    while not _keeps_bounds(problem, members):
        enough = (i for i in range(len(members)) if _keeps_bounds(problem, members[:i] + members[i + 1 :]))
        evicted.append(members.pop(next(enough, -1)))
    return evicted


def _keeps_bounds(problem: PackingProblem, members: list[int]) -> bool:
    fake_tokens = 0 if problem.visual_tokens[members].any() else problem.fake_tokens
    tokens = int(problem.lengths[members].sum()) + (fake_tokens if members else 0)
    within = problem.demands[members].sum(axis=0) <= problem.limits
    return tokens <= problem.pack_size and bool(within.all())
