"""How packs spread: histograms, and the ones at the ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.pipeline.inspect.histogram import Histogram, even_histogram, filling_histogram

__all__ = ["PackColumns", "PackRow", "Spread", "spread_of"]

NUM_EXTREMES = 5
VISUAL_TOKENS = "visual tokens"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackColumns:
    """What is known of every pack without opening it, each [num_packs]."""

    num_tokens: NDArray[Any]
    num_visual_tokens: NDArray[Any]
    num_samples: NDArray[Any]
    cost: NDArray[Any]
    """Predicted work, by which packs are large."""
    cost_unit: str
    """Of costs: `visual tokens`, or `TFLOP`."""


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
    cost_per_pack: Histogram | None
    """In whole units of `cost_unit`; None where costs are visual tokens."""
    cost_unit: str
    """Such a part of the columns' unit that costs are numbers of four digits or more: `GFLOP`, `MFLOP`."""
    tokens_per_pack: Histogram
    samples_per_pack: Histogram
    largest: tuple[PackRow, ...]
    """Packs of the greatest cost, greatest first."""
    emptiest: tuple[PackRow, ...]
    """Packs of the fewest tokens, fewest first."""


def spread_of(packs: PackColumns, pack_size: int) -> Spread:
    """Summarize the columns; a few seconds for ten million packs.

    Args:
        packs: The columns.
        pack_size: Tokens that a pack holds at most.
    """
    scale, cost_unit = _readable(float(packs.cost.mean()) if len(packs.cost) else 0.0, packs.cost_unit)
    is_visual = packs.cost_unit == VISUAL_TOKENS
    return Spread(
        visual_tokens_per_pack=even_histogram(packs.num_visual_tokens),
        cost_per_pack=None if is_visual else even_histogram(np.rint(packs.cost * scale).astype(np.int64)),
        cost_unit=cost_unit,
        tokens_per_pack=filling_histogram(packs.num_tokens, pack_size),
        samples_per_pack=even_histogram(packs.num_samples),
        largest=_rows(packs, lowest(-packs.cost, NUM_EXTREMES)),
        emptiest=_rows(packs, lowest(packs.num_tokens, NUM_EXTREMES)),
    )


def _readable(mean: float, unit: str) -> tuple[int, str]:
    """By what to multiply costs so that they average a thousand or more, and what they count then."""
    if unit != "TFLOP":
        return 1, unit
    scales = [(1, "TFLOP"), (10**3, "GFLOP"), (10**6, "MFLOP"), (10**9, "kFLOP")]
    return next((found for found in scales if mean * found[0] >= 1000), scales[-1])


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
