#!/usr/bin/env python3
"""Counting against a loop over the model's own processor, for every family: the same samples, one core, one run.

    python scripts/bench_families.py                                small processors of every family, drawn pictures
    python scripts/bench_families.py --processor P --processor Q    your own, by folder or hub name
    python scripts/bench_families.py --sources data.jsonl           your own samples

The loop renders, tokenizes, decodes, resizes and normalizes each sample and lets go of the result, as a training loop does;
counting is `vlmprep estimate` in this process. The loop runs before and after, and counting is compared with the mean of both.
Seconds are those of the one core that does the work (CPU time). Both count the same tokens, which is checked.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
from vlmprep.pipeline.pack import source_specs
from vlmprep.pipeline.settings import CountSettings
from vlmprep.schema.conversation import Sample
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.ledger import OK
from vlmprep.schema.progress import Silent

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of the table."""

    family: str
    num_samples: int
    num_images: int
    loop_ms: float
    """Of a core, for one sample."""
    count_ms: float


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--processor", action="append", help="folder or hub name, several times; default: every family's"
    )
    parser.add_argument("--sources", nargs="+", help="as for `vlmprep estimate`; default: a drawn corpus")
    parser.add_argument("--samples", type=int, default=120)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="vlmprep-bench-") as folder:
        work = Path(folder)
        sources = args.sources or drawn_sources(work, args.samples)
        results = []
        for processor in args.processor or built_processors(work):
            try:
                results.append(measure(processor, sources, work / "ledgers", args.samples))
            except StopRun as stop:
                print(f"{processor}: {stop}", file=sys.stderr)
        show(results)


def drawn_sources(work: Path, num_samples: int) -> list[str]:
    """The demo's corpus, undamaged."""
    from vlmprep.demo.corpus import make_corpus

    make_corpus(work / "corpus", num_samples=num_samples, damaged=False)
    return [str(work / "corpus" / "sharegpt.jsonl")]


def built_processors(work: Path) -> list[str]:
    """Processors of every family with a small vocabulary, as the tests build them."""
    sys.path.insert(0, str(ROOT))
    from tests.families.processors import FAMILY_NAMES, build_processor

    for name in FAMILY_NAMES:
        build_processor(name).save_pretrained(work / name)
    return [str(work / name) for name in FAMILY_NAMES]


def measure(processor: str, sources: list[str], work: Path, num_samples: int) -> Result:
    """Time counting between two runs of the loop.

    Raises:
        StopRun: The processor is not packed.
    """
    settings = CountSettings(family=FamilySettings(processor=processor))
    family: Any = load_family(settings.family)  # start-up is paid once per worker and not measured
    root = work / Path(processor).name
    ledger = estimate(sources, settings, root / "warm", LocalEngine(0), Silent())
    samples, counted = usable_samples(ledger, settings, num_samples)
    num_rows = int(ledger.summary["rows"]["all"])

    def count() -> None:
        estimate(sources, settings, root / "timed", LocalEngine(0), Silent())

    loop(family.processor, samples[:4])
    first, lengths = timed(lambda: loop(family.processor, samples))
    unequal = [pair for pair in zip(lengths, counted, strict=True) if pair[0] is not None and pair[0] != pair[1]]
    assert not unequal, f"{processor}: the loop makes {unequal[0][0]} tokens, {unequal[0][1]} were counted"
    counting, _ = timed(count)
    last, _ = timed(lambda: loop(family.processor, samples))
    return Result(
        family=family.name,
        num_samples=len(samples),
        num_images=sum(len(sample.media()) for sample in samples),
        loop_ms=1000 * (first + last) / 2 / len(samples),
        count_ms=1000 * counting / num_rows,
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process's core, and what the work returns."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def usable_samples(ledger: Ledger, settings: CountSettings, num_samples: int) -> tuple[list[Sample], list[int]]:
    """The first samples without clips and sounds that were counted, and their tokens."""
    specs = {spec.name: spec for spec in source_specs(ledger)}
    columns = ["source", "row", "row_offset", "row_bytes", "status", "num_tokens", "num_videos", "num_audios"]
    usable = (row for row in ledger.read(columns).to_pylist() if row["status"] == OK)
    rows = [row for row in usable if not row["num_videos"] + row["num_audios"]][:num_samples]
    samples = []
    for row in rows:
        spec = specs[row["source"]]
        with open(spec.path, "rb") as file:
            file.seek(row["row_offset"])
            samples.append(row_reader(spec, settings).sample(row["row"], file.read(row["row_bytes"])))
    return samples, [row["num_tokens"] for row in rows]


def loop(processor: Any, samples: Sequence[Sample]) -> list[int | None]:
    """What a training loader does: the whole processor, one sample after another; returns tokens, None for broken pixels."""
    lengths: list[int | None] = []
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    for sample in samples:
        conversation = conversation_of(sample.messages, plain_text=False)
        text = processor.apply_chat_template(conversation, chat_template=template, tokenize=False)
        places = [str(medium.location) for medium in sample.media()]
        try:
            images = {"images": [list(map(processor.image_processor.fetch_images, places))]} if places else {}
        except RuntimeError:
            lengths.append(None)
            continue
        lengths.append(len(processor(text=[text], return_tensors="pt", **images)["input_ids"][0]))
    return lengths


def show(results: Sequence[Result]) -> None:
    """Print the table."""
    table = Table("family", "samples", "images", "processor loop, ms", "counting, ms", "times as fast")
    for result in results:
        table.add_row(
            result.family,
            str(result.num_samples),
            str(result.num_images),
            f"{result.loop_ms:.2f}",
            f"{result.count_ms:.3f}",
            f"{result.loop_ms / result.count_ms:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
