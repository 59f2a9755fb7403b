"""Publishing files: whole or not at all, read back, and errors of writing say which file they are about."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import publish, publish_bytes, write_json


@contextmanager
def no_file_above(num_bytes: int) -> Iterator[None]:
    """A limit that the system itself keeps: writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_parquet(path: Path) -> None:
    with publish(path) as attempt:
        pq.write_table(pa.table({"number": range(10_000)}), attempt)


def write_arrow(path: Path) -> None:
    table = pa.table({"number": range(10_000)})
    with publish(path) as attempt, pa.ipc.new_file(str(attempt), table.schema) as writer:
        writer.write_table(table)


def write_plain(path: Path) -> None:
    publish_bytes(path, bytes(10_000))


@pytest.mark.parametrize("write", [write_parquet, write_arrow, write_plain])
def test_no_room_names_the_file_and_leaves_nothing(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "folder" / "file"
    with no_file_above(4_096), pytest.raises(StopRun, match=r"folder/file cannot be written: .*[Ff]ile too large"):
        write(path)
    assert list(path.parent.iterdir()) == []
    write(path)
    assert path.stat().st_size > 4_096


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_every_step_of_writing_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StopRun, match=f"file cannot be written: {os.strerror(number)}") as stop:
        write_json(tmp_path / "file", {})
    assert "run the same command again" in stop.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_reading_beside_it_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, publish(tmp_path / "folder" / "file") as attempt:
        attempt.write_bytes((tmp_path / "elsewhere" / "source").read_bytes())
    assert error.value.filename == str(tmp_path / "elsewhere" / "source")


def test_what_is_read_back_otherwise_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = os.fsync

    def lose_a_bit(file: int) -> None:
        synced(file)
        os.pwrite(file, b"}", 0)

    write_json(tmp_path / "file", {"what": "before"})
    before = (tmp_path / "file").read_bytes()
    monkeypatch.setattr(os, "fsync", lose_a_bit)
    with pytest.raises(StopRun, match="file: what is read back has SHA-256"):
        write_json(tmp_path / "file", {"what": "after"})
    assert (tmp_path / "file").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
