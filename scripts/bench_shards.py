#!/usr/bin/env python3
"""Shards against a loop over the model's own processor: packing, reading, bytes, memory; the same samples, one core, one run.

    python scripts/bench_shards.py                                     the demo's corpus and processor
    python scripts/bench_shards.py --sources data.jsonl --processor P  your own
    python scripts/bench_shards.py --only codecs                       one of: modes, parts, codecs, workers, memory

Seconds are CPU time of the processes that do the work. The loop runs on every third sample before and after each measurement,
and the measurement is compared with the mean of both: machines drift, and so do neighbours.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_path import countable, inputs, loop, settings_of, timed
from rich.console import Console
from rich.table import Table

from vlmprep.counting.ledger import Ledger, open_ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.families.loading import load_family
from vlmprep.pipeline import packjob
from vlmprep.pipeline.documents import DocumentMaker
from vlmprep.pipeline.estimate import estimate
from vlmprep.pipeline.pack import pack
from vlmprep.pipeline.plan import make_plan, open_plan
from vlmprep.pipeline.plan.file import Plan
from vlmprep.pipeline.settings import CountSettings, PackSettings, PlanSettings
from vlmprep.runtime.packset import open as open_packset
from vlmprep.schema.progress import Silent
from vlmprep.shardformat import members, patch_rows, row_pairs
from vlmprep.shardformat.manifest import Manifest
from vlmprep.shards.writer import ShardWriter

MODES = (
    ("uint8", "zstd"), ("uint8", "lz4"), ("uint8", "none"), ("bfloat16", "zstd"), ("float32", "none"), ("encoded", "zstd"),
)  # fmt: skip
TABLES = ("modes", "parts", "codecs", "workers", "memory")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all tables are made from."""

    work: Path
    counts: CountSettings
    ledger: Ledger
    plan: Plan
    processor: Any
    samples: list[Any]
    """Every third."""
    console: Console = field(default_factory=functools.partial(Console, width=140))

    def pack(self, pixels: Any = "uint8", compression: Any = "zstd", *, workers: int = 0, tag: str = "") -> Manifest:
        """Write a pack set anew."""
        out = self.work / f"{pixels}-{compression}{tag}"
        subprocess.run(["rm", "-rf", str(out)], check=True)
        writing = PackSettings(pixels=pixels, compression=compression, shard_bytes=128 << 20)
        return pack(self.ledger, self.plan, self.counts, writing, out, LocalEngine(workers), Silent())

    def loop(self) -> float:
        """Milliseconds of a core for a sample of the loop."""
        return timed("loop", lambda: loop(self.processor, self.samples)).milliseconds


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", help="as for `vlmprep estimate`; default: a drawn corpus")
    parser.add_argument("--processor", help="folder or hub name; default: the demo's")
    parser.add_argument("--samples", type=int, default=600, help="samples of the drawn corpus")
    parser.add_argument("--only", choices=TABLES, help="one table")
    parser.add_argument("--pack-once", nargs=2, help=argparse.SUPPRESS)  # one run in a process of its own
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if args.pack_once:
        pack_once(Path(args.pack_once[0]), int(args.pack_once[1]), settings_of(args.processor))
        return
    with tempfile.TemporaryDirectory(prefix="vlmprep-bench-") as folder:
        bench = prepare(Path(folder), *inputs(Path(folder), args, args.samples))
        bench.loop()
        for name in [args.only] if args.only else TABLES:
            globals()[f"show_{name}"](bench)


def prepare(work: Path, sources: list[str], processor: str) -> Bench:
    """Count, plan, and load what is loaded once."""
    counts = settings_of(processor)
    ledger = estimate(sources, counts, work / "ledger", LocalEngine(0), Silent())
    plan = make_plan(ledger, PlanSettings(), work / "plan")
    family: Any = load_family(counts.family)
    samples = list(countable(work, counts, sys.maxsize))[::3]
    return Bench(work=work, counts=counts, ledger=ledger, plan=plan, processor=family.processor, samples=samples)


