#!/usr/bin/env python3
"""A pack set in a local folder against one on S3: packed, verified, read with an empty and a full cache; one run, one core.

    python scripts/bench_stores.py                                     the demo's corpus and processor
    python scripts/bench_stores.py --sources data.jsonl --processor P  your own

The store is moto's server on loopback, a process of its own. It is slow, so that wall time says more of it than of vlmprep: what
counts is the CPU time of our process, and its ratio to the local folder's. Every line is the median of some rounds, in each of
which the two places take turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import s3fs
from bench_path import inputs, settings_of, timed
from rich.console import Console
from rich.table import Table

from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.estimate import estimate
from vlmprep.pipeline.run import run_pack
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.pipeline.verify import verify
from vlmprep.runtime import Loader
from vlmprep.runtime.packset import open as open_packset
from vlmprep.schema.progress import Silent

BUCKET = "bench"


@contextmanager
def s3_server() -> Iterator[None]:
    """Moto's server with an empty bucket, where every client of this process finds it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield
    finally:
        server.terminate()
        server.wait()


class Bench:
    """What is done in each place."""

    def __init__(self, work: Path, args: argparse.Namespace) -> None:
        sources, processor = inputs(work, args, samples=200)
        self._counts, self._ledger = settings_of(processor), work / "ledger"
        self._cache = work / "cache"
        estimate(sources, self._counts, self._ledger, LocalEngine(0), Silent())

    def pack(self, place: str) -> int:
        """Write a pack set."""
        run_pack(
            [str(self._ledger)],
            self._counts,
            PlanSettings(),
            PackSettings(shard_bytes=128 << 20),
            out=place,
            plan=None,
            max_refused=1.0,
            engine=LocalEngine(0),
            progress=Silent(),
        )
        return len(open_packset(place))

    def verify(self, place: str) -> int:
        """All of it."""
        found = verify(place, LocalEngine(0), Silent())
        assert not found.problems, found.problems
        return found.num_packs

    def read_cold(self, place: str) -> int:
        """All packs through a Loader, with nothing in the cache."""
        shutil.rmtree(self._cache, ignore_errors=True)
        return self.read(place)

    def read(self, place: str) -> int:
        """All packs through a Loader."""
        packs, collate = open_packset(place), lambda packs: {"packs": len(packs)}
        loader = Loader(packs, dp_rank=0, dp_world_size=1, shuffle=False, collate=collate, num_workers=0)
        return sum(batch["packs"] for batch in loader)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+")
    parser.add_argument("--processor")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, s3_server():
        work = Path(folder)
        os.environ["VLMPREP_CACHE"] = str(work / "cache")
        bench = Bench(work, args)
        steps: dict[str, Callable[[str], int]] = {
            "packing": bench.pack,
            "verifying": bench.verify,
            "reading, cache empty": bench.read_cold,
            "reading, cache full": bench.read,
        }
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
        for number in range(args.rounds + 1):
            for name, step in steps.items():
                places = (str(work / f"set-{number}"), f"s3://{BUCKET}/set-{number}")
                here, there = (timed(name, partial(step, place)) for place in places)
                assert here.num_samples == there.num_samples > 0
                each = (here.core_seconds, there.core_seconds, here.wall_seconds, there.wall_seconds)
                found[name].append(tuple(1000 * seconds / here.num_samples for seconds in each))
        table = Table("", "local, CPU", "S3, CPU", "ratio", "local, wall", "S3, wall", title="Milliseconds a pack")
        for name, rounds in found.items():
            times = [statistics.median(each) for each in zip(*rounds[1:], strict=True)]  # the first loads and compiles
            ratio = statistics.median(each[1] / each[0] for each in rounds[1:])
            core, wall = [f"{each:.1f}" for each in times[:2]], [f"{each:.0f}" for each in times[2:]]
            table.add_row(name, *core, f"{ratio:.2f}", *wall)
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
