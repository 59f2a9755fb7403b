"""Runs a job's units on this machine: in this process, or in worker processes that pay their start-up once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from vlmprep.engines.board import Board, obituary
from vlmprep.schema.at_work import at_work, note_with
from vlmprep.schema.engine import Job, Worker
from vlmprep.schema.errors import StopRun

__all__ = ["LocalEngine"]

Unit = TypeVar("Unit")
Result = TypeVar("Result")

UNITS_PER_WORKER = 2
"""Units in flight per worker: one at work, one waiting, so that none idles and a stop has little to wait for."""
STOP_SECONDS = 5
"""How long a worker has to end before it is killed."""

_worker: Worker[Any, Any] | None = None


class LocalEngine:
    """An Engine over a pool of processes.

    Args:
        num_workers: Processes; 0 works in the calling process.
    """

    def __init__(self, num_workers: int) -> None:
        if num_workers < 0:
            raise StopRun(
                f"--workers is {num_workers}", "Give 0 to work in this process, or the number of worker processes."
            )
        self.num_workers = num_workers

    def run(self, job: Job[Unit, Result], units: Iterable[Unit]) -> Generator[Result]:
        """Yield results as units finish, in any order; few units are in flight at a time.

        Raises:
            StopRun: A worker process died; it says at which row, where the job does.
        """
        if self.num_workers == 0:
            worker = job.open()
            for unit in units:
                yield worker(unit)
            return
        resource_tracker.ensure_running()  # started in passing, it would let Ctrl-C through again
        context = multiprocessing.get_context("spawn")
        board = Board(context, self.num_workers)
        pool = ProcessPoolExecutor(
            self.num_workers, mp_context=context, initializer=_open_worker, initargs=(job, board)
        )
        try:
            yield from self._drive(pool, units)
        except BrokenProcessPool as error:
            raise obituary(board, _stop(pool)) from error
        finally:
            _stop(pool)

    def _drive(self, pool: ProcessPoolExecutor, units: Iterable[Unit]) -> Iterator[Any]:
        waiting = iter(units)
        in_flight: set[Future[Any]] = set()
        while True:
            while len(in_flight) < self.num_workers * UNITS_PER_WORKER and (unit := next(waiting, None)) is not None:
                with _without_interrupts():
                    in_flight.add(pool.submit(_run_unit, unit))
            if not in_flight:
                return
            done, in_flight = wait(in_flight, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back while workers are started, who keep it so: it is the parent's, from a worker's first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open_worker(job: Job[Any, Any], board: Board) -> None:
    """Start-up of a worker: the parent alone answers Ctrl-C, no worker outlives it, and each keeps to one core."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    board.claim()
    note_with(board.write)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch  # here, not above: the command line lists its options without it

    torch.set_num_threads(1)
    _worker = job.open()
    at_work("")


def _exit_with_parent() -> None:
    """A killed parent cannot stop its workers, and what they wait for would never come."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)


def _run_unit(unit: Any) -> Any:
    assert _worker is not None, "a worker runs its start-up before any unit"
    try:
        return _worker(unit)
    finally:
        at_work("")


def _stop(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    """End the pool now: work in progress is never half published, so workers may be stopped anywhere.

    Returns:
        Its processes, ended.
    """
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        with suppress(ProcessLookupError, ValueError):
            process.terminate()
    for process in processes:
        process.join(timeout=STOP_SECONDS)
        if process.is_alive():
            with suppress(ProcessLookupError):
                process.kill()
            process.join(timeout=STOP_SECONDS)
    _wait_for_exit_codes(processes)
    return processes


def _wait_for_exit_codes(processes: Iterable[BaseProcess]) -> None:
    """The pool's own thread may have waited for a process first, and be about to write down how it ended."""
    end = time.monotonic() + 1
    while any(process.exitcode is None for process in processes) and time.monotonic() < end:
        time.sleep(0.01)
