"""`vlmprep pack`: from raw conversations, or a ledger, to a pack set."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated

import typer

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, loading, progress_bars, results
from vlmprep.cli.grouping import grouped
from vlmprep.cli.tables import packset_tables
from vlmprep.pipeline.beforehand import check_packing

__all__ = ["pack"]

COUNTING = tuple(entry.name for entry in fields(o.CountOptions))
PLANNING = tuple(entry.name for entry in fields(o.PlanOptions))


@app.command(no_args_is_help=True)
@grouped
def pack(
    context: typer.Context,
    sources: Annotated[
        list[str], typer.Argument(help="Sources as for `vlmprep estimate`, or one ledger.", show_default=False)
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL of the pack set.", show_default=False)],
    counting: o.CountOptions,
    planning: o.PlanOptions,
    writing: o.WriteOptions,
    engine: o.EngineOptions,
    output: o.OutputOptions,
    processor: Annotated[
        str | None,
        typer.Option(
            "--processor", help="The model's processor: a folder, or a hub name such as Qwen/Qwen2.5-VL-7B-Instruct."
        ),
    ] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", help="A plan made by `vlmprep plan` from the ledger given.")
    ] = None,
    max_refused: o.MaxRefused = 0.01,
    work: o.Work = None,
) -> None:
    """Write a pack set; runs the missing stages first and goes on where an earlier run stopped."""
    if processor is None and (without := o.asked(context, COUNTING)):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in without)
        raise typer.BadParameter(f"{flags} goes with --processor; a ledger keeps what it was counted with")
    check_packing(sources, processor, plan, out)
    counts = counting.settings(processor) if processor is not None else None
    settings = planning.settings(), writing.settings()
    with loading(quiet=output.silent):
        from vlmprep.pipeline.run import run_pack

    with progress_bars(quiet=output.silent) as progress:
        done = run_pack(
            sources,
            counts,
            *settings,
            out=out,
            plan=plan,
            max_refused=max_refused,
            engine=engine.make(),
            progress=progress,
            asked=o.asked(context, PLANNING),
            work=work,
        )
    if output.json:
        emit_json({"packset": out, "manifest": asdict(done.manifest)})
    elif not output.quiet:
        results.print(*packset_tables(done.manifest, out), sep="\n")
