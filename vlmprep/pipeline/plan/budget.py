"""How many rows may be refused, asked before the expensive stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.plan.file import Plan, Unfit
from vlmprep.schema.errors import StopRun

__all__ = ["check_refusal_budget", "no_sample", "num_refused"]


def check_refusal_budget(ledger: Ledger, plan: Plan, max_refused: float) -> None:
    """Stop before the expensive stage when too many rows are refused.

    Args:
        ledger: Rows and refusals by reason.
        plan: Adds the samples that fit into no pack.
        max_refused: Share of the rows.

    Raises:
        StopRun: With the reasons, their counts and an example each.
    """
    num_rows = ledger.summary["rows"]["all"]
    unfit = [
        Unfit(sample=row["sample"], code=row["reason_code"], reason=row["reason"]) for row in plan.refused.to_pylist()
    ]
    refused = num_refused(ledger, plan)
    if refused > max_refused * num_rows:
        raise StopRun(
            f"{refused} of {num_rows} rows are refused ({refused / num_rows:.2%}), "
            f"more than --max-refused {max_refused:g} allows{_with_reasons(_refusals(ledger, unfit))}",
            "Repair the rows, or allow a larger share with --max-refused.",
        )


def num_refused(ledger: Ledger, plan: Plan) -> int:
    """Rows that the ledger or the plan refuses."""
    rows: dict[str, Any] = ledger.summary["rows"]
    return int(rows["all"] - rows["ok"] + plan.refused.num_rows)


def no_sample(ledger: Ledger, unfit: Sequence[Unfit]) -> StopRun:
    """What to say where nothing is left to pack."""
    return StopRun(
        f"no sample can be packed{_with_reasons(_refusals(ledger, unfit))}", "Repair the rows, or the settings."
    )


def _refusals(ledger: Ledger, unfit: Sequence[Unfit]) -> list[dict[str, Any]]:
    """Refusals by reason, as `counting.ledger.refusal_counts` has them, with the plan's own behind the ledger's."""
    refusals: list[dict[str, Any]] = list(ledger.summary["rows"]["refused"])
    for code in dict.fromkeys(sample.code for sample in unfit):
        alike = [sample for sample in unfit if sample.code == code]
        place = ledger.read(["source", "row"]).slice(alike[0].sample, 1).to_pylist()[0]
        refusals.append({"code": code, "rows": len(alike), "example": {**place, "reason": alike[0].reason}})
    return refusals


def _with_reasons(refusals: Sequence[dict[str, Any]]) -> str:
    """`: ` and a line for each reason with an example, or nothing."""
    lines = (
        f"{refusal['rows']:>8}  {refusal['code']}, e.g. {example['source']}, row {example['row']}: {example['reason']}"
        for refusal in refusals
        for example in [refusal["example"]]
    )
    return "".join([":" if refusals else "", *(f"\n{line}" for line in lines)])
