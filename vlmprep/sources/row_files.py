"""Every kind of file that has rows, behind two questions: which rows are there, and what is the row at this place.

kind                      a row's place                    a chunk's digest covers
text: .json, .jsonl       byte offset                      the rows themselves
text: .gz, .zst           byte offset in the plain copy    the rows themselves
.parquet, .arrow          row number                       path, size and time of the file
.tar                      offset of the first header       path, size and time of the file
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol

import xxhash

from vlmprep.schema.errors import StopRun
from vlmprep.sources import rows as text
from vlmprep.sources.arrow_rows import ARROW, PARQUET, ArrowRows
from vlmprep.sources.blobs import RowData
from vlmprep.sources.compressed import COMPRESSED, uncompressed
from vlmprep.sources.copies import file_state
from vlmprep.sources.remote import local_copy
from vlmprep.sources.rows import PLACE, Chunk, RawRow
from vlmprep.sources.tar_rows import TAR, TarGroup, tar_groups, tar_row

__all__ = ["ENDINGS", "OpenFiles", "Place", "RowFile", "groups_of", "open_rows"]

TEXT = (".json", ".jsonl")
ENDINGS = (*TEXT, *(f"{ending}{packed}" for ending in TEXT for packed in COMPRESSED), *PARQUET, *ARROW, *TAR)
"""Files that are read, by the ends of their names."""
MAX_OPEN = 64
"""Files that a worker keeps open: a source may have thousands."""
GROUP_BYTES = 64 << 20
"""Of rows that are held at a time, media included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row is."""

    row: int
    offset: int
    size: int = 0
    """Bytes of a row of text."""


class RowFile(Protocol):
    """The rows of one file."""

    def chunks(self) -> Iterator[Chunk]:
        """Find all rows.

        Raises:
            StopRun: The file is broken in a way that hides rows.
        """
        ...

    def rows(self, chunk: Chunk) -> Iterator[RawRow[RowData]]:
        """Read the rows of one chunk.

        Raises:
            StopRun: They are no longer what was found; told after the last row.
        """
        ...

    def places(self) -> Iterator[Place]:
        """Find all rows without reading what lies between them, where the file allows it.

        Raises:
            StopRun: The file is broken in a way that hides rows.
        """
        ...

    def read(self, offset: int, size: int) -> RowData:
        """Read one row again by its place, and by the size that its ledger row carries; text alone depends on the size."""
        ...


def open_rows(path: str) -> RowFile:
    """The rows of a file, by the end of its name.

    Raises:
        StopRun: It cannot be read.
    """
    if path.endswith((*PARQUET, *ARROW)):
        return ArrowFile(path)
    if path.endswith(TAR):
        return TarFile(path)
    return TextFile(path)


class OpenFiles:
    """Files of rows by path, of which the ones that were used last stay open."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, RowFile] = OrderedDict()

    def __getitem__(self, path: str) -> RowFile:
        """Raises StopRun where the file cannot be read."""
        found = self._files.pop(path, None) or open_rows(path)
        self._files[path] = found
        if len(self._files) > MAX_OPEN:
            self._files.popitem(last=False)
        return found


def groups_of(rows: Iterator[RawRow[RowData]], max_rows: int) -> Iterator[list[RawRow[RowData]]]:
    """Rows in lists of at most `max_rows`, fewer where they are large."""
    group: list[RawRow[RowData]] = []
    held = 0
    for row in rows:
        group.append(row)
        held += len(row.data)
        if len(group) == max_rows or held >= GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


@contextmanager
def named(copy: str, path: str) -> Iterator[None]:
    """Errors name the file that was given, not its copy."""
    try:
        yield
    except StopRun as error:
        raise StopRun(error.message.replace(copy, path), error.hint) from error


