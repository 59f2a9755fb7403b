"""Equal packs: how many there should be, and the two steps that make them so.

More packs than the fewest leave each some free tokens, and with these the exchanges make packs more equal. How much that
buys depends on the samples (text fits everywhere, tiles of 256 tokens nearly nowhere), so it is tried: on some of the
samples, for a ladder of shares of free tokens, judged by `merit.epoch_time`. The packs of best-fit decreasing compete too
and win where they are equal by themselves, as with clips that are all visual tokens.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.best_fit import best_fit_decreasing
from vlmprep.planning.exchange import Effort, exchange_descent
from vlmprep.planning.longest_first import longest_to_emptiest
from vlmprep.planning.merit import epoch_time
from vlmprep.planning.problem import PackingProblem
from vlmprep.planning.repair import repair, without_gaps
from vlmprep.planning.trades import MEAN_WEIGHT
from vlmprep.schema.keyed_order import keyed_order

__all__ = ["equal_packs"]

_LADDER = (
    *(0.0015, 0.003, 0.0045, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03),
    *(0.04, 0.05, 0.06, 0.07, 0.085, 0.1, 0.115, 0.1325, 0.15, 0.2),
)
"""Packs beyond the fewest possible, as shares of these."""
_PATIENCE = 2.5
"""Rungs of the ladder without progress after which it is left, times the fill weight."""
_TRIAL_SAMPLES, _TRIAL_PACKS, _TRIAL_SHARE = 8192, 512, 64
"""How many samples a trial has at least, how many packs they fill at least, and what part of all samples they are."""
_PROGRESS = 0.0003
"""By how much more packs must be better: trials scatter, and fewer packs are a gain that is certain."""
_MEETINGS = 1_000_000
"""Meetings of two packs that are not asked what they are worth, and half as many as a small plan may have."""
_MEETINGS_PER_SAMPLE = 5
"""Meetings that a great plan may have."""
_FEWEST_SWEEPS, _MOST_SWEEPS = 160, 192
_GREATEST_WEIGHT = 64 * MEAN_WEIGHT
"""More than that needs no telling apart: such a sample's pack is the heaviest anyway."""


def equal_packs(problem: PackingProblem, work: NDArray[np.int64], fill_weight: float, seed: int) -> NDArray[np.int32]:
    """Lay samples into full packs of equal work, or into those of best-fit decreasing where these are no worse.

    Args:
        problem: The samples and bounds.
        work: [n] int64, what is to be equal.
        fill_weight: 0 to 1, what a full pack counts against an equal one; see `merit`.
        seed: Of the partners that packs trade with.

    Returns:
        [n] int32, the pack of every sample.
    """
    unbalanced = best_fit_decreasing(problem)
    time_unbalanced = _time(problem, work, unbalanced, fill_weight)
    effort = _effort(problem)
    num_samples = problem.num_samples
    enough = max(
        _TRIAL_SAMPLES, num_samples // _TRIAL_SHARE, math.ceil(_TRIAL_PACKS * num_samples / problem.fewest_packs)
    )
    trial = np.sort(keyed_order(num_samples, seed)[:enough])
    spare, time = _best_spare(problem.select(trial), work[trial], fill_weight, effort, seed)
    if time_unbalanced <= time:
        return unbalanced
    equal = _equalized(problem, work, _num_packs(problem, spare), effort, seed)
    return equal if _time(problem, work, equal, fill_weight) < time_unbalanced else unbalanced


def _time(problem: PackingProblem, work: NDArray[np.int64], pack_of: NDArray[np.int32], fill_weight: float) -> float:
    return epoch_time(np.bincount(pack_of, weights=work), problem.fewest_packs, fill_weight)


def _best_spare(
    problem: PackingProblem, work: NDArray[np.int64], fill_weight: float, effort: Effort, seed: int
) -> tuple[float, float]:
    """The share of packs beyond the fewest that makes the best packs, and the predicted time of an epoch with them."""
    best_spare, best_time, failures = 0.0, np.inf, 0
    times: dict[int, float] = {}  # of few packs, many rungs are as many
    for spare in _LADDER:
        hopeless = best_time <= 1 + fill_weight * spare  # even if these packs became equal
        if hopeless or failures * fill_weight >= _PATIENCE:
            break
        num_packs = _num_packs(problem, spare)
        if num_packs not in times:
            pack_of = _equalized(problem, work, num_packs, effort, seed)
            times[num_packs] = _time(problem, work, pack_of, fill_weight)
        time = times[num_packs]
        failures += 1
        if time < best_time - _PROGRESS:
            best_spare, best_time, failures = num_packs / problem.fewest_packs - 1, time, 0
    return best_spare, best_time


def _num_packs(problem: PackingProblem, spare: float) -> int:
    return max(round(problem.fewest_packs * (1 + spare)), math.ceil(problem.fewest_packs))


def _effort(problem: PackingProblem) -> Effort:
    num_sweeps = int(min(max(2 * _MEETINGS / problem.fewest_packs, _FEWEST_SWEEPS), _MOST_SWEEPS))
    return Effort(
        num_sweeps=num_sweeps,
        indulgent_sweeps=num_sweeps // 6,
        free_meetings=_MEETINGS,
        most_meetings=max(2 * _MEETINGS, _MEETINGS_PER_SAMPLE * problem.num_samples),
    )


def _equalized(
    problem: PackingProblem, work: NDArray[np.int64], num_packs: int, effort: Effort, seed: int
) -> NDArray[np.int32]:
    """Packs of equal work within all bounds, as many as asked for or as must be."""
    pack_of = longest_to_emptiest(problem, num_packs)
    # The second time is for the packs that the first repair has opened.
    again = Effort(
        num_sweeps=effort.num_sweeps // 4,
        indulgent_sweeps=0,
        free_meetings=_MEETINGS // 5,
        most_meetings=effort.most_meetings // 5,
    )
    for each in (effort, again):
        pack_of = without_gaps(pack_of)
        num_packs = int(pack_of.max()) + 1
        scale = MEAN_WEIGHT * num_packs / max(int(work.sum()), 1)
        weights = np.minimum(np.rint(work * scale), _GREATEST_WEIGHT).astype(np.int32)
        pack_of = exchange_descent(problem, pack_of, weights, num_packs, each, seed=seed)
        pack_of = repair(problem, without_gaps(pack_of))
    return pack_of
