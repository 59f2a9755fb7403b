"""Kills runs that write to a store at chosen requests and resumes each; forks share what takes long to import and to load.

    python -m tests.stores.kills PROCESSOR SOURCE URL EVERY

prints one JSON document a line: first what an undisturbed run writes, then for every EVERY-th request that changes something on
the store, killed before it and behind it, what is there then and after the run was resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import s3fs  # noqa: F401 - imported once, before the forks
import torch

from tests.kills.moments import in_child
from tests.runs import run
from vlmprep.families.loading import load_family
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.planning import plan_packs
from vlmprep.schema.family import FamilySettings
from vlmprep.stores import lease
from vlmprep.stores.connection import Connection
from vlmprep.stores.folder import StoreFolder

WRITES = ("pipe_file", "put_file", "rm_file")


def content(url: str) -> dict[str, str]:
    """SHA-256 of everything on the store; found out in a child, because connections do not survive forks."""
    reading, writing = os.pipe()

    def work() -> None:
        store = StoreFolder(url)
        found = {name: hashlib.sha256(store.read(name)).hexdigest() for name in store.files()}
        os.write(writing, json.dumps(found).encode())

    assert in_child(work) == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        found: dict[str, str] = json.load(file)
    return found


class Runs:
    """The same command to one URL after another."""

    def __init__(self, processor: Path, source: Path) -> None:
        self._processor, self._source = processor, source
        lease.SETTLE_SECONDS = 0.0
        torch.set_num_threads(1)
        load_family(FamilySettings(processor=str(processor)))
        plan_packs([5, 6], [0, 0], pack_size=8)

    def pack(self, url: str, dies_at: int | None = None, *, behind: bool = False) -> int:
        """Run in a child, killed at a request; returns its status, and the requests by way of the file `LOG`."""

        def work() -> None:
            if dies_at is not None:
                die_at(dies_at, behind=behind)
            run(
                self._source,
                self._processor,
                url,
                planning=PlanSettings(pack_size=96),
                writing=PackSettings(shard_bytes=1 << 16),
            )

        return in_child(work)

    def each(self, url: str, every: int) -> Iterator[dict[str, Any]]:
        """Die at every so many requests."""
        assert self.pack(f"{url}/whole") == 0
        whole = content(f"{url}/whole")
        yield {"whole": whole}
        number = 0
        while True:
            behind = bool(number // every % 2)
            out = f"{url}/{number}"
            status = self.pack(out, number, behind=behind)
            assert status in (0, -signal.SIGKILL), status
            if status == 0:
                return
            left = content(out)
            assert self.pack(out) == 0
            yield {"number": number, "behind": behind, "left": left, "resumed": content(out)}
            number += every


def die_at(number: int, *, behind: bool) -> None:
    """SIGKILL this process at a request that changes something."""
    left, ask = number, Connection.run

    def counted(self: Connection, what: str, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        if what not in WRITES:
            return ask(self, what, *arguments, **options)
        left -= 1
        if left < 0 and behind:
            ask(self, what, *arguments, **options)
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(self, what, *arguments, **options)

    Connection.run = counted  # type: ignore[method-assign]


def main() -> None:
    """As the module says."""
    processor, source, url, every = sys.argv[1:]
    for document in Runs(Path(processor), Path(source)).each(url, int(every)):
        sys.stdout.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