def opened(path: str) -> IO[bytes]:
    """Open a file of rows."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise StopRun(
            f"{path} cannot be read: {error.strerror or error}", "Bring it back and run the same command again."
        ) from error


class TextFile:
    """Lines, or the elements of an array, compressed or not."""

    def __init__(self, path: str) -> None:
        self._path = path
        local = local_copy(path, ENDINGS)
        self._plain = uncompressed(local) if path.endswith(COMPRESSED) else local
        self._file: IO[bytes] | None = None

    def chunks(self) -> Iterator[Chunk]:
        """As RowFile has it."""
        with named(self._plain, self._path):
            yield from text.scan_chunks(self._plain)

    def rows(self, chunk: Chunk) -> Iterator[RawRow[RowData]]:
        """As RowFile has it."""
        with named(self._plain, self._path):
            yield from text.rows_of(self._plain, chunk)

    def places(self) -> Iterator[Place]:
        """As RowFile has it."""
        with named(self._plain, self._path):
            for row in text.every_row(self._plain):
                yield Place(row=row.row, offset=row.offset, size=len(row.data))

    def read(self, offset: int, size: int) -> bytes:
        """As RowFile has it."""
        self._file = self._file or opened(self._plain)
        return text.read_row(self._file, offset, size)


class ArrowFile:
    """Parquet or Arrow."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._state = file_state(path)
        local = local_copy(path, ENDINGS)
        with named(local, path):
            self._rows = ArrowRows(local)

    def chunks(self) -> Iterator[Chunk]:
        """As RowFile has it."""
        first = 0
        for number in itertools.count():
            size = min(text.chunk_rows(number), self._rows.num_rows - first)
            if size <= 0:
                return
            digest = state_digest(self._state, first, size)
            yield Chunk(number=number, first_row=first, num_rows=size, start=first, size=size, digest=digest)
            first += size

    def rows(self, chunk: Chunk) -> Iterator[RawRow[RowData]]:
        """As RowFile has it."""
        for row in range(chunk.first_row, min(chunk.first_row + chunk.num_rows, self._rows.num_rows)):
            yield RawRow(row=row, offset=row, data=self._rows.row(row))
        check_unchanged(self._path, chunk)

    def places(self) -> Iterator[Place]:
        """As RowFile has it."""
        return (Place(row=row, offset=row) for row in range(self._rows.num_rows))

    def read(self, offset: int, size: int) -> RowData:
        """As RowFile has it."""
        return self._rows.row(offset) if offset < self._rows.num_rows else b""


class TarFile:
    """A WebDataset tar."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = opened(local_copy(path, ENDINGS))

    def chunks(self) -> Iterator[Chunk]:
        """As RowFile has it."""
        groups = tar_groups(self._file, self._path)
        state, first = file_state(self._path), 0
        for number in itertools.count():
            found = [group.offset for group in itertools.islice(groups, text.chunk_rows(number))]
            if not found:
                return
            yield Chunk(
                number=number,
                first_row=first,
                num_rows=len(found),
                start=found[0],
                size=found[-1] - found[0],
                digest=state_digest(state, first, len(found)),
            )
            first += len(found)

    def rows(self, chunk: Chunk) -> Iterator[RawRow[RowData]]:
        """As RowFile has it."""
        groups = itertools.islice(tar_groups(self._file, self._path, chunk.start), chunk.num_rows)
        for row, group in enumerate(groups, start=chunk.first_row):
            yield RawRow(row=row, offset=group.offset, data=tar_row(self._file, group))
        check_unchanged(self._path, chunk)

    def places(self) -> Iterator[Place]:
        """As RowFile has it."""
        for row, group in enumerate(tar_groups(self._file, self._path)):
            yield Place(row=row, offset=group.offset)

    def read(self, offset: int, size: int) -> RowData:
        """As RowFile has it."""
        group: TarGroup | None = next(tar_groups(self._file, self._path, offset), None)
        return b"" if group is None else tar_row(self._file, group)


def state_digest(state: bytes, first_row: int, num_rows: int) -> int:
    """A chunk's digest in files that are told apart by size and time."""
    return xxhash.xxh3_64_intdigest(state + PLACE.pack(first_row, num_rows, 0))


def check_unchanged(path: str, chunk: Chunk) -> None:
    """Raises StopRun where a file is no longer what it was when its rows were found."""
    if state_digest(file_state(path), chunk.first_row, chunk.num_rows) != chunk.digest:
        raise StopRun(
            f"{path} changed while it was read", "Run the same command again when it is written to no longer."
        )
