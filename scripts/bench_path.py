#!/usr/bin/env python3
"""The whole path against a loop over the model's own processor: the same samples, one core, one run.

    python scripts/bench_path.py                                     the demo's corpus and processor
    python scripts/bench_path.py --sources data.jsonl --processor P  your own
    python scripts/bench_path.py --memory                            peak memory of every stage, 500 and 5,000 samples

The loop renders, tokenizes, decodes, resizes and normalizes each sample and lets go of the result, as a training loop does.
It runs before and after every stage, and the stage is compared with the mean of both: machines drift. Seconds are those of
the one core that does the work (CPU time); on a shared machine the clock on the wall measures the neighbours as well, and is
printed beside them.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vlmprep.counting.ledger import Ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.families.loading import load_family
from vlmprep.families.text.dialogue import conversation_of
from vlmprep.pipeline.estimate import estimate, row_reader
from vlmprep.pipeline.pack import pack, source_specs
from vlmprep.pipeline.plan import make_plan
from vlmprep.pipeline.settings import CountSettings, PackSettings, PlanSettings
from vlmprep.runtime.packset import open as open_packset
from vlmprep.schema.conversation import Media, Sample
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.ledger import OK
from vlmprep.schema.progress import Silent

STAGES = ("counting", "planning", "packing", "reading")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One line of the table."""

    name: str
    num_samples: int
    core_seconds: float
    wall_seconds: float

    @property
    def milliseconds(self) -> float:
        """Of a core, for one sample."""
        return 1000 * self.core_seconds / self.num_samples


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", help="as for `vlmprep estimate`; default: a drawn corpus")
    parser.add_argument("--processor", help="folder or hub name; default: the demo's")
    parser.add_argument("--samples", type=int, default=300, help="samples of the loop, and of the drawn corpus")
    parser.add_argument("--compression", default="zstd", choices=["zstd", "lz4", "none"])
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)  # one stage in a process of its own
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if args.stage:
        run_stage(args.stage, args.sources, settings_of(args.processor), args.work, args.compression)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    with tempfile.TemporaryDirectory(prefix="vlmprep-bench-") as folder:
        work = Path(folder)
        if args.memory:
            memory(work, args)
        else:
            speed(work, *inputs(work, args, args.samples), args.samples, args.compression)


def settings_of(processor: str) -> CountSettings:
    """Everything but the processor as it comes."""
    return CountSettings(family=FamilySettings(processor=processor))


def inputs(work: Path, args: argparse.Namespace, samples: int) -> tuple[list[str], str]:
    """Sources and processor: the user's, or the demo's."""
    from vlmprep.demo.corpus import make_corpus
    from vlmprep.demo.processor import save_processor

    sources, processor = args.sources, args.processor
    if sources is None:
        make_corpus(work / "corpus", num_samples=samples, damaged=False)
        sources = [str(work / "corpus" / "sharegpt.jsonl")]
    if processor is None:
        save_processor(work / "processor")
        processor = str(work / "processor")
    return sources, processor


def run_stage(stage: str, sources: list[str], settings: CountSettings, work: Path, compression: Any) -> int:
    """Run one stage on what the stages before it left; return its samples."""
    engine, progress = LocalEngine(0), Silent()
    if stage == "counting":
        ledger = estimate(sources, settings, work / "ledger", engine, progress)
        return int(ledger.summary["rows"]["all"])
    from vlmprep.counting.ledger import open_ledger
    from vlmprep.pipeline.plan import open_plan

    ledger = open_ledger(work / "ledger")
    if stage == "planning":
        return len(make_plan(ledger, PlanSettings(), work / "plan").samples)
    if stage == "packing":
        plan = open_plan(work / "plan")
        writing = PackSettings(compression=compression)
        return pack(ledger, plan, settings, writing, work / "packset", engine, progress).num_samples
    packs = open_packset(work / "packset")
    for pack_id in range(len(packs)):
        packs[pack_id]
    return int(packs.manifest.num_samples)


def speed(work: Path, sources: list[str], processor: str, num_samples: int, compression: str) -> None:
    """Time every stage between two runs of the loop."""
    settings = settings_of(processor)
    family: Any = load_family(settings.family)  # start-up is paid once per worker and not measured
    run_stage("counting", sources, settings, work / "warm", compression)
    samples = list(countable(work / "warm", settings, num_samples))

    def run_loop() -> int:
        return loop(family.processor, samples)

    timed("warm-up", run_loop)
    loops = [timed("loop", run_loop)]
    lines: list[tuple[Timing, float]] = []
    for stage in STAGES:
        if stage == "reading":
            run_stage(stage, sources, settings, work, compression)  # the shards now lie in the page cache
        line = timed(stage, functools.partial(run_stage, stage, sources, settings, work, compression))
        loops.append(timed("loop", run_loop))
        lines.append((line, (loops[-2].milliseconds + loops[-1].milliseconds) / 2))
    show(loops, lines, open_packset(work / "packset").manifest)


