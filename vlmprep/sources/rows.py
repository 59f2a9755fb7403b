"""Rows of .json and .jsonl files as byte ranges: found in one pass, read again by offset, in flat memory.

A chunk is a run of consecutive rows: the unit of counting, of resuming and of noticing change. Chunks start small, so that
a small file keeps several workers busy, and grow, so that a large one makes few ledger files; where they end depends on the
rows before alone, so that rows added at the end leave all but the last chunk as they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import xxhash

from vlmprep.schema.errors import StopRun

__all__ = ["Chunk", "RawRow", "read_row", "rows_of", "scan_chunks"]

BLOCK_BYTES = 4 << 20
FIRST_CHUNK_ROWS = 64
LAST_CHUNK_ROWS = 8_192
CHUNKS_PER_SIZE = 8
BOM = b"\xef\xbb\xbf"


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
    """64-bit XXH3 of these bytes and of the first row's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row as it stands in its file."""

    row: int
    offset: int
    data: bytes


def chunk_rows(number: int) -> int:
    """How many rows chunk `number` holds: 8 chunks of 64 rows, 8 of 128, ... up to 8,192."""
    return min(LAST_CHUNK_ROWS, FIRST_CHUNK_ROWS << min(number // CHUNKS_PER_SIZE, 7))


def scan_chunks(path: str) -> Iterator[Chunk]:
    """Walk a file once and yield its chunks.

    Raises:
        StopRun: The file is a JSON array that does not close, or neither lines nor an array.
    """
    with open(path, "rb") as file:
        pending: list[tuple[int, int, int]] = []
        digest = xxhash.xxh3_64()
        number = 0
        for row, offset, data in _raw_rows(file, path, 0, None):
            if not pending:
                digest.reset()
                digest.update(row.to_bytes(8, "little"))
            digest.update(data)
            pending.append((row, offset, len(data)))
            if len(pending) == chunk_rows(number):
                yield _chunk(number, pending, digest.intdigest())
                pending, number = [], number + 1
        if pending:
            yield _chunk(number, pending, digest.intdigest())


def _chunk(number: int, rows: list[tuple[int, int, int]], digest: int) -> Chunk:
    (first_row, start, _), (_, last, size) = rows[0], rows[-1]
    return Chunk(
        number=number, first_row=first_row, num_rows=len(rows), start=start, size=last + size - start, digest=digest
    )


def rows_of(path: str, chunk: Chunk) -> Iterator[RawRow]:
    """Read the rows of one chunk."""
    with open(path, "rb") as file:
        for row, offset, data in _raw_rows(file, path, chunk.start, chunk):
            yield RawRow(row=row, offset=offset, data=data)


def read_row(file: IO[bytes], offset: int, size: int) -> bytes:
    """Read one row back by the offset and size that its ledger row carries."""
    file.seek(offset)
    return file.read(size)


def _raw_rows(file: IO[bytes], path: str, start: int, chunk: Chunk | None) -> Iterator[tuple[int, int, bytes]]:
    """(row, offset, bytes) from `start` on, or of one chunk."""
    opening = _first_byte(file)
    first_row = chunk.first_row if chunk else 0
    rows = _array_elements(file, path, start, first_row) if opening == b"[" else _lines(file, start, first_row)
    if chunk is None:
        yield from rows
        return
    for seen, row in enumerate(rows, start=1):
        yield row
        if seen == chunk.num_rows:
            return


def _first_byte(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(4096).removeprefix(BOM).lstrip()[:1]


def _lines(file: IO[bytes], start: int, first_row: int) -> Iterator[tuple[int, int, bytes]]:
    """Lines with their 0-based numbers; blank lines count but are no rows."""
    file.seek(start)
    offset = start
    for row, line in enumerate(file, start=first_row):
        data = line.removeprefix(BOM) if offset == 0 else line
        offset += len(line) - len(data)
        if data.strip():
            yield row, offset, data
        offset += len(data)


TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
"""What matters for finding elements: whole strings, brackets, commas; a lone quote is a string that the block cuts."""


def _array_elements(file: IO[bytes], path: str, start: int, first_row: int) -> Iterator[tuple[int, int, bytes]]:
    """Elements of a top-level JSON array, found by bracket depth, from the start of the file or of an element.

    Raises:
        StopRun: The array does not close.
    """
    file.seek(start)
    buffer, base = file.read(BLOCK_BYTES), start
    at = buffer.index(b"[") + 1 if start == 0 else 0
    element, depth, row = at, 0, first_row
    while True:
        for match in TOKEN.finditer(buffer, at):
            if match[0] == b'"':
                at = match.start()
                break
            byte, at = buffer[match.start()], match.end()
            if byte in b"{[":
                depth += 1
            elif byte in b"}]" and depth:
                depth -= 1
            elif depth == 0 and byte in b",]":
                data = buffer[element : match.start()]
                if data.strip():
                    yield row, base + element + len(data) - len(data.lstrip()), data.strip()
                    row += 1
                if byte == b"]"[0]:
                    return
                element = at
        block = file.read(BLOCK_BYTES)
        if not block:
            raise StopRun(
                f"{path}: the JSON array does not close; element {row} starts at byte {base + element}",
                "Repair the file, or turn it into .jsonl, where a broken line spoils nothing else.",
            )
        # Go on behind the last whole token; a string that the block cut starts over with more bytes behind it.
        buffer, base, at, element = buffer[element:] + block, base + element, at - element, 0
