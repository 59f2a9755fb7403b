from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprep.shardformat.tarpack import parse_members


def tar_bytes(
    members: list[tuple[str, bytes]], *, archive_format: int = tarfile.USTAR_FORMAT, **changes: object
) -> bytearray:
    """The members' bytes without the end-of-archive blocks."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=archive_format) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for attribute, value in changes.items():
                setattr(member, attribute, value)
            tar.addfile(member, io.BytesIO(content))
        end = tar.offset
    return bytearray(file.getvalue()[:end])


MEMBERS = [("000000007.json", b"{}"), ("000000007.labels.npy", b"x" * 700), ("000000007.empty.npy", b"")]


def test_members_are_found_with_their_bytes_in_order() -> None:
    raw = tar_bytes(MEMBERS)
    found = parse_members(memoryview(raw), 7)
    assert [(f"000000007.{suffix}", bytes(content)) for suffix, content in found.items()] == MEMBERS


def test_contents_are_views() -> None:
    raw = tar_bytes(MEMBERS)
    found = parse_members(memoryview(raw), 7)
    raw[1024 + 512] = ord("y")
    assert bytes(found["labels.npy"][:2]) == b"yx"


def with_header_byte(at: int, value: int) -> bytearray:
    raw = tar_bytes(MEMBERS)
    raw[at] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (tar_bytes([("000000008.json", b"{}")]), "does not belong to pack 000000007"),
        (tar_bytes([("000000007json", b"{}")]), "does not belong"),
        (tar_bytes([("sub/000000007.json", b"{}")]), "does not belong"),
        (tar_bytes([MEMBERS[0], MEMBERS[0]]), "twice"),
        (tar_bytes(MEMBERS[:2])[:-512], "runs over the end"),
        (tar_bytes(MEMBERS)[:600], "runs over the end"),
        (tar_bytes(MEMBERS)[:-100], "cut off"),
        (tar_bytes(MEMBERS) + bytes(1024), "no USTAR header at byte"),
        (tar_bytes(MEMBERS[:1], type=tarfile.SYMTYPE, size=0), "no plain file"),
        (tar_bytes(MEMBERS[:1], type=tarfile.DIRTYPE, size=0), "no plain file"),
        (tar_bytes(MEMBERS[:1], archive_format=tarfile.GNU_FORMAT), "no USTAR header"),
        (tar_bytes([("0" * 80 + "/000000007.json", b"")], archive_format=tarfile.PAX_FORMAT), "does not belong"),
        (tar_bytes([("a" * 60 + "/" + "b" * 60, b"")]), "short name"),
        (with_header_byte(0, ord("1")), "wrong checksum"),
        (with_header_byte(124, ord("9")), "wrong checksum"),
        (with_header_byte(150, ord("9")), "no octal number"),
        (with_header_byte(124, 0x80), "wrong checksum"),
    ],
)
def test_anything_but_plain_files_of_the_pack_is_refused(raw: bytearray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_members(memoryview(raw), 7)


def test_a_size_in_base_256_is_refused() -> None:
    raw = tar_bytes(MEMBERS[:1])
    raw[124:136] = b"\x80" + (2).to_bytes(11, "big")
    checksum = sum(raw[:148]) + sum(raw[156:512]) + 8 * 32
    raw[148:156] = b"%06o\x00 " % checksum
    with pytest.raises(ValueError, match="no octal number"):
        parse_members(memoryview(raw), 7)


@given(st.data())
def test_damaged_bytes_are_refused_or_stay_inside_the_pack(data: st.DataObject) -> None:
    raw = tar_bytes(MEMBERS)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        found = parse_members(memoryview(raw), 7)
    except ValueError:
        return
    assert sum(512 + len(content) for content in found.values()) <= len(raw)
