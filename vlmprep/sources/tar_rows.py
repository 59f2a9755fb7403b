"""Rows of WebDataset tars: members side by side whose names are the same up to the first dot.

A row's place is the header of its first member. Headers alone are read to find rows, and what lies between them is skipped.
"""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from vlmprep.schema.errors import StopRun
from vlmprep.sources.blobs import BlobRow, blob_row, refused_row
from vlmprep.sources.wording import shown

__all__ = ["TAR", "TarGroup", "tar_groups", "tar_row"]

TAR = (".tar",)
MAX_ROW_BYTES = 256 << 20
"""Of all members of a row; a larger one is refused before it is read."""
BLOCK = 512
MAGICS = (b"ustar\x0000", b"ustar  \0")
"""POSIX's and GNU's."""
FILE, FOLDER, PAX = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE
PAX_RECORD = re.compile(rb"(\d+) (\w+)=([^\n]+)\n")
PAX_UNUSED = (b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname")
CHECKSUM_BLANKS = b" " * 8
ADLER_PRIME = 65_521


class Member(NamedTuple):
    """A file of a tar, or what stands in its place."""

    name: str
    kind: bytes
    """As the header has it: FILE or another."""
    offset: int
    """Of its header, a pax header before it included."""
    start: int
    """Of its content."""
    size: int
    """Of its content, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarGroup:
    """The members of one row."""

    offset: int
    """Of the first member's header."""
    key: str
    """What their names have in common, folders included."""
    members: tuple[Member, ...]


def tar_groups(file: IO[bytes], path: str, offset: int = 0) -> Iterator[TarGroup]:
    """Walk the rows of a tar, from the start or from the header of a row's first member.

    Raises:
        StopRun: It is no tar, a header is broken, it ends too early, or something follows its end.
    """
    waiting: list[Member] = []
    key = ""
    for member in _members(file, path, offset):
        if (own := _split(member.name)[0]) != key and waiting:
            yield TarGroup(offset=waiting[0].offset, key=key, members=tuple(waiting))
            waiting = []
        key = own
        waiting.append(member)
    if waiting:
        yield TarGroup(offset=waiting[0].offset, key=key, members=tuple(waiting))


def tar_row(file: IO[bytes], group: TarGroup) -> BlobRow:
    """A row: its members by the rest of their names; or why it cannot be used."""
    content: dict[str, bytes] = {}
    size = sum(member.size for member in group.members)
    if size > MAX_ROW_BYTES:
        return refused_row(
            "row-too-large", f"{shown(group.key)} holds {size} bytes, above the limit of {MAX_ROW_BYTES >> 20} MiB"
        )
    for member in group.members:
        name = _split(member.name)[1]
        if member.kind != FILE:
            return refused_row("bad-member", f"{shown(member.name)} is sparse, a link or a device, expected a file")
        if name in content:
            return refused_row("bad-member", f"{shown(member.name)} is there twice: which one is meant?")
        content[name] = os.pread(file.fileno(), member.size, member.start)
    try:
        return blob_row("members", group.key, content)
    except UnicodeEncodeError:
        return refused_row("bad-member", f"the name {shown(group.key)} is not UTF-8")


def _split(name: str) -> tuple[str, str]:
    """A member's key and the rest of its name, which begins behind the first dot of its last part."""
    folder, _, base = name.rpartition("/")
    stem, _, rest = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, rest


def _members(file: IO[bytes], path: str, offset: int) -> Iterator[Member]:
    """All but folders: in a fraction of tarfile's time, and by tarfile from the first header on that is no plain one."""
    while (member := _plain_member(file.fileno(), offset)) is not None:
        if member.kind != FOLDER:
            yield member
        offset = member.start + -(-member.size // BLOCK) * BLOCK
    yield from _other_members(file, path, offset)


def _plain_member(descriptor: int, offset: int) -> Member | None:
    """The file or folder whose header is there, and before it perhaps a pax header of no more than its name and times."""
    head = os.pread(descriptor, 3 * BLOCK, offset)
    at, name = 0, ""
    if head[156:157] == PAX:
        pax = _header(head)
        if pax is None or not 0 < pax[2] <= BLOCK or (renamed := _pax_name(head[BLOCK : BLOCK + pax[2]])) is None:
            return None
        at, name = 2 * BLOCK, renamed
    header = _header(head[at : at + BLOCK])
    if header is None or header[0] not in (FILE, FOLDER):
        return None
    kind, short, size = header
    start = offset + at + BLOCK
    return Member(name=name or short, kind=kind, offset=offset, start=start, size=size if kind == FILE else 0)


def _header(block: bytes) -> tuple[bytes, str, int] | None:
    """Type, name and size that a header gives; None where it does not add up, or has a part of the name elsewhere."""
    if len(block) < BLOCK or block[257:265] not in MAGICS or block[345]:
        return None
    try:
        checksum, size = int(block[148:154], 8), int(block[124:136].partition(b"\0")[0], 8)
    except ValueError:
        return None
    # The low half of Adler-32 is one more than the sum of all bytes.
    found = zlib.adler32(block[:148] + CHECKSUM_BLANKS + block[156:BLOCK]) & 0xFFFF
    if found != (checksum + 1) % ADLER_PRIME or size < 0:
        return None
    return block[156:157], _text(block[:100].partition(b"\0")[0]), size


def _text(name: bytes) -> str:
    """A name as tarfile has it."""
    return name.decode("utf-8", "surrogateescape")


def _pax_name(records: bytes) -> str | None:
    """The name that a pax header gives, or none (""); None where it says more than rows can do without."""
    name, at = "", 0
    while at < len(records):
        record = PAX_RECORD.match(records, at)
        if record is None or int(record[1]) != record.end() - at:
            return None
        if record[2] == b"path":
            name = _text(record[3]).rstrip("/")
        elif record[2] not in PAX_UNUSED:
            return None
        at = record.end()
    return name


def _other_members(file: IO[bytes], path: str, offset: int) -> Iterator[Member]:
    file.seek(offset)
    try:
        tar = tarfile.TarFile(fileobj=file, mode="r", encoding="utf-8")
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            if member.size < 0:
                raise _broken(path, f"the header at byte {member.offset} gives a negative size")
            if not member.isdir():
                yield _member(member)
    except (tarfile.TarError, EOFError) as error:
        raise _broken(path, f"{error}") from error
    _check_end(file, path, tar.offset)


def _member(found: tarfile.TarInfo) -> Member:
    kind = FILE if found.isreg() and not found.issparse() else tarfile.SYMTYPE
    return Member(name=found.name, kind=kind, offset=found.offset, start=found.offset_data, size=found.size)


def _check_end(file: IO[bytes], path: str, end: int) -> None:
    """A tar ends with two blocks of zeros; tarfile takes a broken header, or the end of the file, for the end too."""
    file.seek(end)
    head = file.read(BLOCK)
    if len(head) < BLOCK:
        raise _broken(path, f"it has no end at byte {end}: rows may be missing")
    if head.strip(b"\0"):
        raise _broken(path, f"the header at byte {end} is broken")
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise _broken(path, f"something follows its end, before byte {file.tell()}")


def _broken(path: str, what: str) -> StopRun:
    size = f" ({os.path.getsize(path)} bytes)" if os.path.exists(path) else ""
    return StopRun(
        f"{path}{size} is no whole tar: {what}",
        "Get it again; tars joined by `cat` have to be unpacked first.",
    )
