"""Writes one shard: packs as plain USTAR members, hashed on the way, read back, published whole.

Members are written in the order that shardformat gives them, key.json first; webdataset's TarWriter would sort them, copy every
member once more and cannot say where a pack starts. The headers are tarfile's own.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import publish, publish_bytes
from vlmprep.schema.packset import pack_key

__all__ = ["ShardWriter"]

BLOCK = tarfile.BLOCKSIZE
OWNER = "vlmprep"
MODE = 0o444
READ_BYTES = 1 << 20
"""Of a shard at a time, when it is read back."""


class ShardWriter:
    """A context that publishes `path` and its Energon index when it is left well, and nothing when it is not.

    Args:
        path: Where the shard will lie.

    Raises:
        StopRun: It cannot be written, or what is read back is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Bytes written so far."""
        self._offsets: list[int] = []
        self._sha256 = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_128()
        """Of the same bytes, to hold what is read back against: twelve times as fast, and no stranger sits between the two."""
        self._writing = self._write_shard()

    def __enter__(self) -> ShardWriter:
        return self._writing.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writing.__exit__(kind, error, trace)

    @contextmanager
    def _write_shard(self) -> Iterator[ShardWriter]:
        """Between opening the attempt and the name: the end of the archive, and reading all of it back."""

        def read_back(attempt: Path) -> None:
            check_written(attempt, self.path, self._xxh3.hexdigest())

        with publish(self.path, check=read_back) as attempt, attempt.open("wb", buffering=0) as self._file:
            yield self
            self._offsets.append(self.size)
            self._write(bytes(2 * BLOCK))  # the end of a tar archive
        write_energon_index(self.path, self._offsets)

    def add_pack(self, pack_id: int, members: Sequence[tuple[str, bytes | memoryview]]) -> tuple[int, int, int]:
        """Append a pack.

        Args:
            pack_id: Its number, which makes its key.
            members: (suffix, content) in the order of the tar.

        Returns:
            Offset of its first header, bytes up to its end, and the 64-bit XXH3 of these bytes.
        """
        offset, digest = self.size, xxhash.xxh3_64()
        self._offsets.append(offset)
        for suffix, content in members:
            header = tar_header(f"{pack_key(pack_id)}.{suffix}", len(content))
            for piece in (header, content, bytes(-len(content) % BLOCK)):
                digest.update(piece)
                self._write(piece)
        return offset, self.size - offset, digest.intdigest()

    @property
    def sha256(self) -> str:
        """SHA-256 of everything written so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def _write(self, piece: bytes | memoryview) -> None:
        view = memoryview(piece).cast("B")
        self._sha256.update(view)
        self._xxh3.update(view)
        self.size += len(view)
        while len(view):
            view = view[self._file.write(view) :]


def check_written(attempt: Path, path: Path, xxh3: str) -> None:
    """Read a shard back and hold it against what was written to it.

    Args:
        attempt: Where it lies now.
        path: Where it will lie, for the message.
        xxh3: 128-bit XXH3 of what was written, in hexadecimal.

    Raises:
        StopRun: It is something else.
    """
    found = xxhash.xxh3_128()
    buffer = memoryview(bytearray(READ_BYTES))
    with attempt.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found.update(buffer[:count])
    if found.hexdigest() != xxh3:
        raise StopRun(
            f"{path}: what is read back has XXH3 {found.hexdigest()[:16]}..., what was written {xxh3[:16]}...",
            "The file system, the disk or the memory of this machine changes data; once that is mended, run the same "
            "command again.",
        )


def tar_header(name: str, size: int) -> bytes:
    """The USTAR header of a plain file; the same for the same name and size."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, MODE
    info.uname = info.gname = OWNER
    return info.tobuf(tarfile.USTAR_FORMAT)


def write_energon_index(shard: Path, offsets: Sequence[int]) -> None:
    """Write `X.tar.idx`: every pack's first header, then the end of the data, as native uint64."""
    publish_bytes(shard.with_name(shard.name + ".idx"), np.array(offsets, dtype=np.uint64).tobytes())
