"""packs.arrow: one row per pack in pack_id order.

An Arrow IPC file with one record batch, so that every column is one array inside the mapped file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vlmprep.schema.packset import PACKS
from vlmprep.shardformat.errors import BrokenPackSet

__all__ = ["PackIndex", "map_index", "read_index", "write_index"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackIndex:
    """The columns of packs.arrow, each [num_packs], read-only and not copied from the file."""

    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    """Bytes from the start of the shard to the pack's first tar header."""
    size: NDArray[np.int64]
    """Bytes of the pack, padding included."""
    xxh3: NDArray[np.uint64]
    """64-bit XXH3 of exactly those bytes."""
    num_tokens: NDArray[np.int32]
    num_visual_tokens: NDArray[np.int32]
    num_label_tokens: NDArray[np.int32]
    num_samples: NDArray[np.int32]
    num_images: NDArray[np.int32]
    num_videos: NDArray[np.int32]
    cost: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.shard)


def map_index(path: Path | str) -> PackIndex:
    """Open packs.arrow on a local disk; pages are read when their rows are.

    Raises:
        BrokenPackSet: It is missing, or no table of packs.
    """
    try:
        source = pa.memory_map(str(path))
    except OSError as error:
        raise BrokenPackSet(f"{path} cannot be opened: {error}") from error
    return _open(source, str(path))


def read_index(data: bytes, where: str) -> PackIndex:
    """Open packs.arrow from its content.

    Args:
        data: The whole file.
        where: Its location, for messages.

    Raises:
        BrokenPackSet: It is no table of packs.
    """
    return _open(pa.BufferReader(data), where)


def write_index(sink: BinaryIO | Path | str, columns: Mapping[str, Any]) -> None:
    """Write packs.arrow.

    Args:
        sink: A path or a file that is open for writing.
        columns: Every column of PACKS as a [num_packs] array, in pack_id order.
    """
    batch = pa.record_batch(
        [pa.array(columns[name], type=PACKS.field(name).type) for name in PACKS.names], schema=PACKS
    )
    with pa.ipc.new_file(str(sink) if isinstance(sink, Path) else sink, PACKS) as writer:
        writer.write_batch(batch)


def _open(source: pa.NativeFile, where: str) -> PackIndex:
    try:
        table = pa.ipc.open_file(source).read_all()
        table.validate()  # columns that claim more rows than the file has bytes for
    except (pa.ArrowException, OSError) as error:
        raise BrokenPackSet(f"{where} is no Arrow file: {error}") from error
    if table.schema != PACKS:
        raise BrokenPackSet(f"{where} has columns {table.schema.names}, expected {PACKS.names} of fixed types")
    if any(column.null_count for column in table.columns):
        raise BrokenPackSet(f"{where} has empty cells")
    return PackIndex(**{name: _array(table.column(name)) for name in PACKS.names})


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """The column without a copy where it is one chunk, as `write_index` makes it.

    By DLPack: Arrow's own `to_numpy` imports pandas wherever it is installed, half a second for every training process.
    """
    return np.from_dlpack(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())
