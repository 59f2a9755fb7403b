"""How full packs are, what takes the rest, and how few packs there could be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmprep.pipeline.plan.bounds import Room
from vlmprep.pipeline.plan.layout import Layout

__all__ = ["LowerBound", "Places", "lower_bound", "places_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBound:
    """How many packs any plan of the same samples has at least."""

    num_packs: int
    tight: str
    """The reason that asks for most packs."""
    reasons: dict[str, int]
    """Packs by what asks for them: `tokens`, all of them over the tokens of a pack; `long samples`, those over half a pack, of
    which no two share one; and every bound given, by its option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the places of all packs are taken by, in tokens; together `num_packs * pack_size`."""

    samples: int
    alignment: int
    """Padding behind documents, for `--document-alignment`."""
    fake_images: int
    """Documents of their own, with their alignment."""
    packing_ratio: int
    """Left free because `--packing-ratio` asks for it."""
    slack: int
    """Left over."""


def lower_bound(layout: Layout) -> LowerBound:
    """Bound the packs from below; what stays out for `max_packs` is not counted."""
    reasons = dict(_reasons(layout))
    tight = max(reasons, key=reasons.__getitem__)
    return LowerBound(num_packs=reasons[tight], tight=tight, reasons=reasons)


def _reasons(layout: Layout) -> Iterator[tuple[str, int]]:
    candidates, room = layout.candidates, layout.room
    places, visual = layout.packed(candidates.places), layout.packed(candidates.num_visual_tokens)
    yield "tokens", _by_tokens(places, visual, room)
    yield "long samples", int(np.count_nonzero(places > room.planned // 2))
    for option, amounts, bound in (
        ("--max-visual-tokens", candidates.num_visual_tokens, room.max_visual_tokens),
        ("--max-images", candidates.num_images, room.max_images),
        ("--max-cost", candidates.costs, room.max_cost),
    ):
        if bound:
            yield option, _over(float(layout.packed(amounts).sum()), bound)


def _by_tokens(places: NDArray[np.int64], visual: NDArray[np.int64], room: Room) -> int:
    """Packs for so many tokens: beyond one pack per media sample, each gives room to a fake image."""
    total, num_media = int(places.sum(dtype=np.int64)), int(np.count_nonzero(visual))
    beyond = total - num_media * room.planned
    if beyond <= 0:
        return -(-total // room.planned)
    return num_media + -(-beyond // (room.planned - room.fake_tokens))


def _over(total: float, bound: float) -> int:
    """Packs for a total, no more for rounding errors of sums."""
    return int(np.ceil(total / bound * (1 - 1e-9)))


def places_of(layout: Layout) -> Places:
    """Account for every place of every pack."""
    packs, room = layout.packs, layout.room
    taken, fakes = _aligned(layout), packs.needs_fake * room.fake_tokens
    free = room.pack_size - taken - fakes
    assert free.min() >= 0, "no pack is over its size"
    kept = int(np.minimum(free, room.pack_size - room.planned).sum()) if layout.settings.packing_ratio < 1 else 0
    samples = int(packs.num_tokens.sum())
    return Places(
        samples=samples,
        alignment=int(taken.sum()) - samples,
        fake_images=int(fakes.sum()),
        packing_ratio=kept,
        slack=int(free.sum()) - kept,
    )


def _aligned(layout: Layout) -> NDArray[np.int64]:
    """[num_packs] places that the documents of a pack take."""
    if layout.room.alignment == 1:
        return layout.packs.num_tokens
    tokens = layout.candidates.num_tokens[layout.plan.samples].astype(np.int64)
    places: NDArray[np.int64] = np.add.reduceat(layout.room.aligned(tokens), layout.packs.offsets[:-1])
    return places
