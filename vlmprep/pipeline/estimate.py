"""Raw conversations to a ledger: every row counted exactly or refused, chunk by chunk, in parallel, resumable."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlmprep.counting.ledger import (
    LEDGER_FILE,
    SETTINGS_FILE,
    Ledger,
    chunk_path,
    chunk_signature,
    open_ledger,
    refusal_counts,
    write_chunk,
)
from vlmprep.counting.rows import count_row, media_state
from vlmprep.engines.local import LocalEngine
from vlmprep.families.fingerprint import fingerprint
from vlmprep.families.loading import load_family
from vlmprep.pipeline.lock import output_folder
from vlmprep.pipeline.settings import CountSettings, refuse_other_settings
from vlmprep.schema.engine import Engine
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.files import canonical_json, read_json, write_json
from vlmprep.schema.ledger import OK
from vlmprep.schema.progress import Progress
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.media import MediaReader, own_the_pixel_limit
from vlmprep.sources.rows import Chunk, rows_of, scan_chunks
from vlmprep.sources.spec import SourceSpec, find_sources

__all__ = ["estimate"]

TOTALS = (
    "num_tokens",
    "num_visual_tokens",
    "num_label_tokens",
    "num_images",
    "num_videos",
    "num_audios",
    "media_bytes",
)

WORTH_WORKERS_ROWS = 4_096
"""Up to so many rows are counted here, where the processor is loaded already, before a worker has loaded its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkUnit:
    """One chunk to count, or to find unchanged."""

    spec: SourceSpec
    chunk: Chunk
    path: Path
    """Where its counts go."""

    @property
    def counted_from(self) -> str:
        """Digest of the rows' bytes and of how the source spells them."""
        spelling = canonical_json([dict(self.spec.columns), dict(self.spec.tags), self.spec.media_dir, self.spec.name])
        return hashlib.sha256(self.chunk.digest.to_bytes(8, "little") + spelling).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateJob:
    """Counts chunks; loads the processor when the first chunk needs it."""

    settings: CountSettings

    def open(self) -> ChunkCounter:
        """The worker's function."""
        own_the_pixel_limit()
        return ChunkCounter(self.settings)


class ChunkCounter:
    """Counts one chunk after another."""

    def __init__(self, settings: CountSettings) -> None:
        self._settings = settings
        self._media = MediaReader(max_image_pixels=settings.max_image_pixels)

    def __call__(self, unit: ChunkUnit) -> int:
        """Count a chunk unless its counts are there and still true; return its number of rows."""
        rows = row_reader(unit.spec, self._settings)
        if not self._still_true(unit, rows):
            write_chunk(unit.path, self._records(unit, rows), unit.counted_from)
        return unit.chunk.num_rows

    def _records(self, unit: ChunkUnit, rows: RowReader) -> Iterator[dict[str, Any]]:
        family = load_family(self._settings.family)
        for raw in rows_of(unit.spec.path, unit.chunk):
            yield count_row(unit.spec.name, raw.row, raw.offset, raw.data, rows=rows, media=self._media, family=family)

    def _still_true(self, unit: ChunkUnit, rows: RowReader) -> bool:
        """Whether the chunk was counted from these very rows and media files."""
        if chunk_signature(unit.path) != unit.counted_from:
            return False
        known = pq.read_table(unit.path, columns=["media_state"])["media_state"].to_pylist()
        return bool(
            known == [self._media_state(rows, raw.row, raw.data) for raw in rows_of(unit.spec.path, unit.chunk)]
        )

    def _media_state(self, rows: RowReader, row: int, data: bytes) -> int:
        try:
            return media_state(rows.sample(row, data), self._media)
        except RefuseSample:
            return 0


def row_reader(spec: SourceSpec, settings: CountSettings) -> RowReader:
    """The converter of one source's rows."""
    return RowReader(
        spec=spec, allow_outside_media=settings.allow_outside_media, allow_remote_media=settings.allow_remote_media
    )


