"""What can be laid into packs, and what cannot, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.fakes import FAKE_COLUMNS, gets_fake_image, with_fakes
from vlmprep.pipeline.plan.bounds import Room
from vlmprep.pipeline.plan.costs import Costing
from vlmprep.pipeline.plan.file import Unfit
from vlmprep.schema.cost import COST_COUNTS
from vlmprep.schema.ledger import OK

__all__ = ["Candidates", "LedgerCounts", "find_candidates", "read_counts"]

COLUMNS = ("status", "num_audios", *COST_COUNTS, *FAKE_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LedgerCounts:
    """What a ledger says of every row, as flat arrays; 0 where a refused row has no count."""

    usable: NDArray[np.bool_]
    """[rows]"""
    gets_fake: NDArray[np.bool_]
    """[rows] it gets a fake image into its conversation, which all counts include."""
    counts: Mapping[str, NDArray[np.int64]]
    """[rows] each: COST_COUNTS, num_images, num_audios. num_tokens counts after the shift, -1 where a row should get an image
    and has no place for it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Samples to lay into packs, one entry per use: a row that is used twice stands twice."""

    rows: NDArray[np.int64]
    """[n] ledger numbers, rising."""
    num_tokens: NDArray[np.int64]
    """[n] after the shift."""
    places: NDArray[np.int64]
    """[n] what it takes in a pack."""
    num_visual_tokens: NDArray[np.int64]
    """[n]"""
    num_images: NDArray[np.int64]
    """[n]"""
    costs: NDArray[np.float64]
    """[n]"""


def read_counts(ledger: Ledger, fake_image: str) -> LedgerCounts:
    """Read what planning needs of a ledger.

    Args:
        ledger: The ledger.
        fake_image: Of the plan's settings.
    """
    table = ledger.read(list(dict.fromkeys(COLUMNS)))
    gets_fake = gets_fake_image(table, fake_image)
    table = with_fakes(table, gets_fake, ledger)
    counts = {name: _column(table, name) for name in (*COST_COUNTS, "num_images", "num_audios")}
    counts["num_tokens"] = counts["num_tokens"] - 1
    return LedgerCounts(
        usable=pc.equal(table["status"], OK).to_numpy(zero_copy_only=False), gets_fake=gets_fake, counts=counts
    )


def find_candidates(
    ledger: LedgerCounts, uses: NDArray[np.int32], room: Room, costing: Costing
) -> tuple[Candidates, list[Unfit]]:
    """Tell what can be laid into packs from what cannot.

    Args:
        ledger: Counts of every row.
        uses: [rows] how often every row is to be used.
        room: What packs offer.
        costing: What samples cost.

    Returns:
        The candidates, and every sample that no pack takes, by rising ledger number.
    """
    rows = np.flatnonzero(ledger.usable & (uses > 0))
    counts = {name: column[rows] for name, column in ledger.counts.items()}
    costs = costing.costs(counts)
    unfit = list(_unfit(rows, counts, costs, ledger.gets_fake[rows], room))
    fits = np.ones(len(rows), np.bool_)
    fits[np.searchsorted(rows, [sample.sample for sample in unfit])] = False
    used = np.repeat(np.flatnonzero(fits), uses[rows[fits]])
    chosen = {name: column[used] for name, column in counts.items()}
    candidates = Candidates(
        rows=rows[used],
        num_tokens=chosen["num_tokens"],
        places=room.places(chosen["num_tokens"], chosen["num_visual_tokens"]),
        num_visual_tokens=chosen["num_visual_tokens"],
        num_images=chosen["num_images"],
        costs=costs[used],
    )
    return candidates, unfit


def _unfit(
    rows: NDArray[np.int64],
    counts: Mapping[str, NDArray[np.int64]],
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
