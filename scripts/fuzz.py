"""Ten thousand broken images, clips, sounds and rows through the real estimate and pack code.

    python scripts/fuzz.py --items 10000 --seed 0 --workers 2

Every item is one row of a source: its medium is mutated (bytes, cuts, holes, splices, lies in the header, bombs, other
formats under any name), or the row itself; every eighth is whole. A batch of rows is counted, planned, packed and verified
in a process that is watched: one that dies, hangs or takes too much memory runs its items again, alone, until the item to
blame is found. Every row must be accounted for, every whole row packed, every document bit for bit what the model's own
processor makes of that very row, and every pack set pass `vlmprep verify`. Prints what became of the items, and exits 1 if
anything was not so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.families.processors import FamilyName, build_processor  # noqa: E402 - the tests lie beside the scripts
from tests.fuzz.batch import Batch, Outcome  # noqa: E402
from tests.fuzz.watch import Report, Watcher, batches  # noqa: E402
from vlmprep.schema.media import Loader  # noqa: E402
from vlmprep.schema.pixels import PixelForm  # noqa: E402

FAMILIES: tuple[FamilyName, ...] = ("qwen2_5_vl", "qwen3_omni", "idefics3")
"""Of images and clips, of sounds too, and of images in tiles."""
LOADERS: tuple[Loader, ...] = ("torchvision", "pil")
BATCH = 32


def kinds_of_batches(folder: Path, seed: int, pixels: PixelForm = "uint8") -> list[Batch]:
    """Every family with both of transformers' image loaders, media verified or not, beside their rows or inside."""
    for name in FAMILIES:
        build_processor(name, small_tiles=name == "idefics3").save_pretrained(folder / name)
    return [
        Batch(
            numbers=(),
            seed=seed,
            processor=folder / name,
            image_backend=backend,
            verify_media=verify,
            inside=inside,
            pixels=pixels,
        )
        for name in FAMILIES
        for backend in LOADERS
        for verify, inside in ((False, False), (True, False), (False, True))
    ]


def run_share(watcher: Watcher, share: Sequence[Batch]) -> Iterator[Report]:
    """What one watched process does."""
    try:
        for batch in share:
            yield watcher.run(batch)
    finally:
        watcher.close()


def run_all(todo: Sequence[Batch], watchers: Sequence[Watcher]) -> list[Report]:
    """Share batches out between watched processes."""
    with ThreadPoolExecutor(len(watchers)) as threads:
        shares = [todo[number :: len(watchers)] for number in range(len(watchers))]
        done = threads.map(lambda pair: list(run_share(*pair)), zip(watchers, shares, strict=True))
        return [report for reports in done for report in reports]


def table(outcomes: Sequence[Outcome]) -> str:
    """How many items of each kind came to each end."""
    kinds = [kind for kind in ("image", "video", "audio", "row") if any(outcome.kind == kind for outcome in outcomes)]
    counts = Counter((outcome.result, outcome.kind) for outcome in outcomes)
    totals = Counter(outcome.result for outcome in outcomes)
    lines = ["| " + " | ".join(["outcome", *kinds]) + " |", "| --- " * (len(kinds) + 1) + "|"]
    for result, _ in totals.most_common():
        lines.append("| " + " | ".join([result, *(str(counts[result, kind]) for kind in kinds)]) + " |")
    return "\n".join(lines)


def named(report: Report) -> str:
    """Which batch that was."""
    return f"items {report.outcomes[0].number} to {report.outcomes[-1].number}, {report.what}"


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first item, a multiple of 32: runs in pieces"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pixels", choices=("uint8", "encoded"), default="uint8", help="how they are stored")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds-per-item", type=float, default=20.0)
    parser.add_argument(
        "--max-bytes", type=int, default=400 << 20, help="memory beside what a process had before a batch"
    )
    asked = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        kinds = kinds_of_batches(Path(temporary), asked.seed, asked.pixels)
        todo = list(batches(kinds, asked.first + asked.items, BATCH))[asked.first // BATCH :]
        watchers = [
            Watcher(seconds_per_item=asked.seconds_per_item, max_bytes=asked.max_bytes) for _ in range(asked.workers)
        ]
        reports = run_all(todo, watchers)
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    assert len(outcomes) == asked.items, f"{len(outcomes)} outcomes"
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    print(table(outcomes))
    slowest = max(reports, key=lambda report: report.seconds)
    largest = max(reports, key=lambda report: report.swelled_bytes)
    print(f"\n{len(outcomes)} items in {time.monotonic() - start:.0f} s; {len(wrong)} wrong")
    print(f"a batch of {BATCH} took {slowest.seconds:.1f} s at most: {named(slowest)}")
    print(f"and {largest.swelled_bytes >> 20} MiB at most: {named(largest)}")
    for outcome in wrong:
        print(f"WRONG {outcome}")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
