"""Batches in processes that may die, hang or swell: each is watched, and who is to blame is found by running items alone."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.fuzz.batch import Batch, Outcome, prepare, run_batch

__all__ = ["Report", "Watcher", "batches"]

LOOK_SECONDS = 0.05
START_SECONDS = 120.0
"""For a new process to import what it needs."""
WHOLE_ITEM = 0
"""Runs beside an item that is tried alone, so that there is something to pack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a batch."""

    outcomes: tuple[Outcome, ...]
    seconds: float
    swelled_bytes: int
    """Memory beside what the process had before, at most."""
    what: str = ""
    """Family and loader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A batch that did not come back."""

    what: str


def runner() -> tuple[Callable[[Batch], object], Callable[[Batch, Path], list[Outcome]]]:
    """What gets ready for a batch, which is nobody's fault, and what runs it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    return prepare, run_batch


def serve(pipe: Connection) -> None:
    """What a process does: batches, until it is told to stop."""
    get_ready, run = runner()
    pipe.send(None)
    while (batch := pipe.recv()) is not None:
        get_ready(batch)
        pipe.send(None)
        pipe.recv()
        folder = Path(tempfile.mkdtemp(prefix="fuzz"))
        try:
            pipe.send(run(batch, folder / "batch"))
        except Exception as error:  # noqa: BLE001 - whatever ends a run is what is looked for
            pipe.send(f"{type(error).__name__}: {error}")
        finally:
            shutil.rmtree(folder)


class Watcher:
    """One process and who watches it.

    Args:
        seconds_per_item: How long an item may take.
        max_bytes: What the process may take beside what it had before a batch.
        start_method: Of multiprocessing.
        items_waited_for: A batch of more items gets no more time than so many.
    """

    def __init__(
        self, *, seconds_per_item: float, max_bytes: int, start_method: str = "spawn", items_waited_for: int = 20
    ) -> None:
        self._seconds, self._max_bytes = seconds_per_item, max_bytes
        self._context: Any = multiprocessing.get_context(start_method)
        self._items_waited_for = items_waited_for
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def run(self, batch: Batch) -> Report:
        """Run a batch; where it fails, run its items alone, and blame those that fail again."""
        found = self._try(batch)
        if isinstance(found, Report):
            return found
        reports = [self._alone(batch, number) for number in batch.numbers]
        outcomes = [outcome for report in reports for outcome in report.outcomes]
        if not any(outcome.wrong for outcome in outcomes):
            outcomes[0] = replace(outcomes[0], wrong=f"{found.what}, in company alone: {batch.numbers}")
        return Report(
            outcomes=tuple(outcomes),
            seconds=sum(report.seconds for report in reports),
            swelled_bytes=max(report.swelled_bytes for report in reports),
        )

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None

    def _alone(self, batch: Batch, number: int) -> Report:
        report = self._try(replace(batch, numbers=tuple(dict.fromkeys((WHOLE_ITEM, number)))))
        if isinstance(report, Report):
            return replace(report, outcomes=report.outcomes[-1:])
        blamed = Outcome(number=number, kind="", how="", seed="", result="failed", wrong=report.what)
        return Report(outcomes=(blamed,), seconds=0.0, swelled_bytes=0)

    def _try(self, batch: Batch) -> Report | Failure:
        self._start()
        assert self._process is not None
        assert self._pipe is not None
        self._pipe.send(batch)
        self._wait_until_ready()
        forget_peak(self._process.pid)
        before, start = memory_bytes(self._process.pid), time.monotonic()
        most = before
        limit = self._seconds * min(len(batch.numbers), self._items_waited_for)
        self._pipe.send(None)
        while not self._pipe.poll(LOOK_SECONDS):
            most = max(most, memory_bytes(self._process.pid))
            if not self._process.is_alive():
                return self._failed(f"the process died ({self._process.exitcode})")
            if time.monotonic() - start > limit:
                return self._failed(f"not done after {limit:.0f} s")
            if most - before > self._max_bytes:
                return self._failed(f"took {(most - before) >> 20} MiB")
        try:
            answer = self._pipe.recv()
        except EOFError:
            return self._failed("the process died")
        most = max(most, memory_bytes(self._process.pid))
        if isinstance(answer, str):
            return Failure(what=answer)
        if most - before > self._max_bytes:
            return Failure(what=f"took {(most - before) >> 20} MiB")
        return Report(
            outcomes=tuple(answer),
            seconds=time.monotonic() - start,
            swelled_bytes=most - before,
            what=f"{batch.processor.name} with {batch.image_backend or 'its own loader'}",
        )

    def _failed(self, what: str) -> Failure:
        self.close()
        return Failure(what=what)

    def _start(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self._pipe is not None
        if not self._pipe.poll(START_SECONDS):
            raise TimeoutError("the process does not start")
        self._pipe.recv()


def forget_peak(pid: int | None) -> None:
    """Let the kernel measure a process's peak from now on; where it does not, what is seen in passing counts."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def memory_bytes(pid: int | None) -> int:
    """Peak of a process's memory; 0 once it is gone."""
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return 0
    return int(fields.get("VmHWM", "0 kB").split()[0]) << 10


def batches(kinds: Sequence[Batch], num_items: int, size: int) -> Iterator[Batch]:
    """Cut a run into batches, of every kind in turn."""
    for turn, start in enumerate(range(0, num_items, size)):
        yield replace(kinds[turn % len(kinds)], numbers=tuple(range(start, min(start + size, num_items))))
