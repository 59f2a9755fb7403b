"""A stage's output folder: one run at a time, nothing of anybody else's touched; the lock of a dead process holds nobody up."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vlmprep.pipeline.recognize import Kind, kind_of
from vlmprep.schema.errors import StopRun

__all__ = ["check_output", "output_folder"]

LOCK = ".lock"
ATTEMPT = re.compile(r"\..+\.[0-9]+\.tmp")
"""Names of files that `schema.files.publish` has not published yet."""
STAGES = {"ledger", "plan"}
"""Folders of a pack set that earlier stages fill before it is one."""
NAMES_SHOWN = 3


def check_output(root: Path, kind: Kind) -> None:
    """See that a folder holds nothing of anybody else's; what an earlier run of the same kind left is ours.

    Args:
        root: The folder; there may be none yet.
        kind: What it is to hold.

    Raises:
        StopRun: It holds something else, or cannot be looked into.
    """
    try:
        _check_nothing_else(root, kind)
    except OSError as error:
        raise not_writable(root, error) from error


@contextmanager
def output_folder(root: Path, kind: Kind) -> Iterator[Path]:
    """Make an output folder, hold its lock, and clear what runs left half written: those before, and this one.

    Args:
        root: The folder.
        kind: What it is to hold; a folder that holds anything else is left as it is.

    Raises:
        StopRun: Another run writes there, the folder cannot be written, or it holds something else.
    """
    check_output(root, kind)  # leaves no lock in somebody else's folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("a")
    except OSError as error:
        raise not_writable(root, error) from error
    with lock:
        _hold(lock, root)
        _check_nothing_else(root, kind)  # again: another run may have filled it before the lock was ours
        _clear_attempts(root)
        try:
            yield root
        finally:
            _clear_attempts(root)


def _hold(lock: IO[str], root: Path) -> None:
    """Lock a folder until the file is closed or this process dies.

    Raises:
        StopRun: Another run holds it, the folder was replaced meanwhile, or its file system has no locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.path.samestat(os.fstat(lock.fileno()), (root / LOCK).stat())
    except BlockingIOError:
        raise StopRun(f"another run is writing to {root}", "Wait for it, or give another --out.") from None
    except FileNotFoundError:
        held = False
    except OSError as error:
        raise StopRun(f"{root} cannot be locked: {error.strerror or error}", "Give another --out.") from error
    if not held:
        raise StopRun(f"{root} was removed while this run began", "Run the same command again.")


def _clear_attempts(root: Path) -> None:
    """Remove what was never published: whoever holds the lock is alone here."""
    for path in root.rglob(".*.tmp"):
        if ATTEMPT.fullmatch(path.name):
            with suppress(
                OSError
            ):  # nobody reads it, and a folder that cannot be written is told of where it is written to
                path.unlink()


def not_writable(root: Path, error: OSError) -> StopRun:
    """The error for a folder that nothing can be written to."""
    return StopRun(f"{root} cannot be written: {error.strerror or error}", "Give another --out.")


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
