"""What grouping packs into steps reaches, on packs planned for `--balance vt`: how equal steps are, and how mixed epochs stay.

python scripts/bench_steps.py                        every mix, a million samples each
python scripts/bench_steps.py --mix chat-8k-hard --samples 100000
python scripts/bench_steps.py --lengths LENGTHS.parquet --pack-size 8192      your own lengths: columns num_tokens and
                                                                             num_visual_tokens, as in a ledger

Correlation and spread are of visual tokens. The correlation is between a pack's and its place in the epoch, the largest
of all epochs drawn; the spread is the standard deviation over steps of their means, in units of that over single packs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmprep.planning import PackPlan, plan_packs
from vlmprep.planning.mixes import MIXES, Mix
from vlmprep.schema.keyed_order import keyed_order
from vlmprep.schema.step_order import step_order

RANKS = (8, 64, 512)
COLUMNS = (
    *("mix", "ranks", "steps", "visual tokens, any packs", "grouped", "all tokens, grouped"),
    *("correlation, any packs", "grouped", "spread, any packs", "grouped"),
)


def main() -> None:
    """Print one table of all mixes asked for."""
    arguments = _arguments()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS))
    for name, mix in _mixes(arguments):
        plan = plan_packs(mix.lengths, mix.visual_tokens, pack_size=mix.pack_size)
        for ranks in RANKS:
            print(_row(name, plan, ranks, arguments.epochs), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mix", action="append", choices=sorted(MIXES), help="default: all with media")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=20, help="how many are drawn")
    parser.add_argument("--lengths", type=Path, help="Parquet file with real lengths instead of a mix")
    parser.add_argument("--pack-size", type=int, default=8192, help="for --lengths")
    return parser.parse_args()


def _mixes(arguments: argparse.Namespace) -> Iterator[tuple[str, Mix]]:
    if arguments.lengths is None:
        for name in arguments.mix or [name for name in MIXES if not name.startswith("text")]:
            yield name, MIXES[name](arguments.samples, 0)
        return
    table = pq.read_table(arguments.lengths, columns=["num_tokens", "num_visual_tokens"])
    lengths, visual = (table[name].to_numpy().astype(np.int64) for name in table.column_names)
    fits = lengths <= arguments.pack_size
    mix = Mix(lengths=lengths[fits], visual_tokens=visual[fits], pack_size=arguments.pack_size)
    yield f"{arguments.lengths.stem}, packs of {arguments.pack_size:,}", mix


def _row(name: str, plan: PackPlan, ranks: int, num_epochs: int) -> str:
    visual = plan.pack_visual_tokens
    shuffles = [keyed_order(len(visual), 0, epoch) for epoch in range(num_epochs)]
    grouped = [
        shuffle[step_order(visual[shuffle], 0, epoch, global_batch=ranks)] for epoch, shuffle in enumerate(shuffles)
    ]
    cells = [name, f"{ranks}", f"{len(visual) // ranks:,}", f"{plan.straggler_ratio(ranks):.4f}"]
    cells += [f"{plan.straggler_ratio(ranks, what=what, group_by='vt'):.4f}" for what in ("vt", "tokens")]
    cells += [f"{max(_correlation(visual[order]) for order in orders):.4f}" for orders in (shuffles, grouped)]
    cells += [f"{np.mean([_spread(visual[order], ranks) for order in orders]):.2f}" for orders in (shuffles, grouped)]
    return "| " + " | ".join(cells) + " |"


def _correlation(work: NDArray[np.int64]) -> float:
    """Between work and place, without its sign."""
    return abs(float(np.corrcoef(work, np.arange(len(work)))[0, 1]))


def _spread(work: NDArray[np.int64], ranks: int) -> float:
    """Standard deviation of the steps' means, in units of that of single packs."""
    num_steps = len(work) // ranks
    return float(work[: num_steps * ranks].reshape(num_steps, ranks).mean(axis=1).std() / work.std())


if __name__ == "__main__":
    main()