def show_modes(bench: Bench) -> None:
    """What every form of pixels costs to write, to keep and to read."""
    with_one_core()
    table = Table("pixels", "codec", "loop, ms", "packing, ms", "times", "bytes a visual token", "reading, ms", "times")
    bench.pack()  # compiles what is compiled once
    for pixels, compression in MODES:
        before = bench.loop()
        start = time.process_time()
        manifest = bench.pack(pixels, compression)
        written = 1000 * (time.process_time() - start) / manifest.num_samples
        between = bench.loop()
        out = bench.work / f"{pixels}-{compression}"
        read_all(out)
        read = 1000 * min(read_all(out) for _ in range(2)) / manifest.num_samples
        after = bench.loop()
        size = sum(shard.size for shard in manifest.shards) / manifest.num_visual_tokens
        table.add_row(
            pixels, compression, f"{(before + between + after) / 3:.2f}", f"{written:.2f}",
            f"{(before + between) / 2 / written:.2f}x", f"{size:,.0f}", f"{read:.3f}", f"{(between + after) / 2 / read:.1f}x",
        )  # fmt: skip
    bench.console.print(table)


def read_all(out: Path) -> float:
    """Seconds of a core for reading every pack, digests checked, results let go of."""
    packs = open_packset(out)
    start = time.process_time()
    for pack_id in range(len(packs)):
        packs[pack_id]
    return time.process_time() - start


def show_parts(bench: Bench) -> None:
    """Where the time of packing goes."""
    with_one_core()
    family: Any = load_family(bench.counts.family)
    bench.pack()
    spent: Counter[str] = Counter()
    wrapped = [
        (family, "encode", "template, tokens, labels"), (family, "load", "decoding"),
        (family, "tensors", "resizing, patches"), (family, "positions", "positions"),
        (packjob, "assemble_pack", "laying end to end"), (row_pairs, "forward", "transform"),
        (members, "_compress", "codec"), (ShardWriter, "add_pack", "writing and hashing"),
        (ShardWriter, "__exit__", "writing and hashing"), (packjob, "write_receipt", "writing and hashing"),
    ]  # fmt: skip
    with timers(wrapped, spent):
        start = time.process_time()
        manifest = bench.pack()
        total = time.process_time() - start
    all_else = ("all else: rows, headers, index, manifest", total - sum(spent.values()))
    table = Table("part of packing, uint8 + zstd", "ms a sample", "share")
    for name, seconds in [*spent.most_common(), all_else]:
        table.add_row(name, f"{1000 * seconds / manifest.num_samples:.3f}", f"{seconds / total:.1%}")
    table.add_row("together", f"{1000 * total / manifest.num_samples:.3f}", "")
    bench.console.print(table)


@contextmanager
def timers(wrapped: list[tuple[Any, str, str]], spent: Counter[str]) -> Iterator[None]:
    """Add up the CPU time of some functions."""
    plain = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in wrapped]
    for owner, name, part in wrapped:
        setattr(owner, name, with_timer(getattr(owner, name), part, spent))
    try:
        yield
    finally:
        for owner, name, function in plain:
            delattr(owner, name) if function is None else setattr(owner, name, function)


def with_timer(function: Callable[..., Any], part: str, spent: Counter[str]) -> Callable[..., Any]:
    """The same function, timed."""

    def timed_function(*arguments: Any, **settings: Any) -> Any:
        start = time.process_time()
        try:
            return function(*arguments, **settings)
        finally:
            spent[part] += time.process_time() - start  # type: ignore[assignment]

    return timed_function


def show_codecs(bench: Bench) -> None:
    """What transform and codec cost, a visual token of pixels."""
    with_one_core()
    manifest = bench.pack("uint8", "none")
    packs = open_packset(bench.work / "uint8-none")
    arrays = [in_planes(packs[k]["pixel_values"].numpy()) for k in range(len(packs)) if "pixel_values" in packs[k]]
    tokens = manifest.num_visual_tokens
    table = Table("pixels before the codec", "codec", "bytes a visual token", "packing, us", "unpacking, us", "GB/s")
    for transform in (row_pairs, patch_rows, None):
        for codec in members.COMPRESSIONS:
            if transform and codec == "none":
                continue
            size, packed, unpacked = codec_costs(arrays, transform, codec)
            table.add_row(
                transform.__name__.rpartition(".")[2] if transform else "as they are", codec, f"{size / tokens:,.0f}",
                f"{1e6 * packed / tokens:.2f}", f"{1e6 * unpacked / tokens:.3f}",
                f"{sum(array.nbytes for array in arrays) / unpacked / 1e9:.1f}",
            )  # fmt: skip
    bench.console.print(table)


