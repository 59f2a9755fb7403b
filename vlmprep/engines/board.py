"""A line per worker in shared memory: what it is at, still there when it is not.

| process id  int64 | text  UTF-8, cut at LINE_BYTES, zeros behind |   a slot per worker
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterable, Mapping
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess

from vlmprep.schema.errors import StopRun

__all__ = ["Board", "obituary"]

LINE_BYTES = 1_000
SLOT = struct.Struct(f"=q{LINE_BYTES}s")
STARTING = "its start"

AGAIN = "Run the same command again; what is finished is kept."
OF_A_PLACE = (
    " If one dies at the same place again, a medium there ends the library that decodes it: "
    "take that row out, or write its medium anew."
)
OF_MEMORY = " Where the system ended it because memory ran out, give fewer --workers."
OF_A_START = " --workers 0 works in this process and shows its errors."


class Board:
    """Shared by a pool's parent and its workers.

    Args:
        context: Of the processes, to which the board is handed as they start.
        num_workers: Processes that claim a slot.
    """

    def __init__(self, context: SpawnContext, num_workers: int) -> None:
        self._claimed = context.Value("i", 0)
        self._slots = context.RawArray("c", SLOT.size * num_workers)
        self._at = 0

    def claim(self) -> None:
        """Take a slot for the calling process."""
        with self._claimed.get_lock():
            self._at = self._claimed.value * SLOT.size
            self._claimed.value += 1
        self.write(STARTING)

    def write(self, what: str) -> None:
        """Say what the calling process is at, in the place of what it was at."""
        SLOT.pack_into(self._slots, self._at, os.getpid(), what.encode(errors="replace"))

    def lines(self) -> dict[int, str]:
        """What each process is or was at, by its id."""
        claimed = memoryview(bytes(self._slots))[: self._claimed.value * SLOT.size]
        return {process: text.rstrip(b"\0").decode(errors="replace") for process, text in SLOT.iter_unpack(claimed)}


def obituary(board: Board, processes: Iterable[BaseProcess]) -> StopRun:
    """What there is to say when a worker died.

    Args:
        board: Where the workers noted what they were at.
        processes: All of the pool, ended: one by itself, the others by the pool, with SIGTERM.
    """
    codes = {process.pid or 0: process.exitcode for process in processes}
    lines = board.lines()
    dead = {process: code for process, code in codes.items() if code != -signal.SIGTERM} or codes
    places = [place for process in dead if (place := lines.get(process, STARTING))]
    how = ", ".join(dict.fromkeys(map(ended, dead.values())))
    where = f" at {' or '.join(dict.fromkeys(places))}" if places else ""
    return StopRun(f"a worker process died ({how}){where}", AGAIN + advice(dead, places))


def advice(dead: Mapping[int, int | None], places: Iterable[str]) -> str:
    """What to do beside trying again."""
    memory = OF_MEMORY if -signal.SIGKILL in dead.values() else ""
    return memory + (OF_A_PLACE if any(place != STARTING for place in places) else OF_A_START)


def ended(code: int | None) -> str:
    """How a process ended, for people."""
    if code is None:
        return "nobody knows how"
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