def estimate(
    arguments: Sequence[str], settings: CountSettings, out: Path, engine: Engine, progress: Progress
) -> Ledger:
    """Write or bring up to date the ledger of some sources.

    Args:
        arguments: SOURCE arguments.
        settings: What the counts depend on.
        out: Folder of the ledger.
        engine: Runs the counting.
        progress: Is told how far it is.

    Raises:
        StopRun: A source cannot be read, or `out` holds a ledger made with other settings.
    """
    specs = find_sources(arguments)
    with output_folder(out):
        wanted = ledger_settings(settings)
        if (found := read_json(out / SETTINGS_FILE)) is not None:
            refuse_other_settings(f"the ledger {out}", found, wanted)
        write_json(out / SETTINGS_FILE, wanted)
        (out / LEDGER_FILE).unlink(missing_ok=True)
        progress.start("Finding rows", len(specs), "files")
        units = list(_units(specs, out, progress))
        progress.finish()
        num_rows = sum(unit.chunk.num_rows for unit in units)
        progress.start("Counting", num_rows, "rows")
        counting = engine if num_rows > WORTH_WORKERS_ROWS else LocalEngine(0)
        for done in counting.run(EstimateJob(settings=settings), units):
            progress.advance(done)
        progress.finish()
        _remove_stale(out, {unit.path for unit in units})
        _finish(out, specs, units)
    return open_ledger(out)


@functools.cache
def ledger_settings(settings: CountSettings) -> dict[str, Any]:
    """What settings.json of a ledger says."""
    family = load_family(settings.family)
    encoded, count, _ = family.fake_image()
    return {
        "processor": {**asdict(settings.family), "options": [list(pair) for pair in settings.family.options]},
        "fingerprint": fingerprint(family, settings.family),
        "limits": settings.limits(),
        "fake_image": {"num_tokens": encoded.num_tokens, "num_visual_tokens": count.num_visual_tokens},
    }


def _units(specs: Sequence[SourceSpec], out: Path, progress: Progress) -> Iterator[ChunkUnit]:
    for spec in specs:
        found = False
        for chunk in scan_chunks(spec.path):
            found = True
            yield ChunkUnit(spec=spec, chunk=chunk, path=chunk_path(out, spec.name, chunk.number))
        if not found:
            raise StopRun(f"{spec.path} holds no rows", "Leave it out, or give the file that was meant.")
        progress.advance()


def _remove_stale(out: Path, wanted: set[Path]) -> None:
    """Chunks of rows and sources that are no longer there."""
    for path in sorted((out / "chunks").rglob("*.parquet")):
        if path not in wanted:
            path.unlink()


def _finish(out: Path, specs: Sequence[SourceSpec], units: Sequence[ChunkUnit]) -> None:
    chunks = {spec.name: sum(unit.spec is spec for unit in units) for spec in specs}
    sources = [{**asdict(spec), "num_chunks": chunks[spec.name]} for spec in specs]
    summary: dict[str, Any] = {"sources": sources}
    table = Ledger(root=out, summary=summary, settings={}).read(
        ["source", "row", "status", "reason", "reason_code", "row_xxh3", *TOTALS]
    )
    summary["digest"] = counts_digest(table)
    summary["rows"] = {
        "all": table.num_rows,
        "ok": pc.sum(pc.equal(table["status"], OK)).as_py() or 0,
        "refused": refusal_counts(table),
    }
    summary["totals"] = {name: pc.sum(table[name]).as_py() or 0 for name in TOTALS}
    write_json(out / LEDGER_FILE, summary)


def counts_digest(table: pa.Table) -> str:
    """SHA-256 of every row's content and counts: the same wherever and whenever the same rows are counted."""
    digest = hashlib.sha256()
    for name in ("row", "row_xxh3", "num_tokens", "num_visual_tokens", "num_label_tokens"):
        column = pc.fill_null(table[name], 0).combine_chunks()
        digest.update(column.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()
