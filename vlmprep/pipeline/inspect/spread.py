"""How packs spread: histograms, the ones at the ends, and what unequal ranks cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.pipeline.inspect.histogram import Histogram, even_histogram, filling_histogram
from vlmprep.pipeline.plan.forecast import STRAGGLER_RANKS
from vlmprep.planning.plan import straggler_ratio

__all__ = ["PackColumns", "PackRow", "Spread", "spread_of"]

NUM_EXTREMES = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackColumns:
    """What is known of every pack without opening it, each [num_packs]."""

    num_tokens: NDArray[Any]
    num_visual_tokens: NDArray[Any]
    num_samples: NDArray[Any]
    cost: NDArray[Any]
    """Predicted work, by which packs are large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRow:
    """One pack, by its number."""

    pack_id: int
    num_tokens: int
    num_visual_tokens: int
    num_samples: int
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How the packs of a plan or a pack set spread."""

    visual_tokens_per_pack: Histogram
    tokens_per_pack: Histogram
    samples_per_pack: Histogram
    largest: tuple[PackRow, ...]
    """Packs of the greatest cost, greatest first."""
    emptiest: tuple[PackRow, ...]
    """Packs of the fewest tokens, fewest first."""
    straggler_ratio: dict[str, float]
    """By number of data-parallel ranks: max over ranks of a step's cost / mean, averaged over a shuffled epoch."""


def spread_of(packs: PackColumns, pack_size: int) -> Spread:
    """Summarize the columns; a few seconds for ten million packs.

    Args:
        packs: The columns.
        pack_size: Tokens that a pack holds at most.
    """
    return Spread(
        visual_tokens_per_pack=even_histogram(packs.num_visual_tokens),
        tokens_per_pack=filling_histogram(packs.num_tokens, pack_size),
        samples_per_pack=even_histogram(packs.num_samples),
        largest=_rows(packs, lowest(-packs.cost, NUM_EXTREMES)),
        emptiest=_rows(packs, lowest(packs.num_tokens, NUM_EXTREMES)),
        straggler_ratio={
            str(ranks): straggler_ratio(packs.cost, ranks) for ranks in STRAGGLER_RANKS if ranks <= len(packs.cost)
        },
    )


def lowest(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Places of the `count` least values, rising; of equal ones the first."""
    count = min(count, len(values))
    if not count:
        return np.zeros(0, np.int64)
    bound = np.partition(values, count - 1)[count - 1]
    candidates = np.flatnonzero(values <= bound)
    return candidates[np.argsort(values[candidates], kind="stable")][:count]


def _rows(packs: PackColumns, pack_ids: NDArray[np.int64]) -> tuple[PackRow, ...]:
    return tuple(
        PackRow(
            pack_id=int(pack_id),
            num_tokens=int(packs.num_tokens[pack_id]),
            num_visual_tokens=int(packs.num_visual_tokens[pack_id]),
            num_samples=int(packs.num_samples[pack_id]),
            cost=float(packs.cost[pack_id]),
        )
        for pack_id in pack_ids
    )
