"""Rows of WebDataset tars: members side by side whose names are the same up to the first dot.

A row's place is the header of its first member. Scanning reads headers alone and skips what lies between them.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Self

from vlmprep.schema.errors import StopRun
from vlmprep.sources.blobs import join_row, refused_row
from vlmprep.sources.wording import shown

__all__ = ["TAR", "TarGroup", "tar_groups", "tar_row"]

TAR = (".tar",)
MAX_ROW_BYTES = 256 << 20
"""Of all members of a row; a larger one is refused before it is read."""
BLOCK = 512
POSIX = b"ustar\x0000"


@dataclass(frozen=True, slots=True, kw_only=True)
class TarGroup:
    """The members of one row."""

    offset: int
    """Of the first member's header."""
    key: str
    """What their names have in common, folders included."""
    members: tuple[tarfile.TarInfo, ...]


def tar_groups(file: IO[bytes], path: str, offset: int = 0) -> Iterator[TarGroup]:
    """Walk the rows of a tar, from the start or from the header of a row's first member.

    Raises:
        StopRun: It is no tar, a header is broken, it ends too early, or something follows its end.
    """
    waiting: list[tarfile.TarInfo] = []
    key = ""
    for member in _members(file, path, offset):
        if (own := _split(member.name)[0]) != key and waiting:
            yield TarGroup(offset=waiting[0].offset, key=key, members=tuple(waiting))
            waiting = []
        key = own
        waiting.append(member)
    if waiting:
        yield TarGroup(offset=waiting[0].offset, key=key, members=tuple(waiting))


def tar_row(file: IO[bytes], group: TarGroup) -> bytes:
    """A row's bytes, as `blobs` has them: its members by the rest of their names; or why it cannot be used."""
    content: dict[str, bytes] = {}
    size = sum(member.size for member in group.members)
    if size > MAX_ROW_BYTES:
        return refused_row(
            "row-too-large", f"{shown(group.key)} holds {size} bytes, above the limit of {MAX_ROW_BYTES >> 20} MiB"
        )
    for member in group.members:
        name = _split(member.name)[1]
        if not member.isreg():
            return refused_row("bad-member", f"{shown(member.name)} is a link or a device, expected a file")
        if name in content:
            return refused_row("bad-member", f"{shown(member.name)} is there twice: which one is meant?")
        file.seek(member.offset_data)
        content[name] = file.read(member.size)
    try:
        return join_row("members", group.key, content)
    except UnicodeEncodeError:
        return refused_row("bad-member", f"the name {shown(group.key)} is not UTF-8")


def _split(name: str) -> tuple[str, str]:
    """A member's key and the rest of its name, which begins behind the first dot of its last part."""
    folder, _, base = name.rpartition("/")
    stem, _, rest = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, rest


class _Header(tarfile.TarInfo):
    """A header; those of plain files are read in a fraction of tarfile's time, as far as rows need them."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """A header of 512 bytes: name, size and type where a POSIX header of a plain file adds up, all by tarfile elsewhere."""
        if len(buf) == BLOCK and buf[156:157] == tarfile.REGTYPE and buf[257:265] == POSIX and not buf[345]:
            with suppress(ValueError):
                if int(buf[148:154], 8) == sum(buf) - sum(buf[148:156]) + 8 * ord(" "):
                    header = cls(bytes(buf[:100]).partition(b"\0")[0].decode(encoding, errors))
                    header.size = int(bytes(buf[124:136]).partition(b"\0")[0], 8)
                    return header
        return super().frombuf(buf, encoding, errors)


def _members(file: IO[bytes], path: str, offset: int) -> Iterator[tarfile.TarInfo]:
    file.seek(offset)
    try:
        tar = tarfile.TarFile(fileobj=file, mode="r", tarinfo=_Header)
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            if not member.isdir():
                yield member
    except (tarfile.TarError, EOFError) as error:
        raise _broken(path, f"{error}") from error
    _check_end(file, path, tar.offset)


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