def in_planes(natural: Any) -> Any:
    """Pixels in the memory order in which families lay them out."""
    return np.ascontiguousarray(natural.transpose(2, 1, 0, 3)).transpose(2, 1, 0, 3)


def codec_costs(arrays: list[Any], transform: Any, codec: Any) -> tuple[int, float, float]:
    """Bytes, seconds of packing and seconds of unpacking."""
    name = "pixel_values" if transform else "levels"  # a field of another name is not transformed
    known = dict(members.TRANSFORMS)
    if transform is patch_rows:
        members.TRANSFORMS.pop(row_pairs.ROW_PAIRS)
        members.TRANSFORMS[row_pairs.ROW_PAIRS] = row_pairs  # tried last
    size, packed, unpacked = 0, 0.0, 0.0
    for array in arrays:
        start = time.process_time()
        suffix, content = members.encode_member(name, array, compression=codec)
        packed += time.process_time() - start
        size += len(content)
        info = members.describe_member(name, array, compression=codec)
        seconds = []
        for _ in range(2):
            start = time.process_time()
            _, found = members.decode_member(suffix, content, info)
            seconds.append(time.process_time() - start)
            assert found.shape == array.shape
        unpacked += min(seconds)
        assert np.array_equal(found, array)
    members.TRANSFORMS.clear()
    members.TRANSFORMS.update(known)
    return size, packed, unpacked


def show_workers(bench: Bench) -> None:
    """CPU time of two workers against one's: what they would do on two free cores."""
    with suppress(AttributeError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    table = Table("workers", "starting one, s of a core", "then ms a sample", "as fast as one, on cores of their own")
    alone = 0.0
    for workers in (1, 2):
        before = children()
        for _ in LocalEngine(workers).run(StartUp(counts=bench.counts), range(workers)):
            pass
        started = children() - before
        before = children()
        manifest = bench.pack(workers=workers, tag=f"-{workers}")
        each = 1000 * (children() - before - started) / manifest.num_samples
        alone = alone or each
        table.add_row(str(workers), f"{started / workers:.1f}", f"{each:.2f}", f"{workers * alone / each:.2f}x")
    bench.console.print(table)


@dataclass(frozen=True, kw_only=True)
class StartUp:
    """What a worker of the pack stage pays once."""

    counts: CountSettings

    def open(self) -> Callable[[int], int]:
        """Load the libraries, the processor, and the fake image."""
        DocumentMaker((), self.counts, "pack").fake_document()
        return abs


def children() -> float:
    """CPU seconds of processes that ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def show_memory(bench: Bench) -> None:
    """Peak memory of a process that packs, whatever the size of a shard."""
    table = Table("bytes of tensors in a shard", "shards", "peak MiB")
    for size in (1, 64 << 20, 1 << 30):
        command = [sys.executable, __file__, "--processor", bench.counts.family.processor]
        done = subprocess.run(
            [*command, "--pack-once", str(bench.work), str(size)], check=True, capture_output=True, text=True
        )
        shards, peak = done.stdout.split()[-2:]
        table.add_row(f"{size:,}", shards, f"{int(peak) / 1024:,.0f}")
    bench.console.print(table)


def pack_once(work: Path, shard_bytes: int, counts: CountSettings) -> None:
    """Pack in this process; print the number of shards and the peak of its memory in KiB."""
    ledger, plan = open_ledger(work / "ledger"), open_plan(work / "plan")
    writing = PackSettings(shard_bytes=shard_bytes)
    manifest = pack(ledger, plan, counts, writing, work / f"once-{shard_bytes}", LocalEngine(0), Silent())
    print(len(manifest.shards), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def with_one_core() -> None:
    """Stay on one core, where the system lets us."""
    with suppress(AttributeError):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main()
