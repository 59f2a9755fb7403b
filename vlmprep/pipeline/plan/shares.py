"""What every source gives to a plan: rows used and unused, refused and why, tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprep.pipeline.plan.file import Unfit
from vlmprep.pipeline.plan.layout import Layout

__all__ = ["Cut", "SourceShare", "Unused", "cut", "shares", "unused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceShare:
    """One source's part in the packs."""

    name: str
    rows: int
    rows_refused: int
    """By the ledger or the plan."""
    refused: dict[str, int]
    """By reason, most frequent first."""
    rows_used: int
    rows_unused: int
    """Usable, but not drawn, or in a pack that `--max-packs` leaves out."""
    uses: int
    """Documents in packs: a row that is used twice counts twice."""
    num_tokens: int
    """Of the documents, after the shift; and so are the next."""
    num_visual_tokens: int
    num_label_tokens: int
    """As the ledger counts them: of whole samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """Documents that were planned, in packs that `--max-packs` leaves out."""

    num_samples: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Documents in packs that lost their end to `--overlong truncate`."""

    num_samples: int
    num_tokens: int
    """Behind the cuts."""
    num_media: int


def cut(layout: Layout) -> Cut:
    """What was cut off what is in packs."""
    cuts, packed = layout.cuts, layout.packs.samples
    if cuts is None or not len(cuts.rows):
        return Cut(num_samples=0, num_tokens=0, num_media=0)
    place = np.minimum(np.searchsorted(cuts.rows, packed), len(cuts.rows) - 1)
    place = place[cuts.rows[place] == packed]
    return Cut(
        num_samples=len(place),
        num_tokens=int(cuts.num_cut_tokens[place].sum()),
        num_media=int(cuts.num_cut_media[place].sum()),
    )


def unused(layout: Layout) -> Unused:
    """What `max_packs` leaves out."""
    tokens = layout.candidates.num_tokens
    return Unused(
        num_samples=len(tokens) - len(layout.plan.samples),
        num_tokens=int(tokens.sum(dtype=np.int64) - layout.packs.num_tokens.sum()),
    )


def shares(layout: Layout) -> tuple[SourceShare, ...]:
    """Account for every source, in the ledger's order."""
    return tuple(_shares(layout))


def _shares(layout: Layout) -> Iterator[SourceShare]:
    ledger, candidates = layout.ledger, layout.candidates
    is_packed = np.zeros(len(candidates.rows), np.bool_)
    is_packed[layout.plan.samples] = True
    unfit = np.array([sample.sample for sample in layout.unfit], np.int64)
    chunks = ledger.chunks(["reason_code", "num_label_tokens"])
    first_row = 0
    for source in ledger.summary["sources"]:
        tables = [next(chunks) for _ in range(source["num_chunks"])]
        num_rows = sum(table.num_rows for table in tables)
        borders = [first_row, first_row + num_rows]
        own = slice(*np.searchsorted(candidates.rows, borders).tolist())
        packed = is_packed[own]
        uses = np.bincount(candidates.rows[own][packed] - first_row, minlength=num_rows)
        refused = _refused(tables, layout.unfit[slice(*np.searchsorted(unfit, borders).tolist())])
        rows_used = int(np.count_nonzero(uses))
        yield SourceShare(
            name=source["name"],
            rows=num_rows,
            rows_refused=sum(refused.values()),
            refused=refused,
            rows_used=rows_used,
            rows_unused=num_rows - sum(refused.values()) - rows_used,
            uses=int(uses.sum()),
            num_tokens=int(candidates.num_tokens[own][packed].sum(dtype=np.int64)),
            num_visual_tokens=int(candidates.num_visual_tokens[own][packed].sum(dtype=np.int64)),
            num_label_tokens=_label_tokens(tables, uses),
        )
        first_row += num_rows


def _refused(tables: Sequence[pa.Table], unfit: Sequence[Unfit]) -> dict[str, int]:
    """Refused rows of a source by reason.

    Args:
        tables: The source's rows, with reason_code, null where a row is usable.
        unfit: The source's samples that the plan refuses.
    """
    counts = Counter(sample.code for sample in unfit)
    for table in tables:
        found = pc.value_counts(table["reason_code"].drop_null()).to_pylist()
        counts.update({entry["values"]: entry["counts"] for entry in found})
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _label_tokens(tables: Sequence[pa.Table], uses: NDArray[np.int64]) -> int:
    """Label tokens of a source's documents.

    Args:
        tables: The source's rows, with num_label_tokens.
        uses: [rows] how often each is used.
    """
    total = start = 0
    for table in tables:
        labels = pc.fill_null(table["num_label_tokens"], 0).to_numpy()
        total += int(labels @ uses[start : start + len(labels)])
        start += len(labels)
    return total
