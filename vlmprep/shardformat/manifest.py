"""manifest.json: written last; says what the pack set is and holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from vlmprep.schema.files import canonical_json
from vlmprep.schema.packset import FORMAT_VERSION, MANIFEST
from vlmprep.schema.pixels import PixelRule
from vlmprep.shardformat.errors import BrokenPackSet, IncompletePackSet, NewerFormat
from vlmprep.shardformat.shardrecords import ShardRecord, ShardRecords

__all__ = ["FileRecord", "Manifest", "RowCounts", "missing_manifest"]

DIGEST = "digest"
"""Name of the manifest's digest of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One of the other files, such as packs.arrow."""

    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """What became of the source rows."""

    packed: int
    refused: int
    unused: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole of manifest.json."""

    vlmprep_version: str
    family: str
    """Name of the model family whose processor made the packs."""
    pack_size: int
    """Tokens that a pack holds at most, after the shift."""
    num_packs: int
    num_tokens: int
    num_visual_tokens: int
    num_label_tokens: int
    num_samples: int
    num_images: int
    num_videos: int
    rows: RowCounts
    pad_token_id: int
    position_axes: int
    """1: position_ids is [S]; 3: [3, S]."""
    pixels: dict[str, PixelRule]
    """By field: how its uint8 become the processor's floats; a field that is not here holds them as they are."""
    compression: str
    """zstd, lz4 or none."""
    shards: ShardRecords
    files: dict[str, FileRecord]
    """By path inside the pack set: packs.arrow, samples.parquet."""
    settings: dict[str, Any]
    """Every option that the pack set was made with."""
    fingerprint: dict[str, Any]
    """Tokenizer, chat template, processor settings, library versions."""
    plan: dict[str, Any]
    """Digest and seed of the plan."""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.shards.num_packs != self.num_packs:
            raise ValueError(f"{self.num_packs} packs, but its shards hold {self.shards.num_packs}")
        if self.position_axes not in (1, 3):
            raise ValueError(f"position_axes is 1 or 3, got {self.position_axes}")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: the identity of the pack set, contents included; manifest.json says it too."""
        return _digest(self._plain())

    def to_bytes(self) -> bytes:
        """manifest.json for people: sorted keys, indented, a newline at the end; its own digest is in it."""
        value = {**self._plain(), DIGEST: self.digest}
        return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"

    def _plain(self) -> dict[str, Any]:
        pixels = {name: rule.to_json() for name, rule in self.pixels.items()}
        return {**asdict(self), "pixels": pixels, "shards": [asdict(shard) for shard in self.shards]}

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Read manifest.json back.

        Args:
            data: The whole file.
            where: Location of the pack set, for messages.

        Raises:
            NewerFormat: A later release wrote it.
            BrokenPackSet: It is no manifest, or not the one that was written.
        """
        try:
            value = json.loads(data)
            version = int(value["format_version"])
            found = _digest({name: entry for name, entry in value.items() if name != DIGEST})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenPackSet(f"{where}: {MANIFEST} not understood: {type(error).__name__}: {error}") from error
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"{where} has format version {version}, this release of vlmprep reads up to {FORMAT_VERSION}.",
                f"Install vlmprep {value.get('vlmprep_version', 'of a later version')} or newer.",
            )
        if found != value.get(DIGEST):
            raise BrokenPackSet(
                f"{where}: {MANIFEST} is not what was written: its content has SHA-256 {found[:16]}..., "
                f"its {DIGEST} says {str(value.get(DIGEST))[:16]}...",
                "Restore it from a copy, or delete it and run the same `vlmprep pack` command again.",
            )
        try:
            made = _from_json(value)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BrokenPackSet(f"{where}: {MANIFEST} not understood: {type(error).__name__}: {error}") from error
        vars(made)["digest"] = found
        return made


def missing_manifest(where: str) -> IncompletePackSet:
    """The error for a folder without manifest.json."""
    return IncompletePackSet(
        f"{where} has no {MANIFEST}: the pack set is not complete, or this is no pack set.",
        "Check the path. A set that is not complete is gone on with by the same `vlmprep pack` command.",
    )


def _digest(value: dict[str, Any]) -> str:
    """SHA-256 of everything in manifest.json but this digest itself."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _from_json(value: dict[str, Any]) -> Manifest:
    value = {name: entry for name, entry in value.items() if name != DIGEST}
    known = {field.name for field in fields(Manifest)}
    if set(value) != known:
        raise ValueError(f"missing {sorted(known - set(value))}, unknown {sorted(set(value) - known)}")
    nested = {
        "rows": RowCounts(**value["rows"]),
        "pixels": {name: PixelRule.from_json(rule) for name, rule in value["pixels"].items()},
        "shards": ShardRecords(ShardRecord(**shard) for shard in value["shards"]),
        "files": {name: FileRecord(**record) for name, record in value["files"].items()},
    }
    return Manifest(**{**value, **nested})
