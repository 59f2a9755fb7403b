#!/usr/bin/env python3
"""Where a loader's time goes, threads against worker processes, and what opening a great pack set costs.

    python scripts/bench_runtime.py PACKSET...            stages, threads and workers, of real pack sets
    python scripts/bench_runtime.py --index 10000000      opens a made-up index of so many packs

CPU time of everything that runs, workers included; of several rounds, the least. On a shared machine the clock on the wall
measures the neighbours as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import vlmprep
from vlmprep.runtime import Loader, PackSet
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.files import sha256_file
from vlmprep.schema.packset import PACKS
from vlmprep.shardformat.index import write_index
from vlmprep.shardformat.manifest import FileRecord, Manifest, RowCounts, ShardRecord
from vlmprep.shardformat.pack import check_digest, decode_pack

PACKS_PER_SHARD = 300


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packsets", nargs="*", help="finished pack sets")
    parser.add_argument("--index", type=int, help="packs of a made-up index")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.open:
        open_it(Path(arguments.open))
    for packset in arguments.packsets:
        stages(vlmprep.open(packset))
        ways(vlmprep.open(packset))
    if arguments.index:
        opening(arguments.index)


def core_seconds() -> float:
    """Of this process and of children that have ended."""
    return sum(os.times()[:4])


def least(work: Callable[[], object], rounds: int = 4) -> float:
    """Core seconds of the quickest of several rounds; the first only warms up."""
    spent = []
    for _ in range(rounds):
        start = core_seconds()
        work()
        spent.append(core_seconds() - start)
    return min(spent[1:])


def stages(packs: PackSet) -> None:
    """One pack after the other, by what is done to it."""
    index, each = packs.index, range(len(packs))
    tokens, size = int(index.num_tokens.sum()), int(index.size.sum())
    raws = [packs._read(k) for k in each]  # noqa: SLF001 - what this script takes apart
    decoded = [packs[k] for k in each]
    rules = packs.manifest.pixels
    print(f"{packs.manifest.compression}: {len(packs)} packs, {tokens:,} tokens, {size / 1e6:.0f} MB stored")
    loader = Loader(packs, collate="hf", shuffle=False, pixels="stored", tail="pad")
    reading = least(lambda: [packs._read(k) for k in each])  # noqa: SLF001
    hashing = least(lambda: hash_all(packs, raws))
    unpacking = least(lambda: [len(decode_pack(raw, shard="", pack_id=k)) for k, raw in enumerate(raws)])
    restoring = least(lambda: [len(restore_all(dict(pack), rules)) for pack in decoded])
    whole = least(lambda: sum(len(batch) for batch in loader))
    rest = whole - reading - unpacking
    for name, spent in (
        ("read, digests checked", reading),
        ("  of it digests", hashing),
        ("unpack", unpacking),
        ("deal out, collate", rest),
        ("restore pixels to float32", restoring),
    ):
        print(f"  {name:<28}{spent / len(packs) * 1000:8.2f} ms a pack")
    print(f"  {'batches, pixels as stored':<28}{tokens / whole:12,.0f} tokens a core second")
    print(f"  {'batches, pixels restored':<28}{tokens / (whole + restoring):12,.0f} tokens a core second")


def hash_all(packs: PackSet, raws: list[memoryview]) -> None:
    """Check the digest of every pack."""
    for pack_id, raw in enumerate(raws):
        check_digest(raw, int(packs.index.xxh3[pack_id]), shard="", pack_id=pack_id)


def ways(packs: PackSet) -> None:
    """The same batches here, from threads, from worker processes."""

    def loader(**options: Any) -> Loader:
        return Loader(packs, collate="hf", shuffle=False, pixels="stored", tail="pad", **options)

    plain = least(partial(count, loader()))
    print(f"  {'in the loop':<28}{1.0:8.2f}x core time")
    for number in (1, 2):
        for workers in ("threads", "processes"):
            made = loader(num_workers=number, worker_kind=workers)
            spent = least(partial(count, made))
            print(f"  {f'{number} {workers}':<28}{spent / plain:8.2f}x")


def count(loader: Loader, epochs: int = 4) -> int:
    """Run through some epochs, so that starting workers matters little."""
    return sum(len(batch) for _ in range(epochs) for batch in loader)


def opening(num_packs: int) -> None:
    """Open a made-up pack set in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_index(root, num_packs)
        subprocess.run([sys.executable, __file__, "--open", folder], check=True)


def make_index(root: Path, num_packs: int) -> None:
    """A manifest, an index and empty space where shards would be."""
    size = 4 << 20
    numbers = np.arange(num_packs)
    inside = numbers % PACKS_PER_SHARD
    columns = {name: np.ones(num_packs, PACKS.field(name).type.to_pandas_dtype()) for name in PACKS.names}
    columns |= {"shard": (numbers // PACKS_PER_SHARD).astype(np.int32), "offset": inside * size}
    columns |= {"size": np.full(num_packs, size), "cost": 1000 + inside.astype(float)}
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
        shards=tuple(shards),
        files=files,
        settings={},
        fingerprint={},
        plan={"digest": "0", "seed": 0},
    )
    (root / "manifest.json").write_bytes(manifest.to_bytes())


def open_it(root: Path) -> None:
    """What opening, making a loader and dealing out the first step cost, in a process of its own."""
    before = resident()

    def said(what: str, work: Callable[[], Any]) -> Any:
        start, clock = time.process_time(), time.perf_counter()
        made = work()
        spent, passed = time.process_time() - start, time.perf_counter() - clock
        print(f"  {what:<28}{spent:6.2f} s of a core, {passed:6.2f} s, {resident() - before:6.0f} MB resident more")
        return made

    print(f"{json.loads((root / 'manifest.json').read_bytes())['num_packs']:,} packs")
    packs = said("open, sizes checked", lambda: vlmprep.open(root))
    said("open, unchecked", lambda: vlmprep.open(root, verify=False))
    loader = said("make a loader", lambda: Loader(packs, dp_world_size=64))
    said("the epoch's first step", lambda: next(iter(loader.sampler)))
    print(f"  {'most at any time':<28}{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:24.0f} MB")


def resident() -> float:
    """Megabytes of this process in memory."""
    pa.default_memory_pool().release_unused()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
