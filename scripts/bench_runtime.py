#!/usr/bin/env python3
"""Batches of one core against a loop over the model's own processor; where a loader's time goes; threads against processes.

    python scripts/bench_runtime.py                                     the demo's corpus and processor
    python scripts/bench_runtime.py --sources data.jsonl --processor P  your own
    python scripts/bench_runtime.py --only waiting                      one of: speed, ways, waiting

The samples are packed with every codec. The loop runs on every third of them before and after each measurement, which is
compared with the mean of both: machines drift. Seconds are CPU time of everything that works, processes included; of several
rounds, the least. Waiting is told by the clock on the wall, so leave the machine alone for that. What a great index costs:
bench_index.py.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_path import inputs
from bench_shards import Bench, prepare
from rich.table import Table

import vlmprep
from vlmprep.runtime import Loader, PackSet
from vlmprep.runtime.pixels import restore_all
from vlmprep.shardformat.pack import check_digest, decode_pack

CODECS = ("zstd", "lz4", "none")
TABLES = ("speed", "ways", "waiting")
EPOCHS = 4
"""That threads and processes run through, so that starting them matters little."""
BUSY = 3
"""A training loop's own work for a step, in the core time of a batch."""


def main() -> None:
    """Pack, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", help="as for `vlmprep estimate`; default: a drawn corpus")
    parser.add_argument("--processor", help="folder or hub name; default: the demo's")
    parser.add_argument("--samples", type=int, default=400, help="samples of the drawn corpus")
    parser.add_argument("--only", choices=TABLES, help="one table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory(prefix="vlmprep-bench-") as folder:
        bench = prepare(Path(folder), *inputs(Path(folder), args, args.samples))
        for codec in CODECS:
            bench.pack("uint8", codec)
        for name in [args.only] if args.only else TABLES:
            globals()[f"show_{name}"](bench)


def opened(bench: Bench, codec: str) -> PackSet:
    """The pack set of a codec."""
    return vlmprep.open(bench.work / f"uint8-{codec}")


def loader_of(packs: PackSet, **options: Any) -> Loader:
    """Every pack once an epoch, one at a time, pixels as they are stored."""
    return Loader(packs, **{"collate": "hf", "shuffle": False, "pixels": "stored", **options})


def core_seconds() -> float:
    """Of this process and of children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def least(work: Callable[[], object], rounds: int = 4) -> float:
    """Core seconds of the quickest of several rounds; the first only warms up."""
    spent = []
    for _ in range(rounds):
        start = core_seconds()
        work()
        spent.append(core_seconds() - start)
    return min(spent[1:])


def run_through(loader: Loader, epochs: int = 1) -> int:
    """Take every batch and let go of it."""
    return sum(len(batch) for _ in range(epochs) for batch in loader)


def show_speed(bench: Bench) -> None:
    """Collated batches of one core against the loop, and where their time goes."""
    speed = Table(
        "codec", "pixels", "loop, ms a sample", "batches, ms a sample", "tokens a core second", "against the loop"
    )
    parts = Table(
        "codec, ms a pack", "read", "digest", "unpack", "deal out, collate", "restore float32", "restore bfloat16"
    )
    bench.loop()
    for codec in CODECS:
        packs = opened(bench, codec)
        num_samples, tokens = packs.manifest.num_samples, packs.manifest.num_tokens
        spent = {}
        for pixels in ("stored", "float32", "bfloat16"):
            before = bench.loop()
            spent[pixels] = least(partial(run_through, loader_of(packs, pixels=pixels)))
            loop = (before + bench.loop()) / 2
            each = 1000 * spent[pixels] / num_samples
            speed.add_row(
                codec, pixels, f"{loop:.2f}", f"{each:.3f}", f"{tokens / spent[pixels]:,.0f}", f"{loop / each:.1f}x"
            )
        times = stages(packs, spent["stored"])
        parts.add_row(codec, *(f"{1000 * seconds / len(packs):.2f}" for seconds in times))
    bench.console.print(f"{packs.manifest.num_packs} packs of {packs.manifest.pack_size} tokens, {num_samples} samples")
    bench.console.print(speed)
    bench.console.print(parts)


