"""What a ledger says: rows by source, refusals by reason, how long samples are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger, chunk_path, open_ledger
from vlmprep.pipeline.inspect.histogram import Histogram, doubling_edges, doubling_histogram
from vlmprep.schema.ledger import OK

__all__ = ["LedgerReport", "SourceReport", "inspect_ledger"]

COLUMNS = (
    "status",
    "num_tokens",
    "num_visual_tokens",
    "num_label_tokens",
    "num_images",
    "num_videos",
    "num_audios",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """One source of a ledger; tokens and media are those of its usable rows."""

    name: str
    path: str
    sample_ratio: float
    """Share of the rows that planning draws."""
    rows: int
    usable: int
    num_tokens: int
    num_visual_tokens: int
    num_label_tokens: int
    num_images: int
    num_videos: int
    num_audios: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReport:
    """A complete ledger."""

    ledger: str
    """Its folder."""
    processor: str
    family: str
    rows: dict[str, Any]
    """`all`, `ok`, and `refused` by reason with an example each."""
    totals: dict[str, int]
    sources: tuple[SourceReport, ...]
    token_lengths: dict[str, Histogram]
    """Tokens of a usable sample before the shift: `text_only` and `with_media`, in the same bins."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceLengths:
    """Tokens of every usable sample of a source."""

    text_only: NDArray[np.int32]
    with_media: NDArray[np.int32]


def inspect_ledger(root: Path) -> LedgerReport:
    """Read a complete ledger, one chunk at a time.

    Raises:
        StopRun: It is not complete.
    """
    ledger = open_ledger(root)
    read = [_read_source(ledger, source) for source in ledger.summary["sources"]]
    kinds = {
        "text_only": np.concatenate([lengths.text_only for _, lengths in read]),
        "with_media": np.concatenate([lengths.with_media for _, lengths in read]),
    }
    edges = doubling_edges(np.concatenate(list(kinds.values())))
    return LedgerReport(
        ledger=str(root),
        processor=ledger.settings["processor"]["processor"],
        family=ledger.settings["fingerprint"]["family"],
        rows=ledger.summary["rows"],
        totals=ledger.summary["totals"],
        sources=tuple(source for source, _ in read),
        token_lengths={kind: doubling_histogram(lengths, edges) for kind, lengths in kinds.items()},
    )


def _read_source(ledger: Ledger, source: dict[str, Any]) -> tuple[SourceReport, SourceLengths]:
    """Sums over all chunks of a source, and what is too fine to sum."""
    totals = dict.fromkeys(("rows", "usable", *COLUMNS[1:]), 0)
    text_only, with_media = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for number in range(source["num_chunks"]):
        table = pq.read_table(chunk_path(ledger.root, source["name"], number), columns=list(COLUMNS))
        usable = table.filter(pc.equal(table["status"], OK))
        totals["rows"] += table.num_rows
        totals["usable"] += usable.num_rows
        for name in COLUMNS[1:]:
            totals[name] += pc.sum(usable[name]).as_py() or 0
        lengths = _column(usable, "num_tokens")
        has_media = sum(_column(usable, f"num_{kind}") for kind in ("images", "videos", "audios")) > 0
        text_only.append(lengths[~has_media])
        with_media.append(lengths[has_media])
    report = SourceReport(
        name=source["name"], path=source["path"], sample_ratio=float(source["sample_ratio"]), **totals
    )
    return report, SourceLengths(text_only=np.concatenate(text_only), with_media=np.concatenate(with_media))


def _column(table: pa.Table, name: str) -> NDArray[np.int32]:
    return np.asarray(table[name].to_numpy(), dtype=np.int32)
