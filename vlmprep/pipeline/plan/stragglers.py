"""How long ranks wait for each other: of this plan, with steps of equal packs, and had nothing been balanced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.pipeline.plan.layout import Layout, drawn, lay_out
from vlmprep.planning import straggler_ratio

__all__ = ["STRAGGLER_RANKS", "Stragglers", "ratios_grouped", "ratios_shuffled", "stragglers"]

STRAGGLER_RANKS = tuple(1 << power for power in range(11))
"""1 to 1,024 data-parallel ranks."""
GROUPED_PACKS = 1 << 16
"""Packs that steps of equal packs are forecast on: a plan's first ones are a fair draw."""
UNBALANCED_SAMPLES = 1 << 20
"""Candidates that the unbalanced plan is made of at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stragglers:
    """Straggler ratios by number of ranks, as far as there are packs: max over ranks of a step's work / mean, averaged."""

    what: str
    """The work of `shuffled`, `grouped` and `unbalanced`: `visual tokens`, or the unit of costs."""
    shuffled: dict[str, float]
    """Any packs share a step."""
    grouped: dict[str, float]
    """Packs of nearly equal work share a step."""
    grouped_packs: int
    """Packs that this was tried on."""
    unbalanced: dict[str, float]
    """Of best-fit decreasing, shuffled; empty where this plan is unbalanced itself."""
    unbalanced_samples: int
    """Samples that it was made of."""
    visual_tokens: dict[str, float]
    """Of this plan, shuffled, whatever was balanced; and so is the next."""
    tokens: dict[str, float]


def stragglers(layout: Layout) -> Stragglers:
    """Forecast the waiting."""
    packs, settings = layout.packs, layout.settings
    unbalanced, num_samples = (np.zeros(0), 0) if settings.balance == "none" else _unbalanced(layout)
    shuffled = ratios_shuffled(packs.pack_costs)
    is_visual = layout.costing.model is None
    return Stragglers(
        what=layout.costing.unit,
        shuffled=shuffled,
        grouped=ratios_grouped(packs.pack_costs),
        grouped_packs=min(packs.num_packs, GROUPED_PACKS),
        unbalanced={ranks: ratio for ranks, ratio in ratios_shuffled(unbalanced).items() if ranks in shuffled},
        unbalanced_samples=num_samples,
        visual_tokens=shuffled if is_visual else ratios_shuffled(packs.num_visual_tokens),
        tokens=ratios_shuffled(packs.num_tokens),
    )


def ratios_shuffled(work: NDArray[Any]) -> dict[str, float]:
    """Straggler ratios where any packs share a step.

    Args:
        work: [num_packs] of any unit.
    """
    return {str(ranks): straggler_ratio(work, ranks) for ranks in STRAGGLER_RANKS if ranks <= len(work)}


def ratios_grouped(work: NDArray[Any]) -> dict[str, float]:
    """Straggler ratios where packs of nearly equal work share a step.

    Args:
        work: [num_packs] of any unit, in a plan's order.
    """
    some = work[:GROUPED_PACKS]
    return {str(ranks): straggler_ratio(some, ranks, group_by=some) for ranks in STRAGGLER_RANKS if ranks <= len(some)}


def _unbalanced(layout: Layout) -> tuple[NDArray[np.float64], int]:
    """[packs] what packs cost if nothing is balanced, and how many samples were packed for it."""
    some = drawn(layout.candidates, UNBALANCED_SAMPLES, layout.settings.seed)
    settings = replace(layout.settings, balance="none", max_cost=None)  # the room holds the bound
    plan = lay_out(some, layout.room, settings)
    return plan.pack_costs, len(some.rows)
