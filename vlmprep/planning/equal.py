"""Equal packs: how many, from which start, and the descent that makes them so.

More packs than the fewest leave each some free tokens, and with these the exchanges make packs more equal. How much that
buys depends on the samples (text fits everywhere, tiles of 256 tokens nearly nowhere), so it is tried: on a sample of the
samples, for a ladder of shares of free tokens, judged by `merit.epoch_time`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.best_fit import best_fit_decreasing
from vlmprep.planning.exchange import MEAN_WEIGHT, Sweeps, exchange_descent
from vlmprep.planning.longest_first import longest_to_emptiest
from vlmprep.planning.merit import epoch_time
from vlmprep.planning.problem import PackingProblem
from vlmprep.planning.repair import repair, without_gaps
from vlmprep.schema.keyed_order import keyed_order

__all__ = ["equal_packs"]

_LADDER = (0.0015, 0.003, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2)
"""Packs beyond the fewest possible, as shares of these."""
_PILOT_SAMPLES = 8192
_MEETINGS = 3_000_000
"""Pairs of packs that a small plan is worth."""
_FEWEST_SWEEPS, _MOST_SWEEPS = 48, 144
_FREE = Sweeps(count=_FEWEST_SWEEPS, first_price=0.3, doublings=9)
_STRICT = Sweeps(count=12, first_price=256.0, doublings=4, indulgence=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """A way to pack, and how it turned out."""

    spare: float | None
    """Share of packs beyond the fewest possible; None for the packs of best-fit decreasing."""
    pack_of: NDArray[np.int32]
    """[n] the pack of every sample."""
    time: float
    """Predicted time of an epoch, 1.0 is ideal."""


def equal_packs(problem: PackingProblem, work: NDArray[np.int64], fill_weight: float, seed: int) -> NDArray[np.int32]:
    """Lay samples into full packs of equal work.

    Args:
        problem: The samples and bounds.
        work: [n] int64, what is to be equal.
        fill_weight: 0 to 1, what a full pack counts against an equal one; see `merit`.
        seed: Of the partners that packs trade with.

    Returns:
        [n] int32, the pack of every sample.
    """
    effort = _effort(problem.min_packs)
    if problem.num_samples <= _PILOT_SAMPLES:
        return _best_attempt(problem, work, fill_weight, effort, seed).pack_of
    some = np.sort(keyed_order(problem.num_samples, seed)[:_PILOT_SAMPLES])
    spare = _best_attempt(problem.select(some), work[some], fill_weight, effort, seed).spare
    return _attempt(problem, work, spare, fill_weight, effort, seed).pack_of


def _effort(num_packs: int) -> int:
    """Sweeps that a plan is worth: more of them where packs are few."""
    return min(max(_MEETINGS // num_packs, _FEWEST_SWEEPS), _MOST_SWEEPS)


def _best_attempt(
    problem: PackingProblem, work: NDArray[np.int64], fill_weight: float, effort: int, seed: int
) -> _Attempt:
    unbalanced = best_fit_decreasing(problem)
    time = epoch_time(np.bincount(unbalanced, weights=work), problem.min_packs, fill_weight)
    best = _Attempt(spare=None, pack_of=unbalanced, time=time)
    for spare in (None, *_LADDER):
        if spare is not None and best.time <= 1 + fill_weight * spare:
            break  # even with equal packs it would not be better
        attempt = _attempt(problem, work, spare, fill_weight, effort, seed)
        best = min(best, attempt, key=lambda each: each.time)
    return best


def _attempt(
    problem: PackingProblem, work: NDArray[np.int64], spare: float | None, fill_weight: float, effort: int, seed: int
) -> _Attempt:
    if spare is None:
        pack_of = _equalized(problem, best_fit_decreasing(problem), work, _STRICT._replace(count=effort), seed)
    else:
        pack_of = longest_to_emptiest(problem, int(np.ceil(problem.min_packs * (1 + spare))))
        pack_of = _equalized(problem, pack_of, work, _FREE._replace(count=effort), seed)
        pack_of = _equalized(problem, pack_of, work, _STRICT, seed)
    time = epoch_time(np.bincount(pack_of, weights=work), problem.min_packs, fill_weight)
    return _Attempt(spare=spare, pack_of=pack_of, time=time)


def _equalized(
    problem: PackingProblem, pack_of: NDArray[np.int32], work: NDArray[np.int64], sweeps: Sweeps, seed: int
) -> NDArray[np.int32]:
    num_packs = int(pack_of.max()) + 1
    scale = MEAN_WEIGHT * num_packs / max(int(work.sum()), 1)
    weights = np.minimum(np.rint(work * scale), 256 * MEAN_WEIGHT).astype(np.int32)
    return repair(problem, without_gaps(exchange_descent(problem, pack_of, weights, num_packs, sweeps, seed=seed)))
