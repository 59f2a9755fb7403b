"""The ledger on disk: a folder of Parquet files, one per chunk of a source.

LEDGER/
  settings.json                  written first: what every count depends on
  chunks/<source>/000000.parquet one per chunk, with the digest of what it was counted from
  ledger.json                    written last: its presence means complete
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import publish, read_json
from vlmprep.schema.ledger import LEDGER, LEDGER_VERSION, REFUSED

__all__ = [
    "CHUNK_KEY",
    "LEDGER_FILE",
    "SETTINGS_FILE",
    "Ledger",
    "chunk_path",
    "chunk_signature",
    "counted_sources",
    "open_ledger",
    "refusal_counts",
    "write_chunk",
]

CHUNK_KEY = b"vlmprep.counted_from"
"""Parquet metadata that holds the digest of what a chunk was counted from."""
SETTINGS_FILE = "settings.json"
LEDGER_FILE = "ledger.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A complete ledger."""

    root: Path
    summary: dict[str, Any]
    """ledger.json: sources in order, their chunks, totals, digest."""
    settings: dict[str, Any]
    """settings.json: processor, fingerprint, limits."""

    @property
    def digest(self) -> str:
        """Identity of the rows, their counts and how many of them may be planned; says nothing of where they lie."""
        return str(self.summary["digest"])

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows, in the order that numbers samples: sources in order, rows in order."""
        schema = pa.schema([LEDGER.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *self.chunks(columns)])

    def rows_of_sources(self) -> list[int]:
        """How many rows each source has, by the footers of its chunks."""
        return [
            sum(
                pq.read_metadata(chunk_path(self.root, source["name"], number)).num_rows
                for number in range(source["num_chunks"])
            )
            for source in self.summary["sources"]
        ]

    def chunks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """What `read` gives, chunk by chunk."""
        schema = pa.schema([LEDGER.field(name) for name in columns])
        for source in self.summary["sources"]:
            for number in range(source["num_chunks"]):
                path = chunk_path(self.root, source["name"], number)
                yield pq.read_table(path, columns=list(columns)).cast(schema)


def open_ledger(root: Path) -> Ledger:
    """Open a complete ledger.

    Raises:
        StopRun: There is none, it is not complete, or another version of vlmprep wrote it.
    """
    summary, settings = read_json(root / LEDGER_FILE), read_json(root / SETTINGS_FILE)
    if summary is None or settings is None:
        if (root / "ledger" / LEDGER_FILE).is_file():
            raise StopRun(f"{root} is no ledger, but holds one", f"Give {root / 'ledger'}.")
        raise StopRun(
            f"{root} is no complete ledger",
            "Run `vlmprep estimate SOURCE... --processor P --out LEDGER`; it resumes what is there.",
        )
    if (version := settings.get("version", 1)) != LEDGER_VERSION:
        raise StopRun(
            f"the ledger {root} is of format {version}, and this version of vlmprep reads and writes {LEDGER_VERSION}",
            "Count its sources again, into another folder (`vlmprep estimate`).",
        )
    return Ledger(root=root, summary=summary, settings=settings)


def chunk_path(root: Path, source: str, number: int) -> Path:
    """Where one chunk's counts lie."""
    return root / "chunks" / urllib.parse.quote(source, safe=" ") / f"{number:06d}.parquet"


def counted_sources(root: Path) -> set[str]:
    """Names of the sources that a ledger holds chunks of, complete or not."""
    return {urllib.parse.unquote(path.parent.name) for path in (root / "chunks").glob("*/*.parquet")}


def write_chunk(path: Path, records: Iterable[dict[str, Any]], counted_from: str) -> pa.Table:
    """Publish one chunk's rows.

    Args:
        path: As `chunk_path` gives it.
        records: Records of schema.ledger.LEDGER.
        counted_from: Digest of the rows' bytes and of how they are spelled.
    """
    table = pa.Table.from_pylist(list(records), schema=LEDGER.with_metadata({CHUNK_KEY: counted_from.encode()}))
    with publish(path, durable=False) as attempt:  # a torn chunk has no signature and is counted again
        pq.write_table(table, attempt, compression="zstd", store_schema=True)
    return table


def chunk_signature(path: Path) -> str | None:
    """What a chunk's counts were made from; None where there are none that can be read."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    found = metadata.get(CHUNK_KEY)
    return None if found is None else str(found.decode())


def refusal_counts(table: pa.Table) -> list[dict[str, Any]]:
    """Refused rows by reason, most frequent first: reason_code, rows, and one example.

    Args:
        table: With the columns status, reason_code, reason, source, row.
    """
    refused = table.filter(pc.equal(table["status"], REFUSED))
    grouped = refused.group_by("reason_code", use_threads=False).aggregate(
        [("row", "count"), ("reason", "first"), ("source", "first"), ("row", "first")]
    )
    counts = [
        {
            "code": group["reason_code"],
            "rows": group["row_count"],
            "example": {"source": group["source_first"], "row": group["row_first"], "reason": group["reason_first"]},
        }
        for group in grouped.to_pylist()
    ]
    return sorted(counts, key=lambda count: (-count["rows"], count["code"]))
