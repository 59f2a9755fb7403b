"""Plain USTAR, the same bytes from the same inputs: what the headers of a shard's members must say."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from vlmprep.schema.packset import pack_key
from vlmprep.shardformat.pack import INFO_SUFFIX

__all__ = ["Owner", "member_problems", "owner_of"]

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Owner and mode, the same for all members of a pack set."""

    mode: int
    uid: int
    gid: int
    uname: str
    gname: str

    def __str__(self) -> str:
        return f"{self.uname or self.uid}:{self.gname or self.gid} mode {self.mode:o}"


def owner_of(raw: memoryview) -> Owner:
    """Owner and mode of a pack's first member."""
    return _owner(_header(raw, 0))


def member_problems(raw: memoryview, pack_id: int, owner: Owner) -> Iterator[str]:
    """Hold a pack's headers and padding against the format.

    Args:
        raw: The pack's bytes, which `parse_members` has split without complaint.
        pack_id: The pack's number.
        owner: Owner and mode that every member should have.
    """
    at = 0
    while at < len(raw):
        member = _header(raw, at)
        if at == 0 and member.name != f"{pack_key(pack_id)}.{INFO_SUFFIX}":
            yield f"its first member is {member.name}, expected {pack_key(pack_id)}.{INFO_SUFFIX}"
        if member.mtime != 0:
            yield f"member {member.name} has time {member.mtime}, expected 0"
        if (found := _owner(member)) != owner:
            yield f"member {member.name} belongs to {found}, others to {owner}"
        end = at + BLOCK + member.size
        at = end + -member.size % BLOCK
        if any(raw[end:at]):
            yield f"there are bytes behind member {member.name} that belong to nothing"


def _header(raw: memoryview, at: int) -> tarfile.TarInfo:
    return tarfile.TarInfo.frombuf(bytes(raw[at : at + BLOCK]), "utf-8", "surrogateescape")


def _owner(member: tarfile.TarInfo) -> Owner:
    return Owner(mode=member.mode, uid=member.uid, gid=member.gid, uname=member.uname, gname=member.gname)
