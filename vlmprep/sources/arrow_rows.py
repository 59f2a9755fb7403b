"""Rows of Parquet and Arrow files: numbered through the file, read one by one from memory-mapped Arrow.

A row of a Parquet file lies in compressed pages and cannot be read alone; nor can one of compressed Arrow. Such files are
copied once, batch by batch, to plain Arrow (see `copies`), as the `datasets` library does. Plain Arrow is read where it lies.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlmprep.schema.errors import StopRun
from vlmprep.sources.blobs import BlobRow, blob_row, refused_row
from vlmprep.sources.copies import plain_copy
from vlmprep.sources.wording import names

__all__ = ["ARROW", "PARQUET", "ArrowRows"]

ARROW = (".arrow", ".feather", ".ipc")
PARQUET = (".parquet", ".pq")
MAX_ROW_BYTES = 256 << 20
"""Of one row, media included; a larger one is refused before it is copied."""
COPIED_ROWS = 64
"""Rows of a Parquet file that are decoded at a time: a few megabytes where they hold images."""
WRITTEN_BYTES = 8 << 20
ROWS_AHEAD = 32
BYTES_AHEAD = 1 << 20
"""Rows that are converted at once where they are read one after the other, if they are together no larger than this."""
FILE_MAGIC = b"ARROW1"


class ArrowRows:
    """The rows of one file.

    Args:
        path: Absolute path.

    Raises:
        StopRun: It is no such file, or broken.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._trusted = False
        try:
            if path.endswith(PARQUET):
                self._copy()
            else:
                self._batches = _batches(path)
                if self._batches is None:
                    self._copy()
        except (pa.ArrowException, OSError, EOFError) as error:
            raise StopRun(
                f"{path} cannot be read: {error}", "It is broken, or of another format: get it again."
            ) from error
        assert self._batches is not None
        self._ends = list(itertools.accumulate(batch.num_rows for batch in self._batches))
        self._checked: set[int] = set()
        self._ahead: dict[int, dict[str, Any]] = {}
        self._last = -1
        self._check_names()

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return self._ends[-1] if self._ends else 0

    def row(self, number: int) -> BlobRow:
        """A row; one that cannot be used says why.

        Args:
            number: 0-based.
        """
        try:
            record: dict[str, Any] | BlobRow
            if number in self._ahead:
                record = self._ahead.pop(number)
            else:
                at = bisect.bisect_right(self._ends, number)
                batch = self._batch(at)
                rows = batch.slice(number - self._ends[at] + batch.num_rows, ROWS_AHEAD)
                record = self._records(number, rows)
            self._last = number
            return record if isinstance(record, BlobRow) else blob_row("record", "", record)
        except UnicodeDecodeError as error:
            return refused_row("not-utf8", f"row {number} holds text that is not UTF-8: {error.reason}")
        except TypeError as error:
            return refused_row("unsupported-type", f"row {number}: {error}")

    def _records(self, number: int, rows: Any) -> dict[str, Any] | BlobRow:
        """A row's record, or why there is none; small rows behind one that was asked for before are kept: one call for all."""
        self._ahead.clear()
        if number == self._last + 1 and rows.nbytes <= min(BYTES_AHEAD, MAX_ROW_BYTES):
            with suppress(UnicodeDecodeError):  # which row has it is found out one by one
                self._ahead.update(enumerate(rows.to_pylist(), start=number))
                return self._ahead.pop(number)
        row = rows.slice(0, 1)
        if row.nbytes > MAX_ROW_BYTES:
            return refused_row(
                "row-too-large", f"row {number} holds {row.nbytes} bytes, above the limit of {MAX_ROW_BYTES >> 20} MiB"
            )
        (record,) = row.to_pylist()
        return dict(record)

    def _copy(self) -> None:
        copy = plain_copy(self._path, ".arrow", lambda attempt: _write_plain(self._path, attempt))
        self._batches, self._trusted = _batches(copy), True

    def _batch(self, at: int) -> Any:
        """A batch, looked through at its first use: offsets that lead out of it would crash the process."""
        assert self._batches is not None
        batch = self._batches[at]
        if not self._trusted and at not in self._checked:
            try:
                batch.validate(full=True)
            except pa.ArrowInvalid as error:
                first = self._ends[at] - batch.num_rows
                raise StopRun(
                    f"{self._path} is broken in rows {first} to {self._ends[at] - 1}: {error}", "Get it again."
                ) from error
            self._checked.add(at)
        return batch

    def _check_names(self) -> None:
        columns = self._batches[0].schema.names if self._batches else []
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            raise StopRun(f"{self._path} has columns of the same name: {names(twice)}", "Rename all but one of each.")


def _batches(path: str) -> list[Any] | None:
    """The batches of an Arrow file or stream, without reading them; None where they are compressed."""
    source = pa.memory_map(path)
    head = bytes(source.read(len(FILE_MAGIC)))
    source.seek(0)
    if head == FILE_MAGIC:
        reader = pa.ipc.open_file(source)
        batches: Iterator[Any] = (reader.get_batch(at) for at in range(reader.num_record_batches))
    else:
        batches = iter(pa.ipc.open_stream(source))
    found = []
    before = pa.total_allocated_bytes()
    for batch in batches:
        if pa.total_allocated_bytes() > before:  # what lies in the file as it is needs no memory
            return None
        if batch.num_rows:
            found.append(batch)
    return found


def _write_plain(path: str, attempt: Path) -> None:
    """Copy a file to plain Arrow, a few rows at a time."""
    schema, batches = _decoded(path)
    with pa.OSFile(str(attempt), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        waiting: list[Any] = []
        for batch in batches:
            waiting.append(batch)
            if sum(each.nbytes for each in waiting) >= WRITTEN_BYTES:
                _write(writer, waiting)
        _write(writer, waiting)


def _write(writer: Any, waiting: list[Any]) -> None:
    for batch in pa.Table.from_batches(waiting).combine_chunks().to_batches() if waiting else ():
        writer.write_batch(batch)
    waiting.clear()


def _decoded(path: str) -> tuple[Any, Iterator[Any]]:
    if path.endswith(PARQUET):
        file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        return file.schema_arrow, file.iter_batches(batch_size=COPIED_ROWS, use_threads=False)
    with open(path, "rb") as opened:
        is_file = opened.read(len(FILE_MAGIC)) == FILE_MAGIC
    source = pa.memory_map(path)
    if is_file:
        reader = pa.ipc.open_file(source)
        return reader.schema, _checked(reader.get_batch(at) for at in range(reader.num_record_batches))
    stream = pa.ipc.open_stream(source)
    return stream.schema, _checked(stream)


def _checked(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        batch.validate(full=True)
        yield batch
