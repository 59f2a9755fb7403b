"""What the manifest says of the other files, and files that nobody speaks of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from vlmprep.pipeline.verify.problem import Problem
from vlmprep.pipeline.verify.remote import shards_there
from vlmprep.schema.files import sha256_file
from vlmprep.schema.packset import MANIFEST, PACKS_FILE, SAMPLES_FILE, receipt_name, shard_name
from vlmprep.shardformat.index import PackIndex
from vlmprep.shardformat.manifest import Manifest
from vlmprep.shards.energon import energon_files

__all__ = ["file_problems", "index_problems", "stray_files"]

TOTALS = (
    "num_tokens",
    "num_visual_tokens",
    "num_label_tokens",
    "num_samples",
    "num_images",
    "num_videos",
)


def file_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
    """Index and account against their sizes and digests, shard names, and what Megatron-Energon reads."""
    for name in (PACKS_FILE, SAMPLES_FILE):
        if name not in manifest.files:
            yield Problem(file=MANIFEST, what=f"it has no digest of {name}")
    for name, record in manifest.files.items():
        path = root / name
        if not path.is_file():
            yield Problem(file=name, what="it is missing")
        elif path.stat().st_size != record.size:
            yield Problem(file=name, what=f"it has {path.stat().st_size} bytes, the manifest says {record.size}")
        elif (found := sha256_file(path)) != record.sha256:
            yield Problem(file=name, what=f"its SHA-256 is {found[:16]}..., the manifest says {record.sha256[:16]}...")
    for number, shard in enumerate(manifest.shards):
        if shard.name != shard_name(number):
            yield Problem(file=MANIFEST, what=f"shard {number} is named {shard.name}, expected {shard_name(number)}")
    yield from energon_problems(root, manifest)


def energon_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
    """The folder that Megatron-Energon looks for: what `vlmprep pack` writes there, however it is spelled."""
    for name, written in energon_files({shard.name: shard.num_packs for shard in manifest.shards}).items():
        parse = json.loads if name.endswith(".json") else yaml.safe_load
        try:
            if repr(parse((root / name).read_bytes())) != repr(parse(written)):  # order counts
                yield Problem(file=name, what="it does not say what the manifest's shards and packs make")
        except FileNotFoundError:
            yield Problem(file=name, what="it is missing")
        except (yaml.YAMLError, ValueError) as error:
            yield Problem(file=name, what=f"it cannot be read: {' '.join(str(error).split())}")


def stray_files(place: Path | str, root: Path, manifest: Manifest) -> Iterator[Problem]:
    """Shards and receipts that the manifest does not know."""
    known = {shard.name for shard in manifest.shards} | {receipt_name(n) for n in range(len(manifest.shards))}
    receipts = sorted(path.relative_to(root).as_posix() for path in root.glob("receipts/*.json"))
    for name in (*shards_there(place), *receipts):
        if name not in known:
            yield Problem(file=name, what="the manifest does not know it")


def index_problems(index: PackIndex, manifest: Manifest) -> Iterator[Problem]:
    """The index's rows, shards and sums against the manifest."""
    if len(index) != manifest.num_packs:
        yield Problem(file=PACKS_FILE, what=f"it lists {len(index)} packs, the manifest says {manifest.num_packs}")
        return
    shards = np.repeat(np.arange(len(manifest.shards)), [shard.num_packs for shard in manifest.shards])
    for pack_id in np.flatnonzero(index.shard != shards).tolist():
        what = f"shard is {index.shard[pack_id]}, the manifest puts it into {shards[pack_id]}"
        yield Problem(file=PACKS_FILE, pack_id=pack_id, what=what)
    for name in TOTALS:
        found, expected = int(getattr(index, name).sum(dtype=np.int64)), getattr(manifest, name)
        if found != expected:
            yield Problem(file=PACKS_FILE, what=f"its {name} add up to {found}, the manifest says {expected}")
