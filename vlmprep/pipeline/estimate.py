"""Raw conversations to a ledger: every row counted exactly or refused, chunk by chunk, in parallel, resumable."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
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
    counted_sources,
    open_ledger,
    refusal_counts,
    write_chunk,
)
from vlmprep.counting.rows import count_rows, media_state
from vlmprep.engines.local import LocalEngine
from vlmprep.families.fingerprint import fingerprint
from vlmprep.families.loading import load_family
from vlmprep.packing.document import check_media
from vlmprep.pipeline.ahead import start_compiling
from vlmprep.pipeline.output import output_folder
from vlmprep.pipeline.recognize import Kind
from vlmprep.pipeline.settings import CountSettings, refuse_other_settings
from vlmprep.schema.engine import Engine
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import Family
from vlmprep.schema.files import canonical_json, read_json, write_json
from vlmprep.schema.ledger import ENCODER_WORK, LEDGER, LEDGER_VERSION, REFUSED
from vlmprep.schema.progress import Progress
from vlmprep.sources.blobs import RowData
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.kept import check_kept
from vlmprep.sources.media import own_the_pixel_limit
from vlmprep.sources.row_files import OpenFiles, groups_of, open_rows
from vlmprep.sources.rows import Chunk
from vlmprep.sources.spec import SourceSpec, find_sources

__all__ = ["estimate", "fake_image_counts"]

TOTALS = (
    "num_tokens",
    "num_visual_tokens",
    "num_label_tokens",
    "num_left_out_characters",
    "num_images",
    "num_videos",
    "num_audios",
    "media_bytes",
)
DIGESTED = (
    *(
        "row",
        "row_xxh3",
        "num_tokens",
        "num_visual_tokens",
        "num_label_tokens",
        "num_images",
        "num_videos",
        "num_audios",
    ),
    *ENCODER_WORK,
)
"""What a plan depends on, and what proves that rows are the same."""
REFUSAL_COLUMNS = ["source", "row", "status", "reason", "reason_code"]

ROWS_AT_ONCE = 256
"""Rows that are tokenized at one call: fewer take longer, because tokenizer and the rest share the processor's caches."""
WORTH_WORKERS_ROWS = 4_096
"""Up to so many rows are counted here, where the processor is loaded already, before a worker has loaded its own."""
_LEDGER_SETTINGS: dict[bytes, dict[str, Any]] = {}
"""By the JSON of what was asked for."""


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
    frozen: bool = False
    """Stop at a chunk whose rows or media changed, instead of counting it again."""

    def open(self) -> ChunkCounter:
        """The worker's function."""
        own_the_pixel_limit()
        return ChunkCounter(self)


class ChunkCounter:
    """Counts one chunk after another."""

    def __init__(self, job: EstimateJob) -> None:
        self._settings = job.settings
        self._frozen = job.frozen
        self._media = job.settings.media_reader()
        self._files = OpenFiles()

    def __call__(self, unit: ChunkUnit) -> int:
        """Count a chunk unless its counts are there and still true; return its number of rows."""
        rows = row_reader(unit.spec, self._settings)
        if not self._still_true(unit, rows):
            if self._frozen:
                first, last = unit.chunk.first_row, unit.chunk.first_row + unit.chunk.num_rows - 1
                raise changed_since(f"{unit.spec.path} (rows {first} to {last}, or media that they name)")
            write_chunk(unit.path, self._records(unit, rows), unit.counted_from)
        return unit.chunk.num_rows

    def _records(self, unit: ChunkUnit, rows: RowReader) -> Iterator[dict[str, Any]]:
        family = load_family(self._settings.family)
        for group in groups_of(self._files[unit.spec.path].rows(unit.chunk), ROWS_AT_ONCE):
            yield from count_rows(
                unit.spec.name,
                group,
                rows=rows,
                media=self._media,
                family=family,
                count_with_fake=self._settings.count_with_fake,
                check_media=check_media if self._settings.verify_media else None,
            )

    def _still_true(self, unit: ChunkUnit, rows: RowReader) -> bool:
        """Whether the chunk was counted from these very rows and media files."""
        if chunk_signature(unit.path) != unit.counted_from:
            return False
        known = pq.read_table(unit.path, columns=["media_state"])["media_state"].to_pylist()
        raws = self._files[unit.spec.path].rows(unit.chunk)
        return bool(known == [self._media_state(rows, raw.row, raw.data) for raw in raws])

    def _media_state(self, rows: RowReader, row: int, data: RowData) -> int:
        try:
            return media_state(rows.sample(row, data), self._media)
        except RefuseSample:
            return 0


