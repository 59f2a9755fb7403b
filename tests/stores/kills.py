"""Kills runs that write to a store at chosen requests and resumes each; forks share what a first run loads.

    python -m tests.stores.kills PROCESSOR SOURCE URL EVERY     at every EVERY-th request that changes something on the store
    python -m tests.stores.kills PROCESSOR SOURCE URL parts     while a shard of several parts goes up

prints one JSON document a line: first what an undisturbed run writes, then for each kill, before a request or behind it, what
is there then and after the run was resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import s3fs
import torch

from tests.kills.moments import in_child
from tests.runs import run
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.stores import folder, lease
from vlmprep.stores.connection import Connection
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.uploads import waiting

WRITES = ("pipe_file", "put_file", "rm_file")
PACK_SIZE = 128
SMALL_SHARDS = PackSettings(shard_bytes=1 << 16)
PART_BYTES = 5 << 20
"""The smallest that S3 takes."""
SHARDS_IN_PARTS = PackSettings(pixels="float32", compression="none", shard_bytes=12 << 20)
CALLS = (
    ("upload_part", 5, True),
    ("complete_multipart_upload", 1, False),
    ("complete_multipart_upload", 1, True),
)
"""Calls of the second shard's upload, counted over the run from 0, and whether to die behind it; a shard has three parts."""


def content(url: str) -> dict[str, Any]:
    """SHA-256 of everything on the store, and the uploads that are under way; found out in a child, because connections do
    not survive forks.
    """
    reading, writing = os.pipe()

    def work() -> None:
        store = StoreFolder(url)
        found = {name: hashlib.sha256(store.read(name)).hexdigest() for name in store.files()}
        os.write(writing, json.dumps({"files": found, "uploads": len(waiting(Connection(url)))}).encode())

    assert in_child(work) == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        found: dict[str, Any] = json.load(file)
    return found


class Runs:
    """The same command to one URL after another."""

    def __init__(self, processor: Path, source: Path) -> None:
        self._processor, self._source = processor, source
        lease.SETTLE_SECONDS = 0.0
        torch.set_num_threads(1)
        run(source, processor, source.parent / "first", planning=PlanSettings(pack_size=PACK_SIZE))

    def pack(self, url: str, writing: PackSettings, prepare: Callable[[], None] | None = None) -> int:
        """Run in a child, which is told before when to die; returns its status."""

        def work() -> None:
            if prepare is not None:
                prepare()
            run(self._source, self._processor, url, planning=PlanSettings(pack_size=PACK_SIZE), writing=writing)

        return in_child(work)

    def killed(self, out: str, writing: PackSettings, prepare: Callable[[], None]) -> dict[str, Any] | None:
        """Die, look, go on, look again; None where the run was over before."""
        status = self.pack(out, writing, prepare)
        assert status in (0, -signal.SIGKILL), status
        if status == 0:
            return None
        left = content(out)
        assert self.pack(out, writing) == 0
        return {"left": left, "resumed": content(out)}

    def each(self, url: str, every: int) -> Iterator[dict[str, Any]]:
        """Die at every so many requests."""
        assert self.pack(f"{url}/whole", SMALL_SHARDS) == 0
        yield {"whole": content(f"{url}/whole")}
        number = 0
        while True:
            behind = bool(number // every % 2)
            found = self.killed(f"{url}/{number}", SMALL_SHARDS, lambda: die_at(number, behind=behind))  # noqa: B023
            if found is None:
                return
            yield {"number": number, "behind": behind, **found}
            number += every

    def parts(self, url: str) -> Iterator[dict[str, Any]]:
        """Die at every one of `CALLS`."""
        folder.PART_BYTES = PART_BYTES
        assert self.pack(f"{url}/whole", SHARDS_IN_PARTS) == 0
        yield {"whole": content(f"{url}/whole")}
        for at, (what, number, behind) in enumerate(CALLS):
            found = self.killed(
                f"{url}/{at}",
                SHARDS_IN_PARTS,
                lambda: die_at_call(what, number, behind=behind),  # noqa: B023
            )
            assert found is not None
            yield {"what": what, "behind": behind, **found}


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


def die_at_call(what: str, number: int, *, behind: bool) -> None:
    """SIGKILL this process at a call of the client."""
    left, call = number, s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        own = method == what and left == 0
        left -= method == what
        answer = await call(self, method, *arguments, **options) if behind or not own else None
        if own:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    s3fs.S3FileSystem._call_s3 = counted


def main() -> None:
    """As the module says."""
    processor, source, url, which = sys.argv[1:]
    runs = Runs(Path(processor), Path(source))
    for document in runs.parts(url) if which == "parts" else runs.each(url, int(which)):
        sys.stdout.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
