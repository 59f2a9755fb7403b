"""Where output goes: results to stdout, everything that accompanies them to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vlmprep.schema import progress as listeners

__all__ = ["emit_json", "loading", "people", "progress_bars", "results"]

people = Console(stderr=True)
"""Progress, notes and errors."""
results = Console()
"""Tables that a command was asked for."""


def emit_json(document: Any) -> None:
    """Print the one JSON document that `--json` promises."""
    json.dump(document, sys.stdout, indent=1, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


class Bars:
    """A progress bar per stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Show a bar for a stage."""
        self._task = self._bars.add_task(stage, total=total, completed=done, unit=unit)

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        assert self._task is not None, "a stage has started"
        self._bars.advance(self._task, amount)

    def finish(self) -> None:
        """Leave the bar as it stands."""
        if self._task is not None:
            self._bars.stop_task(self._task)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text)


@contextmanager
def loading(*, quiet: bool, what: str = "Loading transformers") -> Iterator[None]:
    """Say what takes seconds and has no bar, such as importing the stages' libraries."""
    if quiet or not people.is_terminal:
        yield
        return
    with people.status(what):
        yield


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[listeners.Progress]:
    """Progress on stderr, or silence where nobody looks: with `--quiet`, or when stderr is no terminal."""
    if quiet or not people.is_terminal:
        yield listeners.Silent()
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=people) as bars:
        yield Bars(bars)