def row_reader(spec: SourceSpec, settings: CountSettings) -> RowReader:
    """The converter of one source's rows."""
    return RowReader(
        spec=spec,
        allow_outside_media=settings.allow_outside_media,
        allow_remote_media=settings.allow_remote_media,
        keep=settings.keep,
    )


def changed_since(what: str) -> StopRun:
    """A finished or begun pack set does not change under its readers."""
    return StopRun(
        f"{what} changed since packing began",
        "A pack set holds its sources as they were: give another --out to pack them as they are now.",
    )


def estimate(
    arguments: Sequence[str],
    settings: CountSettings,
    out: Path,
    engine: Engine,
    progress: Progress,
    *,
    frozen: bool = False,
) -> Ledger:
    """Write or bring up to date the ledger of some sources.

    Args:
        arguments: SOURCE arguments.
        settings: What the counts depend on.
        out: Folder of the ledger.
        engine: Runs the counting.
        progress: Is told how far it is.
        frozen: Packing from this ledger began: stop where a source is no longer what was counted, and write nothing.

    Raises:
        StopRun: A source cannot be read, or `out` holds a ledger made with other settings or of other sources.
    """
    specs = find_sources(arguments)
    with output_folder(out, Kind.LEDGER):
        progress.start("Loading", 1, "processor")
        wanted = ledger_settings(settings)
        progress.advance()
        progress.finish()
        if (found := read_json(out / SETTINGS_FILE)) is not None:
            refuse_other_settings(f"the ledger {out}", decisive(found), decisive(wanted))
        _refuse_lost_sources(out, specs)
        frozen = frozen and (out / LEDGER_FILE).exists()
        if not frozen:
            write_json(out / SETTINGS_FILE, wanted)
            (out / LEDGER_FILE).unlink(missing_ok=True)
        start_compiling()
        check_kept(specs, settings.keep)
        progress.start("Finding rows", len(specs), "files")
        units = list(_units(specs, out, progress))
        progress.finish()
        num_rows = sum(unit.chunk.num_rows for unit in units)
        progress.start("Counting", num_rows, "rows")
        counting = engine if num_rows > WORTH_WORKERS_ROWS or settings.verify_media else LocalEngine(0)
        with closing(counting.run(EstimateJob(settings=settings, frozen=frozen), units)) as counted:
            for done in counted:
                progress.advance(done)
        progress.finish()
        sources = _sources(specs, units)
        if frozen:
            _check_same_sources(open_ledger(out), sources)
        else:
            _remove_stale(out, {unit.path for unit in units})
            _finish(out, sources)
    return open_ledger(out)


def _refuse_lost_sources(out: Path, specs: Sequence[SourceSpec]) -> None:
    """Counting other sources into a ledger would throw away what was counted of those that it holds."""
    if lost := sorted(counted_sources(out) - {spec.name for spec in specs}):
        raise StopRun(
            f"the ledger {out} holds other sources too: {', '.join(lost)}",
            "Name all sources of a ledger in one command, or give another --out (or delete it) to start anew.",
        )


def _check_same_sources(ledger: Ledger, sources: list[dict[str, Any]]) -> None:
    for old, new in zip(ledger.summary["sources"], sources, strict=False):
        if old != new:
            raise changed_since(f"the source {old['name']!r}")
    if len(ledger.summary["sources"]) != len(sources):
        raise changed_since("the list of sources")


