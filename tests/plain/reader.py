"""A reader of pack sets written from docs/format.md alone: nothing here comes from vlmprep."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

__all__ = ["PlainReader"]

CODECS = {"npy": None, "npy.zst": "zstd", "npy.lz4": "lz4"}


class PlainReader:
    """Opens a folder, checking what the page says that a reader checks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest: dict[str, Any] = json.loads((root / "manifest.json").read_bytes())
        if self.manifest["format_version"] > 1:
            raise ValueError("a newer format")
        if self.identity() != self.manifest["digest"]:
            raise ValueError("another manifest than was written")
        for name, record in (
            *self.manifest["files"].items(),
            *((each["name"], each) for each in self.manifest["shards"]),
        ):
            if (root / name).stat().st_size != record["size"]:
                raise ValueError(f"{name} has another size")
        data = (root / "packs.arrow").read_bytes()
        if hashlib.sha256(data).hexdigest() != self.manifest["files"]["packs.arrow"]["sha256"]:
            raise ValueError("another index than was written")
        self.rows: list[dict[str, Any]] = pa.ipc.open_file(pa.BufferReader(data)).read_all().to_pylist()
        if len(self.rows) != self.manifest["num_packs"]:
            raise ValueError("another number of packs")

    def identity(self) -> str:
        """What `digest` should be."""
        value = {name: entry for name, entry in self.manifest.items() if name != "digest"}
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def info(self, pack_id: int) -> dict[str, Any]:
        """key.json of a pack."""
        value: dict[str, Any] = json.loads(next(iter(self._members(pack_id).values())))
        return value

    def fields(self, pack_id: int) -> dict[str, NDArray[Any]]:
        """A pack's tensors as the page describes them."""
        members = self._members(pack_id)
        described: Mapping[str, Any] = json.loads(members.pop("json"))["members"]
        fields = {}
        for suffix, content in members.items():
            name, _, ending = suffix.partition(".")
            npy = unpacked(content, CODECS[ending], described[name]["npy_bytes"])
            array = np.load(io.BytesIO(npy), allow_pickle=False)
            if described[name]["transform"] == "row_pairs":
                array = without_row_pairs(array)
            if described[name]["transform"] == "patch_rows":
                array = without_patch_rows(array)
            if (str(array.dtype), list(array.shape)) != (described[name]["dtype"], described[name]["shape"]):
                raise ValueError(f"{name} is not what key.json says")
            fields[name] = array
        if sorted(fields) != sorted(described):
            raise ValueError("key.json names other members")
        return fields

    def pixels(self, pack_id: int, name: str) -> NDArray[np.float32]:
        """A field as the model takes it, for the rules `fused` and `rows`."""
        rule, stored = self.manifest["pixels"][name], self.fields(pack_id)[name]
        if rule["arithmetic"] != "fused" or rule.keys() - {"arithmetic", "rescale", "mean", "std", "repeat"}:
            raise ValueError("this reader knows Qwen's pixels alone")
        f32 = np.float32
        scale = f32(1 / rule["rescale"])
        mean, std = (np.array(rule[each], f32).reshape(-1, 1, 1) * scale for each in ("mean", "std"))
        values = (stored.astype(f32) - mean) / std  # [P, C, h, w]
        repeated = np.repeat(values[:, :, None], rule["repeat"], axis=2)  # [P, C, repeat, h, w]
        return repeated.reshape(len(stored), -1)

    def _members(self, pack_id: int) -> dict[str, bytes]:
        row = self.rows[pack_id]
        with (self.root / self.manifest["shards"][row["shard"]]["name"]).open("rb") as file:
            file.seek(row["offset"])
            raw = file.read(row["size"])
        if xxhash.xxh3_64_intdigest(raw) != row["xxh3"]:
            raise ValueError(f"pack {pack_id} is broken")
        members = {}
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                if key != f"{pack_id:09d}" or not member.isreg():
                    raise ValueError(f"{member.name} in pack {pack_id}")
                file_of = tar.extractfile(member)
                assert file_of is not None
                members[suffix] = file_of.read()
        return members


def unpacked(content: bytes, codec: str | None, npy_bytes: int) -> bytes:
    """The .npy inside a member."""
    return content if codec is None else pa.Codec(codec).decompress(content, npy_bytes, asbytes=True)


def without_row_pairs(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The page's inverse of `row_pairs`."""
    high, low = stored
    rows = np.stack([high & 0xF0 | low & 0x0F, high << 4 | low >> 4], axis=1)
    planes = np.cumsum(rows.reshape(-1, *high.shape[1:]) - np.uint8(8), axis=0, dtype=np.uint8)
    planes[:, ::2] = planes[:, 1:2] - planes[:, ::2]
    return planes.transpose(2, 1, 0, 3)


def without_patch_rows(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The page's inverse of `patch_rows`."""
    planes = np.cumsum(stored, axis=0, dtype=np.uint8)
    planes[:, 0] += planes[:, 1]
    planes[:, 2] += planes[:, 1]
    return planes.transpose(2, 1, 0, 3)
