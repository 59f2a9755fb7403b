"""Kills one small run after another and resumes each; its forks share what a first run has imported, compiled and loaded.

    python -m tests.kills.server PROCESSOR FOLDER files|every|chain...

prints one JSON document a line: how each killed run ended, and how its folder looks after it was resumed, beside what an
undisturbed run writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from tests.kills.moments import Event, Moment, die_at, in_child, record_events
from tests.runs import chat, picture, run, write_jsonl
from vlmprep.pipeline.settings import PackSettings, PlanSettings

__all__ = ["kept_shards", "tree"]

SEED = 7


def tree(root: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, hidden ones included."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def kept_shards(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every shard that has a receipt."""
    found = {}
    for receipt in (root / "receipts").glob("*.json"):
        shard = (root / "shards" / f"{receipt.stem}.tar").stat()
        found[receipt.stem] = (shard.st_ino, shard.st_mtime_ns)
    return found


def source(folder: Path) -> Path:
    """Twelve rows with and without pictures, one of which does not decode."""
    names = [picture(folder / f"{number}.png", 40 + 20 * number, 90) for number in range(5)]
    (folder / names[4]).write_bytes((folder / names[4]).read_bytes()[:-60])
    rows = [chat(f"s{n}", "What is it?", "It is this. " * n, names[n : n + 1]) for n in range(12)]
    return write_jsonl(folder / "rows.jsonl", [*rows, b"{"])


def no_fsync(fd: object) -> None:
    """What was written outlives a killed process without it."""


class Runs:
    """The same command into one folder after another.

    Args:
        processor: Folder of the processor.
        folder: Where sources and outputs go.
    """

    def __init__(self, processor: Path, folder: Path) -> None:
        self._processor, self.folder, self._source = processor, folder, source(folder)
        os.fsync = no_fsync
        torch.set_num_threads(1)
        self.pack(folder / "first")

    def pack(self, out: Path) -> None:
        """The command."""
        run(
            self._source,
            self._processor,
            out,
            planning=PlanSettings(pack_size=96),
            writing=PackSettings(shard_bytes=1 << 16),
        )

    def events(self, out: Path) -> list[Event]:
        """What an undisturbed run does."""
        log = self.folder / "events"

        def work() -> None:
            record_events(out, log)
            self.pack(out)

        assert in_child(work) == 0
        return [Event(*line.split("\t")) for line in log.read_text().splitlines()]

    def killed(self, out: Path, moment: Moment) -> bool:
        """Run and die at a moment; False where the run was over before it came."""

        def work() -> None:
            die_at(out, moment)
            self.pack(out)

        status = in_child(work)
        assert status in (0, -signal.SIGKILL), f"a run ended with {status}"
        return status != 0

    def resumed(self, out: Path) -> None:
        """Run to the end."""
        assert in_child(lambda: self.pack(out)) == 0

    def each(self, moments: Callable[[list[Event]], Iterable[Moment]]) -> Iterator[dict[str, Any]]:
        """Die once at every one of some moments, each in a folder of its own."""
        whole = self.folder / "whole"
        events = self.events(whole)
        expected = tree(whole)
        yield {"events": [[event.what, event.path] for event in events], "tree": expected}
        for moment in moments(events):
            out = self.folder / f"{moment.number}{'-torn' if moment.torn else ''}"
            killed = self.killed(out, moment)
            before = kept_shards(out)
            self.resumed(out)
            after = kept_shards(out)
            yield {
                **asdict(moment),
                "killed": killed,
                "with_receipt": len(before),
                "kept": sum(after[name] == shard for name, shard in before.items()),
                "differs": differences(expected, tree(out)),
            }

    def chain(self) -> Iterator[dict[str, Any]]:
        """Die again and again in one folder, each time after a few dozen events."""
        whole, out = self.folder / "undisturbed", self.folder / "chain"
        self.resumed(whole)
        numbers, kills = random.Random(SEED), 0
        while self.killed(out, Moment(numbers.randrange(20, 45))):
            kills += 1
        yield {"kills": kills, "differs": differences(tree(whole), tree(out))}


def around_files(events: Sequence[Event]) -> list[Moment]:
    """Before anything is there; every file half written, and whole but nameless; the last one named."""
    renames = [number for number, event in enumerate(events) if event.what == "rename"]
    return [
        *map(Moment, range(3)),
        *(Moment(number, torn) for number in renames for torn in (True, False)),
        Moment(renames[-1] + 1),
    ]


def all_moments(events: Sequence[Event]) -> list[Moment]:
    """Before every event, and with every file half written."""
    torn = [Moment(number, torn=True) for number, event in enumerate(events) if event.what == "rename"]
    return [*map(Moment, range(len(events))), *torn]


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Files that are missing, too many or other than they should be."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def main() -> None:
    """As the module says."""
    runs = Runs(Path(sys.argv[1]), Path(sys.argv[2]))
    work: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "files": partial(runs.each, around_files),
        "every": partial(runs.each, all_moments),
        "chain": runs.chain,
    }
    for document in chain.from_iterable(work[what]() for what in sys.argv[3:]):
        sys.stdout.write(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
