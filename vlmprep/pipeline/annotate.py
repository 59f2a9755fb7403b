"""A ledger's counts written into copies of the rows, under the names that NeMo Automodel reads.

    _text_tokens     tokens of the sample without those of its images and clips
    mm_inputs_meta   images_meta    [height, width] of each image, upright
                     videos_meta    [frames, height, width, frames per second, seconds] of each clip
                     images_tokens, videos_tokens   exact tokens of each

    OUT/meta.json        names the copies, with the columns, tags and media folders of their sources
    OUT/<source>.jsonl   every row, in order; refused ones as they are

Readers that estimate from the first three agree with the ledger wherever they know the processor's arithmetic.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vlmprep.counting.ledger import Ledger, chunk_path
from vlmprep.families.loading import load_family
from vlmprep.pipeline.estimate import row_reader
from vlmprep.pipeline.pack import source_specs
from vlmprep.pipeline.settings import CountSettings
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import Family
from vlmprep.schema.files import publish, write_json
from vlmprep.schema.ledger import OK
from vlmprep.schema.media import ImageSize, MediaSize, VideoSize
from vlmprep.schema.progress import Progress
from vlmprep.sources.blobs import RowData
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.media import MediaReader
from vlmprep.sources.records import parse_record
from vlmprep.sources.row_files import open_rows
from vlmprep.sources.spec import SourceSpec

__all__ = ["annotate"]

COLUMNS = ("row", "status", "num_tokens", "row_offset", "row_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotator:
    """Adds the counts of one source's rows."""

    rows: RowReader
    media: MediaReader
    family: Family

    def line(self, counted: Mapping[str, Any], data: RowData) -> bytes:
        """One row as a line of the copy.

        Args:
            counted: COLUMNS of its ledger row.
            data: The row itself.

        Raises:
            StopRun: It is no JSON, or its media are no longer what was counted.
        """
        if not isinstance(data, bytes):
            raise StopRun(
                f"{self.rows.spec.path} holds no JSON, which alone can be annotated",
                "Leave it out, or export it as .jsonl.",
            )
        if counted["status"] != OK:
            return data.strip().replace(b"\n", b" ").replace(b"\r", b" ")
        row = int(counted["row"])
        try:
            added = self._added(row, data, int(counted["num_tokens"]))
        except RefuseSample as refusal:
            raise StopRun(
                f"{self.rows.spec.path}, row {row}: {refusal.reason}",
                "It changed since it was counted; run the command again.",
            ) from refusal
        return json.dumps({**parse_record(row, data), **added}, ensure_ascii=False).encode()

    def _added(self, row: int, data: bytes, num_tokens: int) -> dict[str, Any]:
        sample = self.rows.sample(row, data)
        sizes = [
            self.media.size(medium, self.family.loader, with_sound=self.family.hears_clips) for medium in sample.media()
        ]
        counts = self.family.measure(sizes)
        tokens = {
            kind: [count.num_placeholders for count in counts if count.kind == kind] for kind in ("image", "video")
        }
        of_media = sum(map(sum, tokens.values()))
        meta = {
            "images_meta": [_told(size) for size in sizes if isinstance(size, ImageSize)],
            "videos_meta": [_told(size) for size in sizes if isinstance(size, VideoSize)],
            "images_tokens": tokens["image"],
            "videos_tokens": tokens["video"],
        }
        return {"_text_tokens": num_tokens - of_media, "mm_inputs_meta": meta}


def annotate(ledger: Ledger, settings: CountSettings, out: Path, progress: Progress) -> int:
    """Write copies of a ledger's rows with their counts, and the meta file that names them.

    Args:
        ledger: Of rows that are JSON.
        settings: What it was counted with.
        out: Folder of the copies; files of the same names are replaced, but never a source.
        progress: Is told how far it is.

    Returns:
        How many rows were annotated; the others are refused ones, copied as they are.

    Raises:
        StopRun: A source is no JSON, changed since, or would be written over.
    """
    specs = source_specs(ledger)
    files = {spec.name: f"{urllib.parse.quote(spec.name, safe=' ')}.jsonl" for spec in specs}
    if clash := [spec.path for spec in specs if Path(spec.path).resolve() == (out / files[spec.name]).resolve()]:
        raise StopRun(f"--annotate {out} would write over the source {clash[0]}", "Give another folder.")
    progress.start("Annotating", ledger.summary["rows"]["all"], "rows")
    annotated = sum(_write(ledger, spec, settings, out / files[spec.name], progress) for spec in specs)
    write_json(out / "meta.json", {spec.name: _entry(spec, files[spec.name]) for spec in specs})
    progress.finish()
    return annotated


def _write(ledger: Ledger, spec: SourceSpec, settings: CountSettings, path: Path, progress: Progress) -> int:
    """Copy one source; returns how many of its rows have counts now."""
    annotator = Annotator(
        rows=row_reader(spec, settings), media=settings.media_reader(), family=load_family(settings.family)
    )
    file, annotated = open_rows(spec.path), 0
    with publish(path) as attempt, attempt.open("wb") as copy:
        for counted in _counted(ledger, spec.name):
            data = file.read(counted["row_offset"], counted["row_bytes"])
            copy.write(annotator.line(counted, data) + b"\n")
            annotated += counted["status"] == OK
            progress.advance()
    return annotated


def _counted(ledger: Ledger, name: str) -> Iterator[dict[str, Any]]:
    """COLUMNS of one source's rows, in order, one chunk in memory at a time."""
    chunks = next(source["num_chunks"] for source in ledger.summary["sources"] if source["name"] == name)
    for number in range(chunks):
        yield from pq.read_table(chunk_path(ledger.root, name, number), columns=list(COLUMNS)).to_pylist()


def _entry(spec: SourceSpec, file_name: str) -> dict[str, Any]:
    """What the meta file says of a copy: all that it said of the source, media where they lie."""
    entry: dict[str, Any] = {"file_name": file_name, "media_dir": spec.media_dir, "sample_ratio": spec.sample_ratio}
    return entry | {name: dict(value) for name, value in (("columns", spec.columns), ("tags", spec.tags)) if value}


def _told(size: MediaSize) -> list[float | int]:
    """A size as the reference writes it."""
    if isinstance(size, VideoSize):
        rate = size.frames_per_second or 0.0
        return [size.num_frames, size.height, size.width, rate, size.num_frames / rate if rate else 0.0]
    assert isinstance(size, ImageSize)
    return [size.height, size.width]
