"""What can be laid into packs, and what cannot, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.fakes import FAKE_COLUMNS, gets_fake_image, with_fakes
from vlmprep.pipeline.plan.bounds import Room
from vlmprep.pipeline.plan.costs import Costing
from vlmprep.pipeline.plan.file import Unfit
from vlmprep.schema.ledger import OK

__all__ = ["Candidates", "find_candidates"]

COLUMNS = ("status", "num_tokens", "num_visual_tokens", "num_audios", *FAKE_COLUMNS)
Counts: TypeAlias = Mapping[str, NDArray[np.int64]]
"""[n] each, by the names of a ledger's columns; num_tokens after the shift."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Samples to lay into packs, one entry per use: a row that is used twice stands twice."""

    rows: NDArray[np.int64]
    """[n] ledger numbers, rising."""
    num_tokens: NDArray[np.int32]
    """[n] after the shift."""
    places: NDArray[np.int32]
    """[n] what it takes in a pack."""
    num_visual_tokens: NDArray[np.int32]
    """[n]"""
    num_images: NDArray[np.int32]
    """[n]"""
    costs: NDArray[np.float64]
    """[n]"""
    has_sound: NDArray[np.bool_]
    """[n]"""
    gets_fake: NDArray[np.bool_]
    """[n] it gets a fake image into its conversation, which all counts include."""


def find_candidates(
    ledger: Ledger, uses: NDArray[np.int32], fake_image: str, room: Room, costing: Costing
) -> tuple[Candidates, list[Unfit]]:
    """Tell what can be laid into packs from what cannot, one chunk of the ledger in memory at a time.

    Args:
        ledger: Counts of every row.
        uses: [rows] how often every row is to be used.
        fake_image: Of the plan's settings.
        room: What packs offer.
        costing: What samples cost.

    Returns:
        The candidates, and every sample that no pack takes, by rising ledger number.
    """
    columns = list(dict.fromkeys([*COLUMNS, *costing.counts]))
    parts: list[Candidates] = []
    unfit: list[Unfit] = []
    first = 0
    for table in ledger.chunks(columns):
        chosen = uses[first : first + table.num_rows]
        part, refused = _candidates_of(table, chosen, first, ledger, fake_image, room, costing)
        parts.append(part)
        unfit.extend(refused)
        first += table.num_rows
    return _joined(parts), unfit


def _candidates_of(
    table: pa.Table,
    uses: NDArray[np.int32],
    first: int,
    ledger: Ledger,
    fake_image: str,
    room: Room,
    costing: Costing,
) -> tuple[Candidates, list[Unfit]]:
    """Those of one chunk, whose first row has a number."""
    gets_fake = gets_fake_image(table, fake_image)
    table = with_fakes(table, gets_fake, ledger)
    usable = pc.equal(table["status"], OK).to_numpy()
    rows = np.flatnonzero(usable & (uses > 0))
    names = dict.fromkeys(["num_tokens", "num_visual_tokens", "num_images", "num_audios", *costing.counts])
    counts = {name: _column(table, name)[rows] for name in names}
    counts["num_tokens"] = counts["num_tokens"] - 1  # null, where an image should go in and has no place, becomes -1
    costs = costing.costs(counts)
    unfit = list(_unfit(rows + first, counts, costs, gets_fake[rows], room))
    fits = np.ones(len(rows), np.bool_)
    fits[np.searchsorted(rows + first, [sample.sample for sample in unfit])] = False
    used = np.repeat(np.flatnonzero(fits), uses[rows[fits]])
    tokens, visual = counts["num_tokens"][used], counts["num_visual_tokens"][used]
    candidates = Candidates(
        rows=rows[used] + first,
        num_tokens=tokens.astype(np.int32),
        places=room.places(tokens, visual).astype(np.int32),
        num_visual_tokens=visual.astype(np.int32),
        num_images=counts["num_images"][used].astype(np.int32),
        costs=costs[used],
        has_sound=counts["num_audios"][used] > 0,
        gets_fake=gets_fake[rows[used]],
    )
    return candidates, unfit


def _joined(parts: list[Candidates]) -> Candidates:
    """All chunks' candidates; a column's parts are let go of as soon as they are joined."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Candidates)}
    parts.clear()
    return Candidates(**{name: np.concatenate(columns.pop(name)) for name in list(columns)})


def _unfit(
    rows: NDArray[np.int64],
    counts: Counts,
    costs: NDArray[np.float64],
    gets_fake: NDArray[np.bool_],
    room: Room,
) -> Iterator[Unfit]:
    """Samples that no pack takes, each with the first reason that holds, by rising ledger number."""
    tokens, visual = counts["num_tokens"], counts["num_visual_tokens"]
    limit = room.beside_fake(visual)
    too_much = (tokens < 0) | (room.aligned(tokens) > limit)
    excesses = list(room.excesses(visual, counts["num_images"], costs))
    for _, amounts, bound in excesses:
        too_much |= amounts > bound
    for place in np.flatnonzero(too_much).tolist():
        sample = int(rows[place])
        if tokens[place] < 0:
            yield Unfit(sample=sample, code="no-fake-image", reason=NO_PLACE)
        elif room.aligned(tokens[place]) > limit[place]:
            reason = _overlong_reason(int(tokens[place]), int(limit[place]), bool(gets_fake[place]), room)
            yield Unfit(sample=sample, code="overlong", reason=reason)
        else:
            code, amounts, bound = next(excess for excess in excesses if excess[1][place] > excess[2])
            yield Unfit(sample=sample, code=code, reason=EXCESS[code].format(amounts[place], bound))


NO_PLACE = "the chat template takes no image in this conversation's first user turn; --fake-image pack needs no place"
EXCESS = {
    "too-many-visual-tokens": "{:,} visual tokens, --max-visual-tokens allows {:,} in a pack",
    "too-many-images": "{:,} images, --max-images allows {:,} in a pack",
    "too-costly": "it costs {:.4g}, --max-cost allows a pack's samples {:.4g}",
}


def _overlong_reason(num_tokens: int, limit: int, gets_fake: bool, room: Room) -> str:
    with_fake = " with the fake image in it" if gets_fake else ""
    beside = (
        ""
        if limit == room.pack_size
        else f" less {room.pack_size - limit} for the fake image that a text-only pack needs"
    )
    aligned = "" if room.alignment == 1 else f", in multiples of {room.alignment}"
    return f"{num_tokens} tokens after the shift{with_fake}, a pack holds {room.pack_size}{beside}{aligned}"


def _column(table: pa.Table, name: str) -> NDArray[np.int64]:
    """An integer column, 0 where a refused row has none."""
    filled = pc.fill_null(table[name], 0).combine_chunks()
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)
