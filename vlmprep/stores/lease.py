"""One run at a time in a folder on a store: `.lease` says whose it is, and is renewed while that run lives.

A store has no locks that die with their owner. Whoever finds a lease watches whether it is renewed; one that is not, or whose
process on this very machine is gone, is taken over. A run that stalls so long that it loses its lease stops before it publishes
its last file. Even two runs at a time would not spoil anything: the same command writes the same bytes, each file at once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vlmprep.schema.errors import StopRun
from vlmprep.stores.folder import StoreFolder

__all__ = ["LEASE", "Lease", "held"]

LEASE = ".lease"
BEAT_SECONDS = 20.0
"""Between renewals."""
WATCH_SECONDS = 90.0
"""A lease that is not renewed for so long is a dead run's."""
LOOK_SECONDS = 5.0
SETTLE_SECONDS = 2.0
"""After a lease was taken over: somebody else may have had the same idea."""
STARTED = 19
"""Where `/proc/PID/stat` has the time that the process was started at, counted from behind its name."""


class Lease:
    """A folder held by this process, renewed by a thread."""

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder
        self._own = {"run": uuid.uuid4().hex, **whereabouts()}
        self._beats = 0
        self._over = threading.Event()

    def take(self) -> None:
        """Make the lease ours.

        Raises:
            StopRun: Another run writes there.
        """
        while not self._folder.create(LEASE, self._content()) and self._found() != self._own["run"]:
            self._outlive(self._read())
            self._folder.delete(LEASE)
            time.sleep(SETTLE_SECONDS)
        self.confirm()
        threading.Thread(target=self._renew, daemon=True, name="vlmprep-lease").start()

    def confirm(self) -> None:
        """Look whether the folder is still ours.

        Raises:
            StopRun: It is not.
        """
        if self._found() != self._own["run"]:
            raise _busy(self._folder, self._read())

    def give_back(self) -> None:
        """Let others in."""
        self._over.set()
        with suppress(StopRun):  # the store is away; whoever comes next sees that nobody renews it
            if self._found() == self._own["run"]:
                self._folder.delete(LEASE)

    def _outlive(self, found: dict[str, Any]) -> None:
        """Return when a lease's owner is known to be dead; raise StopRun where it lives."""
        if all(found.get(name) == self._own[name] for name in ("host", "place")):
            if born(found.get("pid")) in ("", found.get("born", "")):
                raise _busy(self._folder, found)
            return
        until = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            if self._read() != found:
                raise _busy(self._folder, found)

    def _renew(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(StopRun):  # the store is away for a while; `confirm` says whether that was too long
                if self._found() != self._own["run"]:
                    return
                self._beats += 1
                self._folder.publish_bytes(LEASE, self._content())

    def _content(self) -> bytes:
        return json.dumps({**self._own, "beats": self._beats}).encode()

    def _found(self) -> Any:
        return self._read().get("run")

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._folder.read(LEASE))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@contextmanager
def held(folder: StoreFolder) -> Iterator[Lease]:
    """Hold a folder for one run.

    Raises:
        StopRun: Another run writes there.
    """
    lease = Lease(folder)
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


def whereabouts() -> dict[str, Any]:
    """Which process this is, told apart from all that ever ran here: pods come back under the same host name and number."""
    place = ""
    with suppress(OSError):  # no Linux
        place = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return {"host": socket.gethostname(), "place": place, "pid": os.getpid(), "born": born(os.getpid())}


def born(pid: Any) -> str | None:
    """When a process that runs here now was started, as the kernel counts; empty where that is not told, None: there is none."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return None
    except PermissionError:
        pass  # somebody else's, and alive
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[STARTED]
    except OSError:
        return ""


def _busy(folder: StoreFolder, found: dict[str, Any]) -> StopRun:
    who = f" (process {found['pid']} on {found['host']})" if "pid" in found and "host" in found else ""
    return StopRun(f"another run{who} is writing to {folder}", "Wait for it, or give another --out.")
