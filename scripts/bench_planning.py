"""Compare planners on the same samples, on one core: fill, straggler ratios and time.

python scripts/bench_planning.py                        every mix, a million samples each
python scripts/bench_planning.py --mix chat-8k --samples 100000
python scripts/bench_planning.py --lengths LENGTHS.parquet --pack-size 8192    your own lengths: columns num_tokens
                                                                              and num_visual_tokens, as in a ledger
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmprep.planning import compile_ahead, plan_packs, straggler_ratio
from vlmprep.planning.mixes import MIXES, Mix

RANKS = (8, 64, 512)
HEADER = "| mix | planner | packs | fill | visual tokens, 8 ranks | 64 | 512 | all tokens, 8 ranks | CPU seconds |"

Reading: TypeAlias = Literal["shuffled", "shuffled, steps grouped", "in order"]


def main() -> None:
    """Print one table of all mixes asked for."""
    arguments = _arguments()
    compile_ahead()
    print(HEADER)
    print("|" + " --- |" * HEADER.count(" | ") + " --- |")
    for name, mix in _mixes(arguments):
        for planner, plan, reading in _planners(mix, arguments):
            print(_row(name, planner, mix, plan, reading), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mix", action="append", choices=sorted(MIXES), help="default: all")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fill-weight", type=float, default=0.6)
    parser.add_argument("--ours-only", action="store_true", help="leave the other planners out")
    parser.add_argument("--lengths", type=Path, help="Parquet file with real lengths instead of a mix")
    parser.add_argument("--pack-size", type=int, action="append", help="for --lengths; may be repeated")
    return parser.parse_args()


def _mixes(arguments: argparse.Namespace) -> Iterator[tuple[str, Mix]]:
    if arguments.lengths is None:
        for name in arguments.mix or MIXES:
            yield name, MIXES[name](arguments.samples, arguments.seed)
        return
    table = pq.read_table(arguments.lengths, columns=["num_tokens", "num_visual_tokens"])
    lengths, visual = (table[name].to_numpy().astype(np.int64) for name in table.column_names)
    for pack_size in arguments.pack_size or [8192]:
        fits = lengths <= pack_size
        mix = Mix(lengths=lengths[fits], visual_tokens=visual[fits], pack_size=pack_size)
        yield f"{arguments.lengths.stem}, packs of {pack_size:,}", mix


def _samples(mix: Mix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return mix.lengths, mix.visual_tokens


def _planners(
    mix: Mix, arguments: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], NDArray[np.int64]], Reading]]:
    """(name, a function that gives the pack of every sample, how its packs are read)."""

    def ours(**options: str | float) -> NDArray[np.int64]:
        plan = plan_packs(*_samples(mix), pack_size=mix.pack_size, seed=arguments.seed, **options)  # type: ignore[arg-type]
        pack_of = np.empty(len(mix.lengths), np.int64)
        pack_of[plan.samples] = np.repeat(np.arange(plan.num_packs), np.diff(plan.offsets))
        return pack_of

    yield "vlmprep", lambda: ours(fill_weight=arguments.fill_weight), "shuffled"
    yield "vlmprep, steps grouped", lambda: ours(fill_weight=arguments.fill_weight), "shuffled, steps grouped"
    if arguments.ours_only:
        return
    yield "best-fit decreasing", lambda: ours(balance="none"), "shuffled"
    yield "least-filled heap, kept in order", lambda: _least_filled(mix), "in order"
    yield (
        "least-filled heap, sorted by visual tokens",
        lambda: _sorted_by_visual_tokens(mix, _least_filled(mix)),
        "in order",
    )
    yield "least-filled heap, shuffled", lambda: _least_filled(mix), "shuffled"


def _least_filled(mix: Mix) -> NDArray[np.int64]:
    """Longest first into the least filled pack if it fits there, else into a new one."""
    pack_of = np.empty(len(mix.lengths), np.int64)
    heap: list[tuple[int, int]] = []
    for sample in np.argsort(-mix.lengths, kind="stable").tolist():
        length = int(mix.lengths[sample])
        if heap and heap[0][0] + length <= mix.pack_size:
            tokens, pack = heap[0]
            heapq.heapreplace(heap, (tokens + length, pack))
        else:
            pack = len(heap)
            heapq.heappush(heap, (length, pack))
        pack_of[sample] = pack
    return pack_of


def _sorted_by_visual_tokens(mix: Mix, pack_of: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(np.bincount(pack_of, weights=mix.visual_tokens), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[pack_of]


def _row(name: str, planner: str, mix: Mix, plan: Callable[[], NDArray[np.int64]], reading: Reading) -> str:
    started = time.process_time()
    pack_of = plan()
    seconds = time.process_time() - started
    visual = np.bincount(pack_of, weights=mix.visual_tokens)
    tokens = np.bincount(pack_of, weights=mix.lengths)
    assert tokens.max() <= mix.pack_size

    def ratio(work: NDArray[Any], ranks: int) -> float:
        if reading == "in order":
            return _straggler_ratio_in_order(work, ranks)
        return straggler_ratio(work, ranks, group_by=visual if reading == "shuffled, steps grouped" else None)

    cells = [name, planner, f"{len(tokens):,}", f"{tokens.sum() / mix.pack_size / len(tokens):.4f}"]
    cells += [f"{ratio(visual, ranks):.4f}" for ranks in RANKS]
    cells += [f"{ratio(tokens, RANKS[0]):.4f}", f"{seconds:.2f}"]
    return "| " + " | ".join(cells) + " |"


def _straggler_ratio_in_order(work: NDArray[Any], ranks: int) -> float:
    num_steps = len(work) // ranks
    steps = work[: num_steps * ranks].reshape(num_steps, ranks)
    mean = steps.mean(axis=1)
    return float(np.divide(steps.max(axis=1), mean, out=np.ones(num_steps), where=mean > 0).mean())


if __name__ == "__main__":
    main()
