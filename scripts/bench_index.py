#!/usr/bin/env python3
"""What a great pack set costs a host: opening it, the order of an epoch, memory with many ranks and workers.

    python scripts/bench_index.py                                  ten million packs, 8 ranks of 2 workers
    python scripts/bench_index.py --packs 1000000 --ranks 4 --workers 1

The index is made up. Core seconds are of the process that is measured. Proportional memory (PSS, as Linux tells it) counts a page
that n processes share as an n-th in each, so the sum is what the host has to have. Forked Python shares less and less of its own
heap, whatever it opened: so the same ranks and workers open a small set, too, and the difference is what the great one costs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import vlmprep
from vlmprep.runtime import Loader
from vlmprep.schema.files import sha256_file
from vlmprep.schema.packset import PACKS
from vlmprep.shardformat.index import write_index
from vlmprep.shardformat.manifest import FileRecord, Manifest, RowCounts
from vlmprep.shardformat.shardrecords import ShardRecord, ShardRecords

PACKS_PER_SHARD = 300
SMALL = 3_000
"""Packs of the set that costs nothing."""
STAGES = ("before", "opened", "in an epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """All processes of a host at one time."""

    num_processes: int
    own: float
    """Megabytes that are no file's."""
    pages: float
    """Megabytes of the index's pages."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=10_000_000)
    parser.add_argument("--ranks", type=int, default=8, help="processes of the host that open it")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of each, forked")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        open_it(arguments.open)
        return
    with tempfile.TemporaryDirectory() as folder:
        great, small = Path(folder, "great"), Path(folder, "small")
        make_index(great, arguments.packs)
        make_index(small, SMALL)
        subprocess.run([sys.executable, __file__, "--open", str(great)], check=True)
        ranks, workers = arguments.ranks, arguments.workers
        print(f"{ranks} ranks of {workers} forked workers each, together, proportional memory (PSS) more than before:")
        compare(host(great, ranks, workers), host(small, ranks, workers), arguments.packs)


def make_index(root: Path, num_packs: int) -> None:
    """A manifest, an index and empty space where shards would be."""
    root.mkdir()
    size = 4 << 20
    numbers = np.arange(num_packs)
    inside = numbers % PACKS_PER_SHARD
    columns = {name: np.ones(num_packs, PACKS.field(name).type.to_pandas_dtype()) for name in PACKS.names}
    columns |= {"shard": (numbers // PACKS_PER_SHARD).astype(np.int32), "offset": inside * size}
    columns |= {"size": np.full(num_packs, size), "cost": 1000 + inside.astype(float)}
    columns |= {"num_label_tokens": np.full(num_packs, 3000, np.int32)}
    write_index(root / "packs.arrow", columns)
    (root / "samples.parquet").touch()
    (root / "shards").mkdir()
    shards = []
    for shard, count in enumerate(np.bincount(columns["shard"]).tolist()):
        name = f"shards/{shard:06d}.tar"
        with (root / name).open("wb") as file:
            file.truncate(count * size)
        shards.append(ShardRecord(name=name, size=count * size, sha256="0" * 64, num_packs=count))
    numbers_of = {name: num_packs for name in PACKS.names if name.startswith("num_")}
    files = {
        name: FileRecord(size=(root / name).stat().st_size, sha256=sha256_file(root / name))
        for name in ("packs.arrow", "samples.parquet")
    }
    manifest = Manifest(
        vlmprep_version="0",
        family="qwen2_5_vl",
        pack_size=8192,
        num_packs=num_packs,
        **numbers_of,
        rows=RowCounts(packed=num_packs, refused=0, unused=0),
        pad_token_id=0,
        position_axes=3,
        pixels={},
        compression="zstd",
        shards=ShardRecords(shards),
        files=files,
        settings={},
        fingerprint={},
        plan={"digest": "0", "seed": 0},
    )
    (root / "manifest.json").write_bytes(manifest.to_bytes())


def open_it(root: Path) -> None:
    """What opening, making a loader and dealing out the first step cost, in a process of its own."""
    before, own = resident(), resident("RssAnon")

    def said(what: str, work: Callable[[], Any]) -> Any:
        start, clock = time.process_time(), time.perf_counter()
        made = work()
        spent, passed = time.process_time() - start, time.perf_counter() - clock
        print(
            f"  {what:<36}{spent:6.2f} s of a core, {passed:6.2f} s, {resident() - before:6.0f} MB resident more, "
            f"{resident('RssAnon') - own:4.0f} of it in no file"
        )
        return made

    print(f"{json.loads((root / 'manifest.json').read_bytes())['num_packs']:,} packs; {before:.0f} MB before")
    packs = said("open, sizes and digest checked", lambda: vlmprep.open(root))
    loader = said("make a loader", lambda: Loader(packs, dp_world_size=64))
    steps = said("the first step of an epoch", lambda: first_step(loader))
    assert len(steps) > 1
    print(f"  {'most at any time':<36}{resident('VmHWM') - before:24.0f} MB more")


def first_step(loader: Loader) -> list[Any]:
    """The steps, begun, so that they stay in memory, and their first."""
    steps = iter(loader.sampler)
    return [steps, next(steps)]


def host(root: Path, ranks: int, workers: int) -> list[Stage]:
    """Proportional memory of all ranks with their workers: before the set is opened, at rest, and in an epoch."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(ranks):
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=run_rank, args=(root, rank, ranks, workers, theirs)))
        pipes.append(mine)
        processes[-1].start()
    stages = []
    for _ in STAGES:
        pids = [pid for pipe in pipes for pid in pipe.recv()]  # every rank stands still
        own, pages = sum(map(own_memory, pids)), sum(map(index_pages, pids))
        stages.append(Stage(num_processes=len(pids), own=own, pages=pages))
        for pipe in pipes:
            pipe.send(None)
    for process in processes:
        process.join()
    return stages


