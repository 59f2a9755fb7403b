"""Processes that die at a chosen moment: what they do to files beneath a folder is counted by Python's audit events.

An event is raised just before Python opens a file for writing, renames, removes, or makes a folder. Dying at event n leaves
what is on disk between events n - 1 and n; at a rename the file may be cut in half first, as if it was still being written.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Event", "Moment", "die_at", "in_child", "record_events"]

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is about to happen to a file."""

    what: str
    """`open`, `rename`, `remove` or `mkdir`."""
    path: str
    """Beneath the folder; of a rename, the new name."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When to die."""

    number: int
    """Just before the event of this number, from 0 on."""
    torn: bool = False
    """At a rename: with the second half of the file not written yet."""


def event_of(root: str, name: str, arguments: tuple[Any, ...]) -> tuple[Event, str] | None:
    """An audit event as one of ours, with the path that it happens to."""
    if name == "open":
        path, mode, flags = arguments
        if not isinstance(path, (str, bytes, os.PathLike)) or not (flags & WRITES or set(mode or "") & set("wxa+")):
            return None
        what, source = "open", path
    elif name in ("os.rename", "os.remove", "os.mkdir"):
        what, source = name.removeprefix("os."), arguments[0]
    else:
        return None
    target = os.fsdecode(arguments[1] if what == "rename" else source)
    if not target.startswith(root):
        return None
    return Event(what, os.path.relpath(target, root)), os.fsdecode(source)


def record_events(root: Path, log: Path) -> None:
    """Write down every event of this process beneath a folder."""
    file = log.open("w", buffering=1)

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if (found := event_of(str(root), name, arguments)) is not None:
            file.write(f"{found[0].what}\t{found[0].path}\n")

    sys.addaudithook(hook)


def die_at(root: Path, moment: Moment) -> None:
    """SIGKILL this process at a moment of what it does beneath a folder."""
    left = moment.number

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if (found := event_of(str(root), name, arguments)) is None:
            return
        if left == 0:
            if moment.torn:
                os.truncate(found[1], os.path.getsize(found[1]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(hook)


def in_child(work: Callable[[], object]) -> int:
    """Do something in a fork of this process.

    Returns:
        Its exit status; minus the signal that killed it.
    """
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the code that forked
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
    finally:
        os._exit(status)
