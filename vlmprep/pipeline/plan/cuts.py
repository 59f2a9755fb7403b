"""Where samples that are longer than a pack are cut: `--overlong truncate`.

A sample keeps its first tokens, as many as a pack takes; fewer where the cut would fall inside a medium, which then goes as a
whole with all that is written for it. The shift takes one token more: a medium stays if at least one token stands behind it.
A sample that keeps no label token is refused, and so is one of which the ledger does not say where its media lie.

Everything is told by the ledger, chunk by chunk: no source is read and no processor is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.plan.file import Unfit
from vlmprep.schema.ledger import CUTTABLE_TOKENS, ENCODER_WORK

__all__ = ["CUT_COUNTS", "Cuts", "cut_samples"]

SUMS = ("num_visual_tokens", "num_patches", "stored_bytes", *ENCODER_WORK)
"""Counts that a ledger has of every medium."""
KINDS = {"num_images": "image", "num_videos": "video", "num_audios": "audio"}
CUT_COUNTS = ("num_tokens", *SUMS, *KINDS)
"""Counts of a cut sample, by the ledger's names; num_tokens before the shift."""
COLUMNS = ("num_tokens", "first_label", "media")
COLUMNS_WITH_FAKE = tuple(f"{name}_with_fake" for name in COLUMNS)
UNKNOWN = -1

