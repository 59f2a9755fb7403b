"""`vlmprep plan`: lay the samples of a ledger into packs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, results
from vlmprep.cli.grouping import grouped
from vlmprep.cli.tables import plan_tables

__all__ = ["plan"]


@app.command(no_args_is_help=True)
@grouped
def plan(
    ledger: Annotated[Path, typer.Argument(help="A ledger made by `vlmprep estimate`.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the plan.", show_default=False)],
    planning: o.PlanOptions,
    output: o.OutputOptions,
    model_config: o.ModelConfig = None,
    max_refused: o.MaxRefused = 0.01,
) -> None:
    """Write a plan: which samples make which pack; prints fill, balance and what it cost."""
    from vlmprep.counting.ledger import open_ledger
    from vlmprep.pipeline.plan import check_refusal_budget, make_plan

    opened = open_ledger(ledger)
    made = make_plan(opened, planning.settings(), out, model_config=model_config)
    check_refusal_budget(opened, made, max_refused)
    if output.json:
        emit_json({"plan": str(out), **made.summary})
    elif not output.quiet:
        results.print(*plan_tables(made.summary, made.refused.num_rows), sep="\n")
