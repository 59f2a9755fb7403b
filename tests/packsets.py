"""Writes pack sets by following docs/format.md alone: nothing here comes from vlmprep."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

__all__ = ["PIXEL_RULE", "WrittenPack", "signed", "text_pack", "write_pack_set"]

PIXEL_RULE = {
    "arithmetic": "fused",
    "rescale": 1 / 255,
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "repeat": 2,
}
"""Of the Qwen families' default processor."""

_COLUMNS = [
    ("shard", pa.int32()),
    ("offset", pa.int64()),
    ("size", pa.int64()),
    ("xxh3", pa.uint64()),
    *(
        (f"num_{name}", pa.int32())
        for name in ("tokens", "visual_tokens", "label_tokens", "samples", "images", "videos")
    ),
    ("cost", pa.float64()),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPack:
    """A pack to be written."""

    fields: Mapping[str, NDArray[Any]]
    document_lengths: Sequence[int]
    fake: Mapping[str, Any] | None = None
    images: Sequence[tuple[int, int]] = field(default=())
    cost: float = 1.0

    @property
    def num_visual_tokens(self) -> int:
        grids = self.fields.get("image_grid_thw")
        return 0 if grids is None else int(grids.prod(1).sum()) // 4


def text_pack(pack_id: int, lengths: Sequence[int] = (5, 3)) -> WrittenPack:
    """A pack without media whose first token is its number, and whose other tokens differ from every other pack's."""
    size = sum(lengths)
    ids = np.arange(size, dtype=np.int32) + 1000 * (pack_id + 1)
    ids[0] = pack_id
    labels = ids + 1
    labels[:: 2 + pack_id % 3] = -100
    return WrittenPack(
        fields={
            "input_ids": ids,
            "labels": labels.astype(np.int32),
            "attention_mask": np.repeat(np.arange(1, len(lengths) + 1), lengths).astype(np.uint16),
            "position_ids": np.concatenate([np.arange(length) for length in lengths]).astype(np.int32),
            "mm_token_type_ids": np.zeros(size, np.uint8),
        },
        document_lengths=lengths,
    )


def write_pack_set(
    root: Path,
    packs: Sequence[WrittenPack],
    *,
    compression: str = "none",
    packs_per_shard: int = 3,
    pixels: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a complete pack set.

    Args:
        root: Folder to make.
        packs: In pack_id order.
        compression: zstd, lz4 or none.
        packs_per_shard: Packs in every shard but the last.
        pixels: The manifest's pixel rules; default: PIXEL_RULE for `pixel_values`.
        changes: Entries that the manifest gets instead of the right ones.
    """
    (root / "shards").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    shards = []
    for shard, start in enumerate(range(0, len(packs), packs_per_shard)):
        content = packs[start : start + packs_per_shard]
        path = root / "shards" / f"{shard:06d}.tar"
        rows += _write_shard(path, shard, start, content, compression)
        shards.append({"name": f"shards/{path.name}", **_record(path), "num_packs": len(content)})
    _write_index(root / "packs.arrow", rows)
    pq.write_table(pa.table({"source": ["made"] * len(packs)}), root / "samples.parquet")
    manifest = {
        "format_version": 1,
        "vlmprep_version": "0.0",
        "family": "qwen2_5_vl",
        "pack_size": max(len(pack.fields["input_ids"]) for pack in packs),
        "num_packs": len(packs),
        **{name: sum(row[name] for row in rows) for name in rows[0] if name.startswith("num_")},
        "rows": {"packed": sum(row["num_samples"] for row in rows), "refused": 0, "unused": 0},
        "pad_token_id": 0,
        "position_axes": packs[0].fields["position_ids"].ndim * 2 - 1,
        "pixels": {"pixel_values": PIXEL_RULE} if pixels is None else dict(pixels),
        "compression": compression,
        "shards": shards,
        "files": {name: _record(root / name) for name in ("packs.arrow", "samples.parquet")},
        "settings": {},
        "fingerprint": {},
        "plan": {"digest": "0" * 64, "seed": 0},
        **(changes or {}),
    }
    (root / "manifest.json").write_text(json.dumps(signed(manifest)))
    return root


def signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the digest of everything else in it."""
    value = {name: entry for name, entry in manifest.items() if name != "digest"}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**value, "digest": hashlib.sha256(text.encode()).hexdigest()}


def _write_shard(
    path: Path, shard: int, first: int, packs: Sequence[WrittenPack], compression: str
) -> list[dict[str, Any]]:
    """One tar; returns its rows of the index."""
    rows = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for pack_id, pack in enumerate(packs, start=first):
            start = tar.offset
            for suffix, content in _members(pack_id, pack, compression):
                member = tarfile.TarInfo(f"{pack_id:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            rows.append(_row(shard, start, tar.offset, pack))
    data = path.read_bytes()
    for row in rows:
        row["xxh3"] = xxhash.xxh3_64_intdigest(data[row["offset"] : row["offset"] + row["size"]])
    return rows


def _row(shard: int, start: int, end: int, pack: WrittenPack) -> dict[str, Any]:
    return {
        "shard": shard,
        "offset": start,
        "size": end - start,
        "num_tokens": len(pack.fields["input_ids"]),
        "num_visual_tokens": pack.num_visual_tokens,
        "num_label_tokens": int((pack.fields["labels"] != -100).sum()),
        "num_samples": len(pack.document_lengths),
        "num_images": len(pack.images),
        "num_videos": 0,
        "cost": pack.cost,
    }


def _members(pack_id: int, pack: WrittenPack, compression: str) -> list[tuple[str, bytes]]:
    described, members = {}, []
    for name, array in pack.fields.items():
        transformed = compression != "none" and name.startswith("pixel_values")
        npy = _npy(_patch_rows(array) if transformed else array)
        described[name] = {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "transform": "patch_rows" if transformed else None,
            "npy_bytes": len(npy),
        }
        if compression == "none":
            members.append((f"{name}.npy", npy))
        else:
            ending = {"zstd": "zst", "lz4": "lz4"}[compression]
            members.append((f"{name}.npy.{ending}", pa.Codec(compression).compress(npy, asbytes=True)))
    info = {
        "pack_id": pack_id,
        "samples": [
            {"source": "made", "row": d, "sample_id": f"{pack_id}-{d}"} for d in range(len(pack.document_lengths))
        ],
        "document_lengths": list(pack.document_lengths),
        "fake": pack.fake,
        "media": [
            {"document": 1, "kind": "image", "shape": list(size), "num_tokens": 2, "rows": {"image_grid_thw": 1}}
            for size in pack.images
        ],
        "members": described,
    }
    return [("json", json.dumps(info).encode()), *members]


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _patch_rows(pixels: NDArray[Any]) -> NDArray[Any]:
    planes = pixels.transpose(2, 1, 0, 3).astype(np.int64)
    planes[:, [0, 2]] -= planes[:, [1]]
    planes[1:] -= planes[:-1].copy()
    return (planes % 256).astype(np.uint8)


def _write_index(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in _COLUMNS})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _record(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
