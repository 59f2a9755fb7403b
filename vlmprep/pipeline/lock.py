"""One run per output folder; the lock of a dead process holds nobody up."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmprep.schema.errors import StopRun

__all__ = ["output_folder"]


@contextmanager
def output_folder(root: Path) -> Iterator[Path]:
    """Make an output folder, hold its lock, and clear what runs that died left half written.

    Raises:
        StopRun: Another run writes there, or the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("a")
    except OSError as error:
        raise StopRun(f"{root} cannot be written: {error.strerror or error}", "Give another --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StopRun(f"another run is writing to {root}", "Wait for it, or give another --out.") from None
        for attempt in root.rglob(".*.tmp"):  # of runs that died: whoever holds the lock is alone here
            attempt.unlink(missing_ok=True)
        yield root
