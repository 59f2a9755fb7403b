"""What a pack set holds, from its manifest, its index and its account of the rows; no shard is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlmprep.pipeline.inspect.spread import PackColumns, Spread, spread_of
from vlmprep.pipeline.plan.stragglers import ratios_grouped, ratios_shuffled
from vlmprep.schema.packset import MANIFEST, PACKS_FILE, SAMPLES_FILE
from vlmprep.shardformat.errors import BrokenPackSet
from vlmprep.shardformat.index import PackIndex, map_index
from vlmprep.shardformat.manifest import Manifest, missing_manifest

__all__ = ["PackSetReport", "inspect_packset", "open_packset", "refusals_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSetReport:
    """A complete pack set."""

    packset: str
    """Its folder."""
    manifest: Manifest
    num_bytes: int
    """Of all shards."""
    fill: float
    """Share of the packs' tokens that is taken, fake images included."""
    num_fake_images: int | None
    """Of packs; None where they stand in samples."""
    refused: list[dict[str, Any]]
    """Rows refused by any stage, by reason with an example each."""
    straggler_ratio: dict[str, float]
    """By number of data-parallel ranks: max over ranks of a step's cost / mean, averaged over a shuffled epoch in which any
    packs share a step."""
    straggler_ratio_grouped: dict[str, float]
    """The same where packs of nearly equal cost share a step, as the loader groups them if not told otherwise."""
    spread: Spread


def open_packset(root: Path) -> tuple[Manifest, PackIndex]:
    """Manifest and index of a complete pack set.

    Raises:
        IncompletePackSet: There is no manifest.
        BrokenPackSet: One of the two cannot be read, or they do not agree.
    """
    try:
        manifest = Manifest.from_bytes((root / MANIFEST).read_bytes(), str(root))
    except FileNotFoundError as error:
        raise missing_manifest(str(root)) from error
    index = map_index(root / PACKS_FILE)
    if len(index) != manifest.num_packs:
        raise BrokenPackSet(f"{root}: {PACKS_FILE} lists {len(index)} packs, {MANIFEST} says {manifest.num_packs}")
    return manifest, index


def inspect_packset(root: Path) -> PackSetReport:
    """Summarize a complete pack set.

    Raises:
        StopRun: It is not complete, or manifest, index or account cannot be read.
    """
    manifest, index = open_packset(root)
    has_fake = (index.num_visual_tokens > 0) & (index.num_images == 0) & (index.num_videos == 0)
    columns = PackColumns(
        num_tokens=index.num_tokens,
        num_visual_tokens=index.num_visual_tokens,
        num_samples=index.num_samples,
        cost=index.cost,
        cost_unit=manifest.settings["cost"]["unit"],
    )
    return PackSetReport(
        packset=str(root),
        manifest=manifest,
        num_bytes=sum(shard.size for shard in manifest.shards),
        fill=manifest.num_tokens / (manifest.num_packs * manifest.pack_size),
        num_fake_images=None if manifest.settings.get("fake_image") == "sample" else int(np.count_nonzero(has_fake)),
        refused=refusals_of(root / SAMPLES_FILE) if manifest.rows.refused else [],
        straggler_ratio=ratios_shuffled(index.cost),
        straggler_ratio_grouped=ratios_grouped(index.cost),
        spread=spread_of(columns, manifest.pack_size),
    )


def refusals_of(path: Path) -> list[dict[str, Any]]:
    """Refused rows of a samples.parquet by reason, most frequent first, with the first row of each as an example.

    Reasons are read one row group at a time, rows only where a reason is met for the first time.

    Raises:
        BrokenPackSet: The file is missing or no table of samples.
    """
    try:
        with pq.ParquetFile(path) as file:
            counts: Counter[str] = Counter()
            examples: dict[str, dict[str, Any]] = {}
            for group, codes in _reason_codes(file):
                for code, count in ((entry["values"], entry["counts"]) for entry in pc.value_counts(codes).to_pylist()):
                    counts[code] += count
                    if code not in examples:
                        examples[code] = _example(file, group, code)
    except (OSError, pa.ArrowInvalid) as error:
        raise BrokenPackSet(f"{path} cannot be read: {error}") from error
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [{"code": code, "rows": count, "example": examples[code]} for code, count in ordered]


def _reason_codes(file: pq.ParquetFile) -> Iterator[tuple[int, pa.ChunkedArray]]:
    """(row group, the codes in it), of row groups that have any."""
    for group in range(file.num_row_groups):
        codes = file.read_row_group(group, columns=["reason_code"])["reason_code"].drop_null()
        if len(codes):
            yield group, codes


def _example(file: pq.ParquetFile, group: int, code: str) -> dict[str, Any]:
    table = file.read_row_group(group, columns=["source", "row", "reason", "reason_code"])
    first = table.filter(pc.equal(table["reason_code"], code)).slice(0, 1).to_pylist()[0]
    return {"source": first["source"], "row": first["row"], "reason": first["reason"]}
