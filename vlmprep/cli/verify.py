"""`vlmprep verify`: is a pack set what was written, and does it keep every promise of the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, progress_bars, results
from vlmprep.cli.tables import quantity, titled, visible
from vlmprep.schema.errors import StopRun

if TYPE_CHECKING:
    from vlmprep.pipeline.verify import Problem, Verification

__all__ = ["verify"]


@app.command(no_args_is_help=True)
def verify(
    packset: Annotated[Path, typer.Argument(help="A finished pack set.", show_default=False)],
    show: Annotated[int, typer.Option("--show", metavar="N", help="Problems to show; --json lists all.", min=1)] = 20,
    workers: o.Workers = o.DEFAULT_WORKERS,
    engine: o.EngineOption = o.EngineName.LOCAL,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Check every digest, the structure and all invariants of a pack set; exit 1 if anything is wrong."""
    from vlmprep.pipeline import verify as stage

    with progress_bars(quiet=quiet or json) as progress:
        found = stage.verify(packset, o.make_engine(engine, workers), progress)
    if json:
        emit_json({"ok": not found.problems, **asdict(found)})
    elif not quiet:
        results.print(problem_table(found.problems, show) if found.problems else all_well(found), highlight=False)
    if found.problems:
        raise StopRun(
            f"{packset} is not what it should be: {counted(len(found.problems), 'problem')} in {places(found.problems)}",
            "Restore these files from a copy; or delete the shards named, their receipts and manifest.json, and run the "
            "same `vlmprep pack` command again.",
        )


def all_well(found: Verification) -> str:
    """The line that everybody hopes for."""
    return (
        f"[bold green]All is well:[/bold green] {quantity(found.num_packs)} packs with {quantity(found.num_samples)} "
        f"documents in {counted(found.num_shards, 'shard')}, {quantity(found.num_bytes)} bytes"
    )


def problem_table(problems: Sequence[Problem], show: int) -> Table:
    """The first problems, and how many more there are."""
    table = titled("Problems")
    table.show_header = True
    table.add_column("file", no_wrap=True)
    table.add_column("pack", justify="right", no_wrap=True)
    table.add_column("what is wrong", overflow="fold")
    for problem in problems[:show]:
        pack = "" if problem.pack_id is None else str(problem.pack_id)
        table.add_row(escape(visible(problem.file)), pack, escape(visible(problem.what)))
    if len(problems) > show:
        table.add_row(
            "", "", f"[dim]... and {counted(len(problems) - show, 'more')}; --show N or --json shows them[/dim]"
        )
    return table


def counted(number: int, what: str) -> str:
    """`1 problem`, `2 problems`."""
    return f"{quantity(number)} {what}{'' if number == 1 or what == 'more' else 's'}"


def places(problems: Sequence[Problem]) -> str:
    """In how many files they are."""
    return counted(len({problem.file for problem in problems}), "file")
