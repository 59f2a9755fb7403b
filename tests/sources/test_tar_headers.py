"""Tar headers read the short way say what tarfile says of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from vlmprep.sources.tar_rows import tar_groups

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
        found = [(m.name, m.size, m.offset_data) for group in tar_groups(file, str(path)) for m in group.members]
    assert found == expected
    assert [name for name, _, _ in found] == NAMES
