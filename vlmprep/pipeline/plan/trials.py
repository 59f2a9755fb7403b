"""What other settings would give: small plans of a seeded draw of the candidates, measured.

Every trial packs the same draw, so they compare with each other and with the plan's own settings on it; the whole plan may be
a little fuller and more equal than the draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from vlmprep.pipeline.plan.bounds import make_room
from vlmprep.pipeline.plan.candidates import Candidates
from vlmprep.pipeline.plan.layout import Layout, drawn, lay_out
from vlmprep.pipeline.settings import MAX_PACK_SIZE, PlanSettings
from vlmprep.planning.merit import RANKS, expected_straggler_ratio

__all__ = ["Trial", "Trials", "judged_ranks", "run_trials"]

FILL_WEIGHTS = (0.1, 0.3, 0.6, 0.9)
TRIAL_SAMPLES, TRIAL_PACKS = 2048, 512
"""Samples that a trial has at least, and packs that they fill at least, where there are so many."""
MOST_SAMPLES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A small plan."""

    pack_size: int
    fill_weight: float
    balance: str
    num_packs: int
    fill: float
    """Share of the packs' tokens that samples take."""
    straggler_ratio: float
    """Expected at `Trials.ranks`, where any packs share a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Small plans of the same samples."""

    num_samples: int
    of_samples: int
    """How many there are to draw from."""
    ranks: int
    """Data-parallel ranks that plans are judged for."""
    now: Trial
    """With the plan's own settings."""
    fill_weights: tuple[Trial, ...]
    """By rising fill weight, the plan's own among them; empty where nothing is balanced."""
    pack_size: Trial | None
    """With packs of twice the size; None where there are no greater ones."""
    balance: Trial | None
    """With `--balance vt`; None where the plan is balanced already, or has no work to balance."""


def judged_ranks(num_packs: int) -> int:
    """Ranks that packs are judged for: 64, or fewer where that would be more than one step takes."""
    return int(min(RANKS, 1 << max(num_packs.bit_length() - 1, 0)))


def run_trials(layout: Layout) -> Trials:
    """Plan a draw with the plan's own settings and with others."""
    settings, candidates = layout.settings, layout.candidates
    enough = math.ceil(TRIAL_PACKS * len(layout.plan.samples) / layout.packs.num_packs)
    some = drawn(candidates, min(max(TRIAL_SAMPLES, enough), MOST_SAMPLES), settings.seed)
    ranks = judged_ranks(layout.packs.num_packs)

    def trial(settings: PlanSettings) -> Trial:
        return _trial(layout, some, settings, ranks)

    balanced = settings.balance != "none" and bool(some.costs.any())
    weights = sorted({*FILL_WEIGHTS, settings.fill_weight}) if balanced else ()
    by_weight = tuple(trial(replace(settings, fill_weight=weight)) for weight in weights)
    own = [found for found in by_weight if found.fill_weight == settings.fill_weight]
    double = 2 * settings.pack_size
    to_balance = settings.balance == "none" and bool(some.num_visual_tokens.any())
    return Trials(
        num_samples=len(some.rows),
        of_samples=len(candidates.rows),
        ranks=ranks,
        now=own[0] if own else trial(settings),
        fill_weights=by_weight,
        pack_size=trial(replace(settings, pack_size=double)) if double <= MAX_PACK_SIZE else None,
        balance=trial(replace(settings, balance="vt")) if to_balance else None,
    )


def _trial(layout: Layout, some: Candidates, settings: PlanSettings, ranks: int) -> Trial:
    """Plan a draw under other settings; what no pack of the plan takes is not in it."""
    room = layout.room if settings.pack_size == layout.settings.pack_size else make_room(settings, layout.fake)
    places = room.places(some.num_tokens.astype(np.int64), some.num_visual_tokens.astype(np.int64))
    plan = lay_out(replace(some, places=places.astype(np.int32)), room, settings)
    return Trial(
        pack_size=settings.pack_size,
        fill_weight=settings.fill_weight,
        balance=settings.balance,
        num_packs=plan.num_packs,
        fill=int(some.num_tokens.sum(dtype=np.int64)) / (settings.pack_size * plan.num_packs),
        straggler_ratio=expected_straggler_ratio(plan.pack_costs, ranks),
    )