def stages(packs: PackSet, whole: float) -> Iterator[float]:
    """Core seconds of each thing that is done to packs.

    Args:
        packs: All of them.
        whole: Core seconds of their batches with pixels as they are stored.
    """
    each = range(len(packs))
    raws = [packs._read(k) for k in each]  # noqa: SLF001 - what this script takes apart
    reading = least(lambda: [packs._read(k) for k in each])  # noqa: SLF001
    hashing = least(lambda: hash_all(packs, raws))
    unpacking = least(lambda: [len(decode_pack(raw, shard="", pack_id=k)) for k, raw in enumerate(raws)])
    yield from (reading - hashing, hashing, unpacking, whole - reading - unpacking)
    for dtype in (torch.float32, torch.bfloat16):
        yield least(lambda dtype=dtype: [len(restore_all(packs[k], packs.manifest.pixels, dtype)) for k in each]) - (  # type: ignore[misc]
            reading + unpacking
        )


def hash_all(packs: PackSet, raws: list[memoryview]) -> None:
    """Check the digest of every pack."""
    for pack_id, raw in enumerate(raws):
        check_digest(raw, int(packs.index.xxh3[pack_id]), shard="", pack_id=pack_id)


def show_ways(bench: Bench) -> None:
    """Core time of the same batches here, from threads, from worker processes."""
    table = Table("core time", *CODECS)
    plain = {codec: least(partial(run_through, loader_of(opened(bench, codec)), EPOCHS)) for codec in CODECS}
    table.add_row("in the loop", *("1.00" for _ in CODECS))
    for number in (1, 2):
        for kind in ("threads", "processes"):
            made = {codec: loader_of(opened(bench, codec), num_workers=number, worker_kind=kind) for codec in CODECS}
            spent = {codec: least(partial(run_through, made[codec], EPOCHS)) for codec in CODECS}
            table.add_row(f"{number} {kind}", *(f"{spent[codec] / plain[codec]:.2f}" for codec in CODECS))
    bench.console.print(table)


def show_waiting(bench: Bench) -> None:
    """Milliseconds a step that a training loop waits for its batch, with loops that hold on to Python more or less."""
    for codec in ("zstd", "none"):
        packs = opened(bench, codec)
        alone = 1000 * least(partial(run_through, loader_of(packs))) / len(packs)
        title = f"{codec}: a batch takes {alone:.1f} ms of a core, the loop's own work {BUSY * alone:.1f} ms; ms a step"
        table = Table("the loop", "workers", "waits, median", "waits, mean", "a step takes", "core time", title=title)
        for name, busy in LOOPS.items():
            for workers in (
                {},
                *({"num_workers": n, "worker_kind": k} for k in ("threads", "processes") for n in (1, 2)),
            ):
                waits, step, core = train(loader_of(packs, **workers), partial(busy, BUSY * alone / 1000))
                kind = f"{workers['num_workers']} {workers['worker_kind']}" if workers else "none"
                mean, median = statistics.mean(waits), statistics.median(waits)
                table.add_row(name, kind, f"{median:.2f}", f"{mean:.2f}", f"{step:.1f}", f"{core:.1f}")
        bench.console.print(table)


def train(loader: Loader, work: Callable[[], object]) -> tuple[list[float], float, float]:
    """Run through an epoch.

    Returns:
        Milliseconds: that each step but the first waited for its batch; of a whole step; of a core for a step.
    """
    waits = []
    core = core_seconds()
    start = asked = time.perf_counter()
    for _ in loader:
        waits.append(1000 * (time.perf_counter() - asked))
        work()
        asked = time.perf_counter()
    passed, spent = 1000 * (asked - start) - waits[0], 1000 * (core_seconds() - core)
    return waits[1:], passed / len(waits), spent / len(waits)


def python_alone(seconds: float) -> None:
    """Work in pure Python: it gives the interpreter away only when it is made to."""
    end, number = time.thread_time() + seconds, 0
    while time.thread_time() < end:
        number += sum(range(500))


def small_operations(seconds: float) -> None:
    """A loop that launches small operations, as one does that trains on a GPU."""
    end, values = time.thread_time() + seconds, torch.zeros(64)
    while time.thread_time() < end:
        values = values + 1


def large_products(seconds: float) -> None:
    """A loop in large matrix products, during which Python is free."""
    end, values = time.thread_time() + seconds, torch.ones(384, 384)
    while time.thread_time() < end:
        values = values @ values
        values /= 384


LOOPS = {"pure Python": python_alone, "small operations": small_operations, "large products": large_products}

if __name__ == "__main__":
    main()
