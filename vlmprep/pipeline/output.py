"""A stage's output folder: one run at a time, nothing of anybody else's touched; the lock of a dead process holds nobody up."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmprep.pipeline.recognize import Kind, kind_of
from vlmprep.schema.errors import StopRun

__all__ = ["output_folder"]

LOCK = ".lock"
ATTEMPT = re.compile(r"\..+\.[0-9]+\.tmp")
"""Names of files that `schema.files.publish` has not published yet."""
STAGES = {"ledger", "plan"}
"""Folders of a pack set that earlier stages fill before it is one."""
NAMES_SHOWN = 3


@contextmanager
def output_folder(root: Path, kind: Kind) -> Iterator[Path]:
    """Make an output folder, hold its lock, and clear what runs that died left half written.

    Args:
        root: The folder.
        kind: What it is to hold; a folder that holds anything else is left as it is.

    Raises:
        StopRun: Another run writes there, the folder cannot be written, or it holds something else.
    """
    try:
        _check_nothing_else(root, kind)
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("a")
    except OSError as error:
        raise StopRun(f"{root} cannot be written: {error.strerror or error}", "Give another --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StopRun(f"another run is writing to {root}", "Wait for it, or give another --out.") from None
        for path in root.rglob(".*.tmp"):  # of runs that died: whoever holds the lock is alone here
            if ATTEMPT.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield root


def _check_nothing_else(root: Path, kind: Kind) -> None:
    if not root.exists():
        return
    found = kind_of(root)
    if found is not None and found.kind is kind:
        return
    ours = {LOCK, *(STAGES if kind is Kind.PACKSET else ())}
    others = sorted(path.name for path in root.iterdir() if path.name not in ours and not ATTEMPT.fullmatch(path.name))
    if not others:
        return
    if found is not None:
        raise StopRun(f"{root} is a {found.kind}, and a {kind} was to go there", "Give another --out.")
    more = f" and {len(others) - NAMES_SHOWN} more" if len(others) > NAMES_SHOWN else ""
    raise StopRun(
        f"{root} is not empty and no {kind}: it holds {', '.join(others[:NAMES_SHOWN])}{more}",
        "Give a new or an empty folder as --out.",
    )
