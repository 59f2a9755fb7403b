"""What a plan promises."""

from __future__ import annotations

from typing import Any

from vlmprep.pipeline.plan.bounds import Room
from vlmprep.pipeline.plan.candidates import Candidates
from vlmprep.pipeline.plan.costs import Costing
from vlmprep.pipeline.plan.file import PlannedPacks
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.planning import straggler_ratio

__all__ = ["STRAGGLER_RANKS", "forecast"]

STRAGGLER_RANKS = (8, 64, 512)


def forecast(
    packs: PlannedPacks,
    candidates: Candidates,
    settings: PlanSettings,
    room: Room,
    costing: Costing,
) -> dict[str, Any]:
    """The numbers of a plan, as plan.json holds them.

    Args:
        packs: What was planned.
        candidates: What could be planned.
        settings: How it was planned.
        room: What packs offer.
        costing: What samples cost.
    """
    visual = packs.num_visual_tokens
    total = int(packs.num_tokens.sum())
    return {
        "num_packs": packs.num_packs,
        "num_samples": len(packs.samples),
        "num_tokens": total,
        "num_visual_tokens": int(visual.sum()),
        "min_packs": -(-total // settings.pack_size),
        "fill": total / (settings.pack_size * packs.num_packs),
        "fake_images": packs.num_fakes,
        "visual_tokens_per_pack": {"min": int(visual.min()), "mean": float(visual.mean()), "max": int(visual.max())},
        "straggler_ratio": {
            str(ranks): straggler_ratio(packs.pack_costs, ranks)
            for ranks in STRAGGLER_RANKS
            if ranks <= packs.num_packs
        },
    }