def decisive(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a ledger that its counts depend on: what the processor holds, not where it lies."""
    return {name: value for name, value in settings.items() if name != "processor"}


def ledger_settings(settings: CountSettings) -> dict[str, Any]:
    """What settings.json of a ledger says; found out once per process, because a tokenizer is long to digest."""
    key = canonical_json(asdict(settings))
    if key not in _LEDGER_SETTINGS:
        _LEDGER_SETTINGS[key] = _ledger_settings(settings)
    return _LEDGER_SETTINGS[key]


def _ledger_settings(settings: CountSettings) -> dict[str, Any]:
    family = load_family(settings.family)
    return {
        "version": LEDGER_VERSION,
        "processor": {**asdict(settings.family), "options": [list(pair) for pair in settings.family.options]},
        "fingerprint": fingerprint(family, settings.family),
        "limits": settings.limits(),
        "fake_image": fake_image_counts(family),
    }


def fake_image_counts(family: Family) -> dict[str, int]:
    """What a family's fake image takes, by the ledger's names."""
    encoded, count, _ = family.fake_image()
    return {
        "num_tokens": encoded.num_tokens,
        "num_visual_tokens": count.num_visual_tokens,
        "stored_bytes": count.stored_bytes,
        **asdict(count.work),
    }


def _units(specs: Sequence[SourceSpec], out: Path, progress: Progress) -> Iterator[ChunkUnit]:
    for spec in specs:
        found = False
        for chunk in open_rows(spec.path).chunks():
            found = True
            yield ChunkUnit(spec=spec, chunk=chunk, path=chunk_path(out, spec.name, chunk.number))
        if not found:
            raise StopRun(f"{spec.path} holds no rows", "Leave it out, or give the file that was meant.")
        progress.advance()


def _remove_stale(out: Path, wanted: set[Path]) -> None:
    """Chunks of rows that are no longer there."""
    for path in sorted((out / "chunks").glob("*/*.parquet")):
        if path not in wanted:
            path.unlink()


def _sources(specs: Sequence[SourceSpec], units: Sequence[ChunkUnit]) -> list[dict[str, Any]]:
    """What ledger.json says of each source."""
    chunks = Counter(unit.spec.name for unit in units)
    return [{**asdict(spec), "num_chunks": chunks[spec.name]} for spec in specs]


def _finish(out: Path, sources: list[dict[str, Any]]) -> None:
    """Add up the chunks, one in memory at a time."""
    summary: dict[str, Any] = {"sources": sources}
    planned = [[source["name"], source["sample_ratio"]] for source in sources]
    digest = hashlib.sha256(canonical_json(planned))
    totals, num_rows, refused = Counter[str](), 0, [LEDGER.empty_table().select(REFUSAL_COLUMNS)]
    ledger = Ledger(root=out, summary=summary, settings={})
    for table in ledger.chunks(list(dict.fromkeys([*REFUSAL_COLUMNS, *DIGESTED, *TOTALS]))):
        update_digest(digest, table)
        num_rows += table.num_rows
        totals.update({name: pc.sum(table[name]).as_py() or 0 for name in TOTALS})
        refused.append(table.select(REFUSAL_COLUMNS).filter(pc.equal(table["status"], REFUSED)))
    counts = refusal_counts(pa.concat_tables(refused))
    summary["digest"] = digest.hexdigest()
    summary["rows"] = {"all": num_rows, "ok": num_rows - sum(count["rows"] for count in counts), "refused": counts}
    summary["totals"] = {name: totals[name] for name in TOTALS}
    write_json(out / LEDGER_FILE, summary)


def update_digest(digest: hashlib._Hash, table: pa.Table) -> None:
    """Take in every row's content and counts: the same wherever and whenever the same rows are counted."""
    for name in DIGESTED:
        column = pc.fill_null(table[name], 0).combine_chunks()
        digest.update(column.to_numpy(zero_copy_only=False).tobytes())
