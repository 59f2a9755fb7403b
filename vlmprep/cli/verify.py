"""`vlmprep verify`: is a pack set what was written, and does it keep every promise of the format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from rich.markup import escape
from rich.table import Table

from vlmprep.cli import options as o
from vlmprep.cli.app import app
from vlmprep.cli.console import emit_json, progress_bars, results
from vlmprep.cli.grouping import grouped
from vlmprep.cli.tables import quantity, titled, visible
from vlmprep.pipeline.beforehand import check_verifying
from vlmprep.schema.errors import StopRun

if TYPE_CHECKING:
    from vlmprep.pipeline.verify import Against, Problem, Verification

__all__ = ["verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildOptions:
    """What documents are held against, beside the pack set itself."""

    panel: ClassVar[str] = "Against the sources"
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="PROCESSOR",
            help="Make documents anew from their sources with this processor, and compare them bit for bit.",
        ),
    ] = None
    samples: Annotated[int, typer.Option("--samples", metavar="N", help="Random documents to make anew.", min=1)] = 100
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="What it was packed from, where that does not lie inside it.")
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of documents.")] = 0

    def settings(self) -> Against | None:
        """What the stage is asked for."""
        from vlmprep.pipeline.verify import Against

        if self.against is None:
            return None
        return Against(processor=self.against, num_samples=self.samples, ledger=self.ledger, seed=self.seed)


REBUILDING = tuple(entry.name for entry in fields(RebuildOptions))


@app.command(no_args_is_help=True)
@grouped
def verify(
    context: typer.Context,
    packset: Annotated[str, typer.Argument(help="A finished pack set, a folder or a URL.", show_default=False)],
    engine: o.EngineOptions,
    output: o.OutputOptions,
    rebuilding: RebuildOptions,
    show: Annotated[int, typer.Option("--show", metavar="N", help="Problems to show; --json lists all.", min=1)] = 20,
) -> None:
    """Check every digest, the structure and all invariants of a pack set; exit 1 if anything is wrong."""
    if rebuilding.against is None and (without := o.asked(context, REBUILDING)):
        raise typer.BadParameter(f"--{without[0]} goes with --against")
    check_verifying(packset, rebuilding.against, rebuilding.ledger)
    from vlmprep.pipeline import verify as stage

    with progress_bars(quiet=output.silent) as progress:
        found = stage.verify(packset, engine.make(), progress, rebuilding.settings())
    wrong = (*found.problems, *found.differences)
    if output.json:
        emit_json({"ok": not wrong, **asdict(found)})
    elif not output.quiet:
        results.print(problem_table(wrong, show) if wrong else all_well(found), highlight=False)
    if found.problems:
        raise StopRun(
            f"{packset} is not what it should be: {counted(len(found.problems), 'problem')} in {places(found.problems)}",
            "Restore these files from a copy; or delete the shards named, their receipts and manifest.json, and run the "
            "same `vlmprep pack` command again.",
        )
    if found.differences:
        raise StopRun(
            f"{packset} is not what its sources make now: {counted(len(found.differences), 'difference')} in "
            f"{counted(found.num_rebuilt, 'document')} made anew",
            "Its files are as they were written: sources, media, processor or libraries are not what they were then.",
        )


def all_well(found: Verification) -> str:
    """The line that everybody hopes for."""
    anew = f"; {counted(found.num_rebuilt, 'document')} made anew, the same bit for bit" if found.num_rebuilt else ""
    return (
        f"[bold green]All is well:[/bold green] {quantity(found.num_packs)} packs with {quantity(found.num_samples)} "
        f"documents in {counted(found.num_shards, 'shard')}, {quantity(found.num_bytes)} bytes{anew}"
    )


def problem_table(problems: Sequence[Problem], show: int) -> Table:
    """The first problems, one line for packs in a row that have the same one, and how many more there are."""
    table = titled("Problems")
    table.show_header = True
    table.add_column("file", no_wrap=True)
    table.add_column("pack", no_wrap=True)
    table.add_column("what is wrong", overflow="fold")
    runs = list(runs_of(problems))
    for run in runs[:show]:
        table.add_row(escape(visible(run[0].file)), pack_range(run), escape(visible(run[0].what)))
    if num_left := sum(map(len, runs[show:])):
        table.add_row("", "", f"[dim]... and {quantity(num_left)} more; --show N or --json shows them[/dim]")
    return table


def runs_of(problems: Sequence[Problem]) -> Iterator[list[Problem]]:
    """Problems of consecutive packs that say the same, together."""
    run: list[Problem] = []
    for problem in problems:
        if run and problem.pack_id is not None and problem == replace(run[-1], pack_id=(run[-1].pack_id or 0) + 1):
            run.append(problem)
            continue
        if run:
            yield run
        run = [problem]
    if run:
        yield run


def pack_range(run: Sequence[Problem]) -> str:
    """`17`, or `17 to 93`."""
    first, last = run[0].pack_id, run[-1].pack_id
    if first is None:
        return ""
    return str(first) if first == last else f"{first} to {last}"


def counted(number: int, what: str) -> str:
    """`1 problem`, `2 problems`."""
    return f"{quantity(number)} {what}{'' if number == 1 else 's'}"


def places(problems: Sequence[Problem]) -> str:
    """In how many files they are."""
    return counted(len({problem.file for problem in problems}), "file")
