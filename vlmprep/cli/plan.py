"""`vlmprep plan`: lay the samples of a ledger into packs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, results
from vlmprep.cli.grouping import grouped
from vlmprep.counting.ledger import open_ledger
from vlmprep.pipeline.places import local_folder, output_at
from vlmprep.pipeline.recognize import Kind

__all__ = ["plan"]


@app.command(no_args_is_help=True)
@grouped
def plan(
    ledger: Annotated[str, typer.Argument(help="A ledger made by `vlmprep estimate`.", show_default=False)],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL of the plan.", show_default=False)],
    planning: o.PlanOptions,
    output: o.OutputOptions,
    model_config: o.ModelConfig = None,
    max_refused: o.MaxRefused = 0.01,
    work: o.Work = None,
) -> None:
    """Write a plan: which samples make which pack; prints how full and how equal packs are, and what would improve them."""
    opened, settings = open_ledger(local_folder(ledger)), planning.settings()
    from vlmprep.cli.reports import print_report, report_document
    from vlmprep.pipeline.inspect.plan import inspect_plan
    from vlmprep.pipeline.plan import check_refusal_budget, make_plan

    with output_at(out, Kind.PLAN, work) as (root, _):
        made = make_plan(opened, settings, root, model_config=model_config)
        report = replace(inspect_plan(root), plan=out)
    if output.json:
        emit_json(report_document(report))
    elif not output.quiet:
        print_report(report, results)
    check_refusal_budget(opened, made, max_refused)
