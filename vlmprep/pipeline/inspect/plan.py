"""What a plan promises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vlmprep.pipeline.inspect.spread import PackColumns, Spread, spread_of
from vlmprep.pipeline.plan.file import Plan, open_plan

__all__ = ["PlanReport", "inspect_plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """A complete plan; its tokens are those of samples after the shift, fake images not included."""

    plan: str
    """Its folder."""
    summary: dict[str, Any]
    """plan.json: settings, statistics, digests."""
    refused: list[dict[str, Any]]
    """By reason, with an example each."""
    spread: Spread


def inspect_plan(root: Path) -> PlanReport:
    """Read a complete plan.

    Raises:
        StopRun: It is not complete.
    """
    plan = open_plan(root)
    columns = PackColumns(
        num_tokens=plan.num_tokens,
        num_visual_tokens=plan.num_visual_tokens,
        num_samples=np.diff(plan.offsets),
        cost=plan.pack_costs,
        cost_unit=plan.summary["settings"]["cost"]["unit"],
    )
    pack_size = plan.summary["settings"]["pack_size"]
    return PlanReport(
        plan=str(root), summary=plan.summary, refused=refusals_of(plan), spread=spread_of(columns, pack_size)
    )


def refusals_of(plan: Plan) -> list[dict[str, Any]]:
    """Samples that the plan cannot take, by reason as a ledger has them."""
    table: pa.Table = plan.refused
    grouped = table.group_by("reason_code", use_threads=False).aggregate(
        [("sample", "count"), ("sample", "first"), ("reason", "first")]
    )
    return [
        {
            "code": group["reason_code"],
            "rows": group["sample_count"],
            "example": {"source": None, "row": None, "sample": group["sample_first"], "reason": group["reason_first"]},
        }
        for group in grouped.to_pylist()
    ]
