"""What a plan refuses, by reason: how much it is, and how large a pack would have to be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprep.pipeline.plan.layout import Layout

__all__ = ["Refusal", "refusals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Samples that no pack of a plan takes, for one reason."""

    code: str
    samples: int
    num_tokens: int
    """After the shift."""
    share: float
    """Of their tokens and the planned ones together."""
    pack_size: int
    """Tokens of a pack that would take the longest of them."""


def refusals(layout: Layout) -> tuple[Refusal, ...]:
    """What the plan refuses, most samples first."""
    return tuple(sorted(_refusals(layout), key=lambda refusal: (-refusal.samples, refusal.code)))


def _refusals(layout: Layout) -> Iterator[Refusal]:
    if not layout.unfit:
        return
    codes = np.array([sample.code for sample in layout.unfit])
    tokens, visual = _counts_of_unfit(layout)
    planned = int(layout.candidates.num_tokens.sum(dtype=np.int64))
    needed = layout.room.aligned(tokens) + np.where(visual > 0, 0, layout.room.fake_tokens)
    for code in sorted(set(codes.tolist())):
        chosen = codes == code
        lost = int(tokens[chosen].sum())
        yield Refusal(
            code=code,
            samples=int(np.count_nonzero(chosen)),
            num_tokens=lost,
            share=lost / (planned + lost),
            pack_size=int(needed[chosen].max()),
        )


def _counts_of_unfit(layout: Layout) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[unfit] each: tokens after the shift, with the fake image that a sample should get; visual tokens."""
    numbers = np.array([sample.sample for sample in layout.unfit], np.int64)
    names = ["num_tokens", "num_visual_tokens", "num_tokens_with_fake"]
    parts: list[NDArray[np.int64]] = []
    first = 0
    for table in layout.ledger.chunks(names):
        inside = numbers[slice(*np.searchsorted(numbers, [first, first + table.num_rows]).tolist())] - first
        rows = table.take(inside)
        parts.append(np.stack([pc.fill_null(rows[name], 0).to_numpy() for name in names]).astype(np.int64))
        first += table.num_rows
    tokens, visual, with_fake = np.concatenate(parts, axis=1)
    if layout.settings.fake_image == "sample":
        tokens = np.maximum(tokens, with_fake)
    return tokens - 1, visual
