"""A finished pack set, taken apart into the stretches of bytes that mean something, so that each can be damaged."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

__all__ = ["HEADER_FIELDS", "UNREAD", "Region", "file_regions", "shard_regions", "tail_region"]

HEADER_FIELDS = {"name": (0, 100), "mode and owner": (100, 124), "size": (124, 136), "time": (136, 148)}
HEADER_FIELDS |= {"checksum": (148, 156), "type": (156, 157), "link": (157, 257), "magic": (257, 265)}
HEADER_FIELDS |= {"owner's names": (265, 329), "devices": (329, 345), "prefix": (345, 500), "rest": (500, 512)}
"""Where the fields of a USTAR header lie. Source: POSIX.1-1988."""

UNREAD = (
    "samples.parquet",
    "settings.json",
    *(f"receipts/{shard:06d}.json" for shard in range(2)),
    *(f"shards/{shard:06d}.tar.idx" for shard in range(2)),
    *(f".nv-meta/{name}" for name in (".info.json", "split.yaml", "dataset.yaml")),
)
"""Files whose content no reader of packs needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Bytes of a file."""

    file: str
    """Path inside the pack set."""
    what: str
    start: int
    end: int
    pack_id: int | None = None
    """The pack that they belong to."""

    def __str__(self) -> str:
        return f"{self.what} of {self.file}"


def file_regions(root: Path) -> list[Region]:
    """Every file beside the shards."""
    names = ("manifest.json", "packs.arrow", *UNREAD)
    return [Region(file=name, what="bytes", start=0, end=(root / name).stat().st_size) for name in names]


def shard_regions(root: Path) -> list[Region]:
    """Header fields, contents and padding of every member of every shard."""
    with pa.memory_map(str(root / "packs.arrow")) as file:
        rows = pa.ipc.open_file(file).read_all().to_pylist()
    regions = []
    for shard in sorted({row["shard"] for row in rows}):
        name = f"shards/{shard:06d}.tar"
        with tarfile.open(root / name) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                parts = {
                    f"{field} in the header": (member.offset + a, member.offset + b)
                    for field, (a, b) in HEADER_FIELDS.items()
                }
                end = member.offset_data + member.size
                parts |= {"content": (member.offset_data, end), "padding": (end, end + -member.size % 512)}
                regions += [
                    Region(file=name, what=f"{what} of {suffix}", start=start, end=end, pack_id=int(key))
                    for what, (start, end) in parts.items()
                    if start < end
                ]
    return regions


def tail_region(root: Path, name: str) -> Region:
    """The two blocks of zeros at the end of an archive."""
    size = (root / name).stat().st_size
    return Region(file=name, what="end of the archive", start=size - 1024, end=size)
