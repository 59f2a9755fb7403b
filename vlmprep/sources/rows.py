"""Rows of .json and .jsonl files as byte ranges: found in one pass, read again by offset, in flat memory.

A chunk is a run of consecutive rows: the unit of counting, of resuming and of noticing change. Chunks start small, so that
a small file keeps several workers busy, and grow, so that a large one makes few ledger files; where they end depends on the
rows before alone, so that rows added at the end leave all but the last chunk as they were.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Generic, TypeVar

import xxhash

from vlmprep.schema.errors import StopRun
from vlmprep.sources.blobs import RowData, row_digest

__all__ = ["Chunk", "RawRow", "every_row", "read_row", "rows_of", "scan_chunks"]

BLOCK_BYTES = 4 << 20
MAX_ROW_BYTES = 1 << 30
"""A longer row lacks its line end, quote or bracket, and would draw the whole file into memory."""
FIRST_CHUNK_ROWS = 256
LAST_CHUNK_ROWS = 8_192
CHUNKS_PER_SIZE = 8
BOM = b"\xef\xbb\xbf"
SPREAD_OBJECT = re.compile(rb'\{[ \t]*\r?\n[ \t]+"')
"""How a file begins that holds one object spread over lines."""
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
"""What matters for finding elements: whole strings, brackets, commas; a lone quote is a string that the block cuts."""
PLACE = struct.Struct("<qqq")
Data = TypeVar("Data", bound=RowData, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive rows of one file."""

    number: int
    """0-based, in file order."""
    first_row: int
    num_rows: int
    start: int
    """Byte offset of the first row."""
    size: int
    """Bytes up to the end of the last row."""
    digest: int
    """64-bit XXH3 of its rows: their numbers, places and bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow(Generic[Data]):
    """One row as it stands in its file."""

    row: int
    offset: int
    data: Data

    @property
    def xxh3(self) -> int:
        """64-bit digest of its bytes."""
        return row_digest(self.data)


def chunk_rows(number: int) -> int:
    """How many rows chunk `number` holds: 8 chunks of 256 rows, 8 of 512, ... up to 8,192."""
    return min(LAST_CHUNK_ROWS, FIRST_CHUNK_ROWS << min(number // CHUNKS_PER_SIZE, 5))


def scan_chunks(path: str) -> Iterator[Chunk]:
    """Walk a file once and yield its chunks.

    Raises:
        StopRun: The file is neither lines nor one whole array, or a row does not end.
    """
    with open(path, "rb") as file:
        array_start = _array_start(file, path)
        rows = _lines(file, path, 0, 0) if array_start is None else _elements(file, path, array_start, 0)
        for number in itertools.count():
            chunk = _next_chunk(number, rows)
            if chunk is None:
                return
            yield chunk


def rows_of(path: str, chunk: Chunk) -> Iterator[RawRow[bytes]]:
    """Read the rows of one chunk.

    Raises:
        StopRun: They are no longer what was scanned; told after the last row.
    """
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        rows = (_lines if _array_start(file, path) is None else _elements)(file, path, chunk.start, chunk.first_row)
        for row in itertools.islice(rows, chunk.num_rows):
            _digest_row(digest, row)
            yield row
    if digest.intdigest() != chunk.digest:
        raise StopRun(
            f"{path} changed while it was read", "Run the same command again when it is written to no longer."
        )


def every_row(path: str) -> Iterator[RawRow[bytes]]:
    """All rows of a file, in one pass that notices no change.

    Raises:
        StopRun: The file is neither lines nor one whole array, or a row does not end.
    """
    with open(path, "rb") as file:
        array_start = _array_start(file, path)
        yield from _lines(file, path, 0, 0) if array_start is None else _elements(file, path, array_start, 0)


def read_row(file: IO[bytes], offset: int, size: int) -> bytes:
    """Read one row back by the offset and size that its ledger row carries."""
    file.seek(offset)
    return file.read(size)


def _next_chunk(number: int, rows: Iterator[RawRow[bytes]]) -> Chunk | None:
    digest = xxhash.xxh3_64()
    first: RawRow[bytes] | None = None
    num_rows = end = 0
    for row in itertools.islice(rows, chunk_rows(number)):
        first = first or row
        num_rows, end = num_rows + 1, row.offset + len(row.data)
        _digest_row(digest, row)
    if first is None:
        return None
    return Chunk(
        number=number,
        first_row=first.row,
        num_rows=num_rows,
        start=first.offset,
        size=end - first.offset,
        digest=digest.intdigest(),
    )


def _digest_row(digest: xxhash.xxh3_64, row: RawRow[bytes]) -> None:
    """Places count too: the ledger keeps them, and reads a row back by them."""
    digest.update(PLACE.pack(row.row, row.offset, len(row.data)))
    digest.update(row.data)


def _array_start(file: IO[bytes], path: str) -> int | None:
    """Offset behind the bracket that opens an array of rows; None where each line is a row."""
    file.seek(0)
    head = file.read(4096)
    text = head.removeprefix(BOM).lstrip()
    if SPREAD_OBJECT.match(text):
        raise StopRun(
            f"{path} is one JSON object spread over lines",
            "Rows are the elements of one array, or one object on each line; a meta file's entries all name a file_name.",
        )
    return len(head) - len(text) + 1 if text.startswith(b"[") else None


def _lines(file: IO[bytes], path: str, start: int, first_row: int) -> Iterator[RawRow[bytes]]:
    """Lines with their 0-based numbers; blank lines count but are no rows."""
    file.seek(start)
    offset = start
    for row in itertools.count(first_row):
        line = file.readline(MAX_ROW_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_ROW_BYTES:
            raise _endless(path, row, offset)
        data = line.removeprefix(BOM) if offset == 0 else line
        offset += len(line) - len(data)
        if data and not data.isspace():
            yield RawRow(row=row, offset=offset, data=data)
        offset += len(data)


def _elements(file: IO[bytes], path: str, start: int, first_row: int) -> Iterator[RawRow[bytes]]:
    """Elements of a top-level JSON array, found by bracket depth, from behind its bracket or from the start of an element.

    Raises:
        StopRun: The array does not close, or something follows it.
    """
    file.seek(start)
    buffer, base, at, depth, row = b"", start, 0, 0, first_row  # the buffer begins with the open element
    while block := file.read(max(BLOCK_BYTES, len(buffer))):
        buffer += block
        element = 0
        for match in TOKEN.finditer(buffer, at):
            byte, at = buffer[match.start()], match.end()
            if byte in b"{[":
                depth += 1
            elif byte in b"}]" and depth:
                depth -= 1
            elif byte in b",]" and not depth:
                data = buffer[element : match.start()]
                if text := data.strip():
                    yield RawRow(row=row, offset=base + element + len(data) - len(data.lstrip()), data=text)
                    row += 1
                if byte == b"]"[0]:
                    return _check_only_space(file, path, buffer[at:])
                element = at
            elif byte == b'"'[0] and at - match.start() == 1:  # it starts over with more bytes behind it
                at = match.start()
                break
        buffer, base, at = buffer[element:], base + element, at - element
        if len(buffer) > MAX_ROW_BYTES:
            raise _endless(path, row, base)
    raise StopRun(
        f"{path}: the JSON array does not close; element {row} starts at byte {base}",
        "Repair the file, or turn it into .jsonl, where a broken line spoils nothing else.",
    )


def _check_only_space(file: IO[bytes], path: str, rest: bytes) -> None:
    """Nothing but space may follow the array: a second array, or lines of arrays, would be lost without a word."""
    while not rest.strip():
        rest = file.read(BLOCK_BYTES)
        if not rest:
            return
    raise StopRun(
        f"{path}: something follows the end of the JSON array, before byte {file.tell()}",
        "Rows are the elements of one array, or one object on each line; join what stands there.",
    )


def _endless(path: str, row: int, offset: int) -> StopRun:
    return StopRun(
        f"{path}: row {row}, from byte {offset} on, is longer than {MAX_ROW_BYTES >> 20} MiB",
        "A line end, a quote or a bracket is missing there.",
    )