def timed(name: str, work: Callable[[], int]) -> Timing:
    """Time something that returns its number of samples."""
    core, wall = time.process_time(), time.perf_counter()
    num_samples = work()
    return Timing(
        name=name,
        num_samples=num_samples,
        core_seconds=time.process_time() - core,
        wall_seconds=time.perf_counter() - wall,
    )


def countable(work: Path, settings: CountSettings, num_samples: int) -> Iterator[Sample]:
    """The first samples that the ledger found usable."""
    from vlmprep.counting.ledger import open_ledger

    ledger: Ledger = open_ledger(work / "ledger")
    readers = {spec.name: (row_reader(spec, settings), open(spec.path, "rb")) for spec in source_specs(ledger)}  # noqa: SIM115
    rows = ledger.read(["source", "row", "row_offset", "row_bytes", "status"]).to_pylist()
    usable = [row for row in rows if row["status"] == OK]
    for row in usable[:num_samples]:
        reader, file = readers[row["source"]]
        file.seek(row["row_offset"])
        yield reader.sample(row["row"], file.read(row["row_bytes"]))


def loop(processor: Any, samples: list[Sample]) -> int:
    """What a training loader does: the whole processor, one sample after another; returns the samples it could do."""
    done = 0
    for sample in samples:
        conversation = conversation_of(sample.messages, plain_text=False)
        for message, turn in zip(sample.messages, conversation, strict=True):
            for part, piece in zip(message.parts, turn["content"], strict=True):
                if isinstance(part, Media):
                    piece["path"] = part.location
        try:
            processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
        except RuntimeError:
            continue  # a picture that does not decode, found by the loop when it comes to it
        done += 1
    return done


def show(loops: list[Timing], lines: list[tuple[Timing, float]], manifest: Any) -> None:
    """Print the table."""
    tokens = manifest.num_tokens / manifest.num_samples
    table = Table("stage", "samples", "ms of a core a sample", "tokens/s", "wall seconds", "against the loop")
    for column in table.columns[1:]:
        column.justify = "right"
    for line in loops:
        table.add_row(*cells(line, tokens), "")
    for line, beside in lines:
        table.add_row(*cells(line, tokens), f"{beside / line.milliseconds:.1f}x")
    console = Console()
    console.print(table)
    num_bytes = sum(shard.size for shard in manifest.shards)
    console.print(
        f"{manifest.num_packs} packs, fill {manifest.num_tokens / manifest.num_packs / manifest.pack_size:.4f}, "
        f"{num_bytes / max(1, manifest.num_visual_tokens):.0f} bytes a visual token ({manifest.compression})"
    )


def cells(line: Timing, tokens: float) -> tuple[str, ...]:
    """A timing's part of its row."""
    return (
        line.name,
        f"{line.num_samples:,}",
        f"{line.milliseconds:.3f}",
        f"{1000 * tokens / line.milliseconds:,.0f}",
        f"{line.wall_seconds:.2f}",
    )


def memory(work: Path, args: argparse.Namespace) -> None:
    """Peak memory of each stage in a process of its own, on a small and on a ten times larger corpus."""
    table = Table("stage", "500 samples", "5,000 samples", title="Peak resident memory, MiB")
    peaks = {samples: peaks_of(work / str(samples), args, samples) for samples in (500, 5000)}
    for stage in STAGES:
        table.add_row(stage, f"{peaks[500][stage]:,.0f}", f"{peaks[5000][stage]:,.0f}")
    Console().print(table)


def peaks_of(work: Path, args: argparse.Namespace, samples: int) -> dict[str, float]:
    """MiB by stage."""
    work.mkdir()
    sources, processor = inputs(work, argparse.Namespace(sources=None, processor=args.processor), samples)
    command = [
        sys.executable,
        __file__,
        "--processor",
        processor,
        "--compression",
        args.compression,
        "--work",
        str(work),
    ]
    peaks: dict[str, float] = {}
    for stage in STAGES:
        run = [*command, "--stage", stage, "--sources", *sources]
        done = subprocess.run(run, check=True, capture_output=True, text=True)
        peaks[stage] = int(done.stdout.split()[-1]) / 1024
    return peaks


if __name__ == "__main__":
    main()