Room: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cuts:
    """What is left of samples that were cut, [n] each, by rising ledger number; and those that cannot be cut."""

    rows: NDArray[np.int64]
    """Ledger numbers."""
    counts: Mapping[str, NDArray[np.int64]]
    """CUT_COUNTS of what is kept; `num_tokens` is how many tokens of the sample are kept, before the shift."""
    num_cut_tokens: NDArray[np.int64]
    """Tokens behind the cut."""
    num_cut_media: NDArray[np.int64]
    """Media behind the cut."""
    refused: tuple[Unfit, ...]
    """Samples that would keep no label token, or of which it is not known where they may be cut."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Media:
    """The media of some samples, [m] each."""

    sample: NDArray[np.int64]
    """Whose, by its place among the samples."""
    start: NDArray[np.int64]
    """Its first token in the sample."""
    end: NDArray[np.int64]
    """The token behind its last."""
    counts: Mapping[str, NDArray[np.int64]]
    """SUMS, and ones by KINDS."""

    def kept(self, num_kept: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[m] media that samples of so many tokens hold; the shift takes the last token."""
        kept: NDArray[np.bool_] = self.end < num_kept[self.sample]
        return kept

    def total(self, name: str, kept: NDArray[np.bool_], num_samples: int) -> NDArray[np.int64]:
        """[num_samples] what the kept media of each sample have of a count, in integers."""
        sums = np.zeros(num_samples, np.int64)
        np.add.at(sums, self.sample[kept], self.counts[name][kept])
        return sums

    def moved_back(self, num_kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the same cuts, or the places before the media that they would fall into."""
        moved = num_kept.copy()
        while True:  # a span may overlap with the one before it
            cut_through = (self.start < moved[self.sample]) & (moved[self.sample] <= self.end)
            if not cut_through.any():
                return moved
            np.minimum.at(moved, self.sample[cut_through], self.start[cut_through])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlong:
    """Samples of one chunk to cut, [n] each; with their fake images, or without any."""

    rows: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    """Before the shift."""
    first_label: NDArray[np.int64]
    """UNKNOWN where the ledger does not say."""
    knows_media: NDArray[np.bool_]
    must_keep_picture: NDArray[np.bool_]
    """It got a fake image, which must not be cut off."""
    media: Media


def cut_samples(ledger: Ledger, rows: NDArray[np.int64], room: Room, gets_fake: NDArray[np.bool_]) -> Cuts:
    """Cut samples that are longer than a pack.

    Args:
        ledger: Says where they may be cut.
        rows: [n] their ledger numbers, rising; samples that are ok and have more tokens than there is room for.
        room: Of samples with so many visual tokens: how many tokens they may have, after the shift; not more for fewer.
        gets_fake: [n] which of them get a fake image into their conversation.
    """
    parts = [_cut(part, room) for part in _overlong(ledger, rows, gets_fake)]
    numbers = _joined([part.rows for part in parts])
    order = np.argsort(numbers)

    def joined(columns: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
        return _joined(columns)[order]

    return Cuts(
        rows=numbers[order],
        counts={name: joined(part.counts[name] for part in parts) for name in CUT_COUNTS},
        num_cut_tokens=joined(part.num_cut_tokens for part in parts),
        num_cut_media=joined(part.num_cut_media for part in parts),
        refused=tuple(sorted((sample for part in parts for sample in part.refused), key=lambda unfit: unfit.sample)),
    )


def _cut(samples: Overlong, room: Room) -> Cuts:
    media, size = samples.media, len(samples.rows)
    bare_room = room(np.zeros(size, np.int64))
    whole_visual = media.total("num_visual_tokens", np.ones(len(media.sample), np.bool_), size)
    kept = media.moved_back(np.minimum(samples.num_tokens, room(whole_visual) + 1))
    visual = media.total("num_visual_tokens", media.kept(kept), size)
    kept = media.moved_back(np.where(visual > 0, kept, np.minimum(kept, bare_room + 1)))
    stays = media.kept(kept)
    num_cut_media = np.bincount(media.sample[~stays], minlength=size)
    totals = {name: media.total(name, stays, size) for name in (*SUMS, *KINDS)}
    reasons = list(_reasons(samples, kept, totals["num_images"], room(whole_visual)))
    good = np.array([not reason for reason in reasons], dtype=np.bool_)
    return Cuts(
        rows=samples.rows[good],
        counts={name: column[good] for name, column in {"num_tokens": kept, **totals}.items()},
        num_cut_tokens=(samples.num_tokens - kept)[good],
        num_cut_media=num_cut_media[good],
        refused=tuple(
            Unfit(sample=row, code="overlong", reason=reason)
            for row, reason in zip(samples.rows.tolist(), reasons, strict=True)
            if reason
        ),
    )


def _reasons(
    samples: Overlong, kept: NDArray[np.int64], num_images: NDArray[np.int64], room: NDArray[np.int64]
) -> Iterator[str]:
    """For each sample, why it cannot be cut; empty where it can."""
    for at, (num_tokens, num_kept) in enumerate(zip(samples.num_tokens.tolist(), kept.tolist(), strict=True)):
        label = int(samples.first_label[at])
        length = f"{num_tokens - 1} tokens after the shift, a pack holds {room[at]}"
        before_medium = ", back to before a medium," if num_kept < min(num_tokens, int(room[at]) + 1) else ""
        cut = f"{length}; cut to its first {num_kept} tokens{before_medium} it would keep"
        if label == UNKNOWN:
            yield f"{length}; the ledger says where samples of more than {CUTTABLE_TOKENS} tokens may be cut"
        elif not samples.knows_media[at]:
            yield f"{length}; where it may be cut cannot be told: its text does not show where its media begin and end"
        elif label >= num_kept:
            yield f"{cut} no label token: its first one is token {label + 1}"
        elif samples.must_keep_picture[at] and not num_images[at]:
            yield f"{cut} no place for its fake image"
        else:
            yield ""


def _overlong(ledger: Ledger, rows: NDArray[np.int64], gets_fake: NDArray[np.bool_]) -> Iterator[Overlong]:
    """The samples to cut, chunk by chunk."""
    first = 0
    with_fake = COLUMNS_WITH_FAKE if gets_fake.any() else ()
    for table in ledger.chunks((*COLUMNS, *with_fake)):
        here = slice(*np.searchsorted(rows, (first, first + table.num_rows)))
        if here.start < here.stop:
            chosen = table.take(pa.array(rows[here] - first))
            for columns, fakes in ((COLUMNS, False), (COLUMNS_WITH_FAKE, True)):
                places = np.flatnonzero(gets_fake[here] == fakes)
                if len(places):
                    picked = chosen.select(columns).rename_columns(list(COLUMNS)).take(pa.array(places))
                    yield _samples(rows[here][places], picked, has_fakes=fakes)
        first += table.num_rows


def _samples(rows: NDArray[np.int64], table: pa.Table, *, has_fakes: bool) -> Overlong:
    lists = table["media"].combine_chunks()
    return Overlong(
        rows=rows,
        num_tokens=_integers(table["num_tokens"]),
        first_label=_integers(table["first_label"]),
        knows_media=lists.is_valid().to_numpy(zero_copy_only=False),
        must_keep_picture=np.full(len(rows), has_fakes),
        media=_media(lists),
    )


def _media(lists: pa.ListArray) -> Media:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    entries = pc.list_flatten(lists)
    kinds = entries.field("kind")
    counts = {name: _integers(entries.field(name)) for name in SUMS}
    of_kind = {name: pc.equal(kinds, kind).to_numpy(zero_copy_only=False) for name, kind in KINDS.items()}
    return Media(
        sample=np.repeat(np.arange(len(lists)), lengths),
        start=_integers(entries.field("start")),
        end=_integers(entries.field("end")),
        counts={**counts, **{name: found.astype(np.int64) for name, found in of_kind.items()}},
    )


def _integers(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(pc.fill_null(whole, UNKNOWN).to_numpy(zero_copy_only=False), dtype=np.int64)


def _joined(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts])
