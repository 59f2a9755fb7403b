"""From candidates to packs: the one call of the planner, and everything that is known once it has answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.plan.bounds import Fake, Room
from vlmprep.pipeline.plan.candidates import Candidates
from vlmprep.pipeline.plan.costs import Costing
from vlmprep.pipeline.plan.cuts import Cuts
from vlmprep.pipeline.plan.file import PlannedPacks, Unfit
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.planning import PackPlan, plan_packs
from vlmprep.schema.keyed_order import keyed_order

__all__ = ["Layout", "drawn", "lay_out"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """A plan with all that it was made of."""

    ledger: Ledger
    settings: PlanSettings
    costing: Costing
    fake: Fake
    room: Room
    candidates: Candidates
    unfit: Sequence[Unfit]
    cuts: Cuts | None
    """What was cut to fit; None where nothing was to be."""
    plan: PackPlan
    """Of numbers of candidates."""
    packs: PlannedPacks
    """The same packs, of numbers of the ledger."""

    @property
    def is_whole(self) -> bool:
        """Every candidate is in a pack: `max_packs` leaves none out."""
        return len(self.plan.samples) == len(self.candidates.rows)

    def packed(self, values: NDArray[Any]) -> NDArray[Any]:
        """[num_samples] the values of what is in packs, in any order.

        Args:
            values: [n] one per candidate.
        """
        return values if self.is_whole else values[self.plan.samples]


def lay_out(candidates: Candidates, room: Room, settings: PlanSettings) -> PackPlan:
    """Lay candidates into packs.

    Args:
        candidates: What to lay.
        room: What packs offer.
        settings: What is to be balanced, and how much for; `max_packs` is left to the caller.
    """
    return plan_packs(
        candidates.places,
        candidates.num_visual_tokens,
        pack_size=room.planned,
        balance=settings.balance,
        seed=settings.seed,
        costs=candidates.costs,
        images=candidates.num_images,
        fake_tokens=room.fake_tokens,
        max_visual_tokens=room.max_visual_tokens,
        max_images=room.max_images,
        max_cost=room.max_cost,
        fill_weight=settings.fill_weight,
    )


def drawn(candidates: Candidates, num_samples: int, seed: int) -> Candidates:
    """A seeded draw of some candidates, in their order; all of them where there are no more."""
    if num_samples >= len(candidates.rows):
        return candidates
    chosen = np.sort(keyed_order(len(candidates.rows), seed)[:num_samples])
    return replace(candidates, **{entry.name: getattr(candidates, entry.name)[chosen] for entry in fields(candidates)})
