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
from vlmprep.pipeline.plan.cuts import Cuts, cut_samples
from vlmprep.pipeline.plan.file import Unfit
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.schema.ledger import OK

__all__ = ["Candidates", "Found", "find_candidates"]

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """What a ledger offers a plan."""

    candidates: Candidates
    unfit: list[Unfit]
    """Samples that no pack takes, by rising ledger number."""
    cuts: Cuts | None
    """Candidates that were cut to fit; None where none were to be."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counted:
    """Some usable samples."""

    rows: NDArray[np.int64]
    """[n] ledger numbers, rising."""
    uses: NDArray[np.int32]
    """[n] how often each is to be used."""
    gets_fake: NDArray[np.bool_]
    """[n]"""
    counts: Counts

    def where(self, chosen: NDArray[np.bool_]) -> Counted:
        """Some of them."""
        return Counted(
            rows=self.rows[chosen],
            uses=self.uses[chosen],
            gets_fake=self.gets_fake[chosen],
            counts={name: column[chosen] for name, column in self.counts.items()},
        )


def find_candidates(
    ledger: Ledger, uses: NDArray[np.int32], settings: PlanSettings, room: Room, costing: Costing
) -> Found:
    """Tell what can be laid into packs from what cannot, one chunk of the ledger in memory at a time.

    Args:
        ledger: Counts of every row.
        uses: [rows] how often every row is to be used.
        settings: Whether samples get fake images, and whether they may be cut.
        room: What packs offer.
        costing: What samples cost.
    """
    parts: list[Candidates] = []
    unfit: list[Unfit] = []
    overlong: list[Counted] = []
    for samples in _counted(ledger, uses, settings.fake_image, costing):
        if settings.overlong == "truncate":
            too_long = _is_overlong(samples.counts, room)
            overlong.append(samples.where(too_long))
            samples = samples.where(~too_long)
        part, refused = _sorted_out(samples, room, costing)
        parts.append(part)
        unfit.extend(refused)
    if not any(len(samples.rows) for samples in overlong):
        return Found(candidates=_joined(parts), unfit=unfit, cuts=None)
    cuts, cut = _cut(ledger, overlong, room, costing)
    part, refused = _sorted_out(cut, room, costing)
    unfit = sorted([*unfit, *cuts.refused, *refused], key=lambda sample: sample.sample)
    return Found(candidates=_by_row(_joined([*parts, part])), unfit=unfit, cuts=cuts)


def _counted(ledger: Ledger, uses: NDArray[np.int32], fake_image: str, costing: Costing) -> Iterator[Counted]:
    """The usable samples of every chunk that are to be used."""
    first = 0
    for table in ledger.chunks(list(dict.fromkeys([*COLUMNS, *costing.counts]))):
        gets_fake = gets_fake_image(table, fake_image)
        table = with_fakes(table, gets_fake, ledger)
        chosen = uses[first : first + table.num_rows]
        rows = np.flatnonzero(pc.equal(table["status"], OK).to_numpy() & (chosen > 0))
        counts = {name: _column(table, name)[rows] for name in _names(costing)}
        counts["num_tokens"] = (
            counts["num_tokens"] - 1
        )  # null, where an image should go in and has no place, becomes -1
        yield Counted(rows=rows + first, uses=chosen[rows], gets_fake=gets_fake[rows], counts=counts)
        first += table.num_rows


def _names(costing: Costing) -> dict[str, None]:
    """Counts that are needed of every sample."""
    return dict.fromkeys(["num_tokens", "num_visual_tokens", "num_images", "num_audios", *costing.counts])


def _is_overlong(counts: Counts, room: Room) -> NDArray[np.bool_]:
    too_long: NDArray[np.bool_] = room.aligned(counts["num_tokens"]) > room.beside_fake(counts["num_visual_tokens"])
    return too_long


def _cut(ledger: Ledger, overlong: list[Counted], room: Room, costing: Costing) -> tuple[Cuts, Counted]:
    """Cut samples to what a pack takes; what is left of those that can be cut."""
    rows = np.concatenate([samples.rows for samples in overlong])
    uses = np.concatenate([samples.uses for samples in overlong])
    gets_fake = np.concatenate([samples.gets_fake for samples in overlong])
    cuts = cut_samples(ledger, rows, room.beside_fake, gets_fake)
    kept = np.searchsorted(rows, cuts.rows)
    counts = {name: cuts.counts[name] for name in _names(costing)}
    counts["num_tokens"] = counts["num_tokens"] - 1
    return cuts, Counted(rows=cuts.rows, uses=uses[kept], gets_fake=gets_fake[kept], counts=counts)


def _sorted_out(samples: Counted, room: Room, costing: Costing) -> tuple[Candidates, list[Unfit]]:
    """The samples that fit, as often as they are used, and those that do not."""
    counts = samples.counts
    costs = costing.costs(counts)
    unfit = list(_unfit(samples, costs, room))
    fits = np.ones(len(samples.rows), np.bool_)
    fits[np.searchsorted(samples.rows, [sample.sample for sample in unfit])] = False
    used = np.repeat(np.flatnonzero(fits), samples.uses[fits])
    tokens, visual = counts["num_tokens"][used], counts["num_visual_tokens"][used]
    candidates = Candidates(
        rows=samples.rows[used],
        num_tokens=tokens.astype(np.int32),
        places=room.places(tokens, visual).astype(np.int32),
        num_visual_tokens=visual.astype(np.int32),
        num_images=counts["num_images"][used].astype(np.int32),
        costs=costs[used],
        has_sound=counts["num_audios"][used] > 0,
        gets_fake=samples.gets_fake[used],
    )
    return candidates, unfit


def _joined(parts: list[Candidates]) -> Candidates:
    """All chunks' candidates; a column's parts are let go of as soon as they are joined."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Candidates)}
    parts.clear()
    return Candidates(**{name: np.concatenate(columns.pop(name)) for name in list(columns)})


def _by_row(candidates: Candidates) -> Candidates:
    order = np.argsort(candidates.rows, kind="stable")
    return Candidates(**{field.name: getattr(candidates, field.name)[order] for field in fields(Candidates)})


def _unfit(samples: Counted, costs: NDArray[np.float64], room: Room) -> Iterator[Unfit]:
    """Samples that no pack takes, each with the first reason that holds, by rising ledger number."""
    tokens, visual = samples.counts["num_tokens"], samples.counts["num_visual_tokens"]
    limit = room.beside_fake(visual)
    too_much = (tokens < 0) | (room.aligned(tokens) > limit)
    excesses = list(room.excesses(visual, samples.counts["num_images"], costs))
    for _, amounts, bound in excesses:
        too_much |= amounts > bound
    for place in np.flatnonzero(too_much).tolist():
        sample = int(samples.rows[place])
        if tokens[place] < 0:
            yield Unfit(sample=sample, code="no-fake-image", reason=NO_PLACE)
        elif room.aligned(tokens[place]) > limit[place]:
            reason = _overlong_reason(int(tokens[place]), int(limit[place]), bool(samples.gets_fake[place]), room)
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
