"""What a manifest says of its shards, in one array: as objects, those of a great set would be most of what opening it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

__all__ = ["ShardRecord", "ShardRecords"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """One committed shard."""

    name: str
    """Path inside the pack set."""
    size: int
    """Bytes."""
    sha256: str
    num_packs: int


class ShardRecords(Sequence[ShardRecord]):
    """Records by number of the shard, each made when it is asked for; a hundred bytes a shard.

    Args:
        records: In the order of the shards.
    """

    __slots__ = ("_rows",)

    def __init__(self, records: Iterable[ShardRecord]) -> None:
        rows = [(each.name.encode(), each.size, each.sha256.encode(), each.num_packs) for each in records]
        name = max((len(row[0]) for row in rows), default=1)
        sha256 = max((len(row[2]) for row in rows), default=1)
        types = [("name", f"S{name}"), ("size", "i8"), ("sha256", f"S{sha256}"), ("num_packs", "i8")]
        self._rows = np.array(rows, dtype=types)

    @property
    def num_packs(self) -> int:
        """Packs of all shards."""
        return int(self._rows["num_packs"].sum())

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> ShardRecord: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[ShardRecord, ...]: ...
    def __getitem__(self, number: int | slice) -> ShardRecord | tuple[ShardRecord, ...]:
        if isinstance(number, slice):
            return tuple(map(_record, self._rows[number].tolist()))
        return _record(self._rows[number].item())

    def __iter__(self) -> Iterator[ShardRecord]:
        return map(_record, self._rows.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardRecords) and np.array_equal(self._rows, other._rows)


def _record(row: tuple[bytes, int, bytes, int]) -> ShardRecord:
    name, size, sha256, num_packs = row
    return ShardRecord(name=name.decode(), size=size, sha256=sha256.decode(), num_packs=num_packs)
