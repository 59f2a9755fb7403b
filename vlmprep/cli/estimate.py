"""`vlmprep estimate`: count every sample exactly, decode nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, loading, people, progress_bars, results
from vlmprep.cli.grouping import grouped
from vlmprep.cli.tables import ledger_tables, print_parts
from vlmprep.pipeline.beforehand import check_counting

__all__ = ["estimate"]


@app.command(no_args_is_help=True)
@grouped
def estimate(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files of rows (JSON, JSONL, Parquet, Arrow, tar), folders or patterns of them, a meta JSON, hf:NAME, hub:NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL of the ledger.", show_default=False)],
    processor: Annotated[
        str, typer.Option("--processor", help="The model's processor: a folder, or a hub name.", show_default=False)
    ],
    counting: o.CountOptions,
    engine: o.EngineOptions,
    output: o.OutputOptions,
    max_refused: o.MaxRefused = 0.01,
    work: o.Work = None,
    annotate: Annotated[
        Path | None,
        typer.Option(
            "--annotate",
            help="Folder for copies of the rows with `_text_tokens` and `mm_inputs_meta`, as NeMo Automodel reads them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a ledger: exact token, visual-token and label-token counts of every row, or the reason for refusing it."""
    check_counting(sources, processor, out)
    settings = counting.settings(processor)
    with loading(quiet=output.silent):
        from vlmprep.pipeline import estimate as stage
        from vlmprep.pipeline.places import output_at
        from vlmprep.pipeline.recognize import Kind

    with progress_bars(quiet=output.silent) as progress, output_at(out, Kind.LEDGER, work) as (root, _):
        ledger = stage.estimate(sources, settings, root, engine.make(), progress)
        if annotate is not None:
            from vlmprep.pipeline.annotate import annotate as write_copies

            write_copies(ledger, settings, annotate, progress)
    if output.json:
        emit_json({"ledger": out, **ledger.summary})
        return
    if not output.quiet:
        print_parts(ledger_tables(ledger.summary), results)
    refused = 1 - ledger.summary["rows"]["ok"] / ledger.summary["rows"]["all"]
    if refused > max_refused:
        people.print(
            f"[yellow]{refused:.2%} of the rows are refused, more than --max-refused {max_refused:g}: "
            "`vlmprep plan` and `vlmprep pack` will stop there. Repair the rows, or allow them a larger share.[/yellow]"
        )
