"""Tar headers read the short way say what tarfile says of them."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import pytest

from vlmprep.schema.errors import StopRun
from vlmprep.sources.tar_rows import tar_groups, tar_row

NAMES = ["000.json", "000.jpg", "a/b.c/001.json", f"{'long/' * 30}002.json", "üñí.json", "end.json"]


def written(path: Path, form: int) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for size, name in enumerate(NAMES):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 300 * size, size + 0.5
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def sizes_spelled_in_twelve_digits(path: Path) -> Path:
    """Some writers use the size's last byte for a digit, where others put a NUL."""
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 124 : at + 136] = b"0" + data[at + 124 : at + 135]
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("change", [lambda path: path, sizes_spelled_in_twelve_digits])
def test_members_are_those_that_tarfile_finds(form: int, change: object, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", form)
    assert callable(change)
    change(path)
    with tarfile.open(path) as tar:
        expected = [(member.name, member.size, member.offset_data) for member in tar]
    with path.open("rb") as file:
        found = [(m.name, m.size, m.start) for group in tar_groups(file, str(path)) for m in group.members]
    assert found == expected
    assert [name for name, _, _ in found] == NAMES


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_plain_files_in_folders_are_found_without_tarfile(
    form: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"shard/{number:03}.{ending}" for number in range(40) for ending in ("json", "jpg")]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        folder = tarfile.TarInfo("shard")
        folder.type, folder.mtime = tarfile.DIRTYPE, 0.5
        tar.addfile(folder)
        for size, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = 100 * size, size + 0.25, "someone"
            tar.addfile(member, io.BytesIO(bytes([size]) * member.size))
    monkeypatch.setattr(tarfile, "TarFile", None)
    with (tmp_path / "a.tar").open("rb") as file:
        groups = list(itertools.islice(tar_groups(file, "a.tar"), 39))
        contents = [content for group in groups for content in tar_row(file, group).values().values()]
    assert [member.name for group in groups for member in group.members] == names[:78]
    assert contents == [bytes([size]) * (100 * size) for size in range(78)]


def test_a_pax_record_that_says_another_size_is_heeded(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("0.json", "1.json"):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = 2, {"size": "2", "comment": "x"}
            tar.addfile(member, io.BytesIO(b"{}"))
    path = tmp_path / "a.tar"
    data = path.read_bytes()
    assert data.count(b"size=2") == 2
    with path.open("rb") as file:
        found = [tar_row(file, group).values() for group in tar_groups(file, str(path))]
    assert found == [{"json": b"{}"}] * 2


def test_a_negative_size_stops_the_run_instead_of_going_round_for_ever(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("0.json"))
    path = tmp_path / "a.tar"
    data = bytearray(path.read_bytes())
    data[124:136] = b"-0000001000\0"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(StopRun, match="byte 0 gives a negative size"):
        list(tar_groups(file, str(path)))


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("0.json")
        member.type = tarfile.GNUTYPE_SPARSE
        tar.addfile(member)
    with (tmp_path / "a.tar").open("rb") as file:
        (group,) = tar_groups(file, "a.tar")
        assert tar_row(file, group).refused == ("bad-member", "'0.json' is sparse, a link or a device, expected a file")
