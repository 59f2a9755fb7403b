"""Exchange descent: pairs of packs trade up to two samples each way until all packs are within bounds and equal.

A pack that is too heavy, too light or over a bound meets a partner from the other side. Of all exchanges of none, one or two
samples of the one against none, one or two of the other (up to 37 x 37), the pair makes the one of least

    |weight moved - half the difference of their weights|  +  sum over bounds of price * what both are over that bound

and only if that is less than before. Bounds have a steep price instead of a wall, so that the descent may start from packs
that overflow and may pass through some. In the first sweeps an exchange may also be worse by a hair, which carries tiles and
other coarse weights across plateaus (threshold accepting: Dueck and Scheuer, 1990). A pack whose exchanges keep failing is
asked more and more rarely, the don't-look bits of local search for the travelling salesman (Bentley, 1992). Where
many meetings change next to nothing any more, as with tiles in full packs, the descent ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.pack_table import PackTable, lay_out, read_off
from vlmprep.planning.problem import PackingProblem
from vlmprep.planning.trades import MEAN_WEIGHT, MOST_CHOICES, sweep_once

__all__ = ["Effort", "exchange_descent"]

_PRICE = 128 * MEAN_WEIGHT
"""What it costs to be over a bound by all of it."""
_INDULGENCE = MEAN_WEIGHT // 1000
"""By how much an exchange may be worse in the first sweep; falls to 0 in the sweeps that may be indulgent."""
_STRETCH = 4
"""Sweeps after which it is asked whether going on is worth it."""
_WORTH = 500
"""It is where a meeting of every pack takes one part in so many off the unrest."""
_STREAM = 0x9E3779B97F4A7C15
"""Odd, so that every sweep of every seed draws its partners anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """When a descent ends."""

    num_sweeps: int
    """How often every pack that needs it may ask for an exchange."""
    indulgent_sweeps: int
    """In how many of them, the first ones, an exchange may be worse than none."""
    free_meetings: int
    """Meetings of two packs that need not be worth it."""
    most_meetings: int
    """Meetings after which no sweep begins."""


def exchange_descent(
    problem: PackingProblem,
    pack_of: NDArray[np.int32],
    weights: NDArray[np.int32],
    num_packs: int,
    effort: Effort,
    *,
    seed: int,
) -> NDArray[np.int32]:
    """Make packs equal in weight and bring them within the bounds.

    Args:
        problem: The samples and bounds.
        pack_of: [n] int32, the pack of every sample to start from; not changed.
        weights: [n] int32, what is to be equal, in a unit in which `MEAN_WEIGHT` is the mean of a pack.
        num_packs: Packs, also those that are still empty.
        effort: When it ends, if packs are not equal before.
        seed: Of the partners drawn.

    Returns:
        [n] int32, the pack of every sample. Some packs may still be over a bound.
    """
    demands = np.column_stack([weights, problem.lengths, problem.demands]).astype(np.int32)
    table = lay_out(pack_of, demands, num_packs)
    bounds = _priced_bounds(problem)
    choices = np.zeros((2 * demands.shape[1] + 1, MOST_CHOICES), np.int32)
    sleep, sides = np.zeros((num_packs, 2), np.int32), np.zeros(num_packs, np.int32)
    unrest, met, met_before = _unrest(table, bounds), 0, 0
    for sweep in range(effort.num_sweeps):
        indulgence = _INDULGENCE * max(effort.indulgent_sweeps - sweep, 0) // max(effort.indulgent_sweeps, 1)
        stream = np.uint64((seed * _STREAM + (sweep << 32)) & (1 << 64) - 1)
        asked = sweep_once(table.packs, table.items, bounds, choices, sleep, sides, sweep, indulgence, stream)
        met += asked
        if met >= effort.most_meetings or (not asked and not (sleep[:, 0] > sweep).any()):
            break
        if sweep % _STRETCH == _STRETCH - 1:
            before, unrest = unrest, _unrest(table, bounds)
            if met >= effort.free_meetings and (before - unrest) * num_packs * _WORTH < before * (met - met_before):
                break
            met_before = met
    return read_off(table, len(pack_of))


def _unrest(table: PackTable, bounds: NDArray[np.int64]) -> int:
    """How far packs are off the mean weight and over their bounds, all together, by the measure of exchanges."""
    packs = table.packs[:-1]
    over = np.maximum(packs[:, 3:] - bounds[:, 0], 0) * bounds[:, 1]
    return int(np.abs(packs[:, 2] - MEAN_WEIGHT).sum() + over.sum())


def _priced_bounds(problem: PackingProblem) -> NDArray[np.int64]:
    """[1 + num_limits, 4] the limits of tokens and further resources and what it costs to be over them by one."""
    limits = np.concatenate([np.array([problem.common_capacity], np.int64), problem.limits])
    bounds = np.zeros((len(limits), 4), np.int64)
    bounds[:, 0], bounds[:, 1] = limits, _PRICE // np.maximum(limits, 1)
    return bounds