def compare(great: list[Stage], small: list[Stage], num_packs: int) -> None:
    """What the great set takes, and what processes take of themselves, whatever they open."""
    print(
        f"  {'':<12}{'processes':>10}{num_packs:>14,} packs{SMALL:>10,} packs{'the set itself':>17}{'and pages of its index':>25}"
    )
    for name, of_great, of_small in list(zip(STAGES, great, small, strict=True))[1:]:
        more, usual = of_great.own - great[0].own, of_small.own - small[0].own
        print(
            f"  {name:<12}{of_great.num_processes:>10}{more:>17.0f} MB{usual:>13.0f} MB{more - usual:>14.0f} MB"
            f"{of_great.pages - of_small.pages:>22.0f} MB"
        )


def run_rank(root: Path, rank: int, ranks: int, workers: int, pipe: Any) -> None:
    """One rank: stands still before it opens the set, behind it, and in the middle of an epoch."""

    def still(*pids: int) -> None:
        pa.default_memory_pool().release_unused()
        pipe.send([os.getpid(), *pids])
        pipe.recv()

    still()
    packs = vlmprep.open(root)
    loader = Loader(packs, dp_rank=rank, dp_world_size=ranks)
    still()
    steps = iter(loader.sampler)
    next(steps)
    fork = multiprocessing.get_context("fork")
    ready = fork.Semaphore(0)
    children = [fork.Process(target=work, args=(packs, ready, rank + each), daemon=True) for each in range(workers)]
    for child in children:
        child.start()
    for _ in children:
        ready.acquire()
    still(*(child.pid or 0 for child in children))
    for child in children:
        child.terminate()


def work(packs: Any, ready: Any, seed: int) -> None:
    """What a worker does with the index: look packs up, anywhere."""
    for pack_id in np.random.default_rng(seed).integers(0, len(packs), 100_000).tolist():
        packs._part(pack_id)  # noqa: SLF001 - where a pack lies, without reading it
    ready.release()
    time.sleep(3600)


def own_memory(pid: int) -> float:
    """Megabytes of a process that are no file's, pages shared with others by halves, thirds and so on."""
    lines = dict(each.split(":", 1) for each in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(lines[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) * 1.024e-3


def index_pages(pid: int) -> float:
    """Megabytes of packs.arrow that a process has mapped and read, shared as before."""
    total, counts = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split()
        if "-" in head[0] and not head[0].endswith(":"):
            counts = head[-1].endswith("packs.arrow")
        elif head[0] == "Pss:" and counts:
            total += int(head[1])
    return total * 1.024e-3


def resident(line: str = "VmRSS") -> float:
    """Megabytes of this process in memory: now, or with `VmHWM` at most (getrusage would tell the most of its parent, too)."""
    pa.default_memory_pool().release_unused()
    lines = dict(each.split(":", 1) for each in Path("/proc/self/status").read_text().splitlines())
    return int(lines[line].split()[0]) * 1.024e-3


if __name__ == "__main__":
    main()
