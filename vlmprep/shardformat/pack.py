"""One pack's tensors to tar members, and back from the pack's bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import xxhash

from vlmprep.schema.packset import MEDIA_FIELDS, SEQUENCE_FIELDS
from vlmprep.shardformat.errors import broken_pack
from vlmprep.shardformat.members import Array, Compression, decode_member, describe_member, encode_member, split_suffix
from vlmprep.shardformat.packinfo import PackInfo
from vlmprep.shardformat.tarpack import parse_members

__all__ = ["INFO_SUFFIX", "check_digest", "decode_info", "decode_pack", "encode_pack", "in_order"]

INFO_SUFFIX = "json"
"""Suffix of key.json, the first member of a pack."""

_ORDER = {field: place for place, field in enumerate(SEQUENCE_FIELDS + MEDIA_FIELDS)}


def in_order(fields: Iterable[str]) -> list[str]:
    """Fields as packs have them: the sequence's, media's, others by name."""
    return sorted(fields, key=lambda field: (_ORDER.get(field, len(_ORDER)), field))


def encode_pack(
    info: PackInfo, fields: Mapping[str, Array], *, compression: Compression
) -> list[tuple[str, bytes | memoryview]]:
    """Make a pack's tar members.

    Args:
        info: What the pack says about itself; its `members` are filled in here.
        fields: The pack's tensors by field name, in natural order.
        compression: Codec of every tensor.

    Returns:
        (suffix, content) of every member in the order of the tar: key.json, sequence fields, media fields, others by
        name.

    Raises:
        ValueError: A field's array has no place in a pack.
    """
    names = in_order(fields)
    members = {field: describe_member(field, fields[field], compression=compression) for field in names}
    encoded = [encode_member(field, fields[field], compression=compression) for field in names]
    return [(INFO_SUFFIX, replace(info, members=members).to_bytes()), *encoded]


def check_digest(raw: memoryview, xxh3: int, *, shard: str, pack_id: int) -> None:
    """Hold a pack's bytes against the index.

    Raises:
        BrokenPack: The 64-bit XXH3 of the bytes is another.
    """
    found = xxhash.xxh3_64_intdigest(raw)
    if found != xxh3:
        raise broken_pack(shard, pack_id, f"its bytes have digest {found:016x}, the index says {xxh3:016x}")


def decode_info(raw: memoryview, *, shard: str, pack_id: int) -> PackInfo:
    """Read what a pack says about itself, without its tensors.

    Raises:
        BrokenPack: The bytes are no pack of this number.
    """
    return _open(raw, shard, pack_id)[0]


def decode_pack(raw: memoryview, *, shard: str, pack_id: int) -> tuple[PackInfo, dict[str, Array]]:
    """Read a pack from its bytes.

    Args:
        raw: From the pack's first tar header to the next pack's.
        shard: Where the bytes came from, for messages.
        pack_id: The pack that they should hold.

    Returns:
        What the pack says about itself, and its tensors by field in natural order. Uncompressed ones are views of
        `raw`.

    Raises:
        BrokenPack: The bytes are no pack of this number.
    """
    info, members = _open(raw, shard, pack_id)
    fields: dict[str, Array] = {}
    try:
        for suffix, content in members.items():
            member = info.members[split_suffix(suffix)[0]]
            field, fields[field] = decode_member(suffix, content, member)
    except ValueError as error:
        raise broken_pack(shard, pack_id, str(error)) from error
    return info, fields


def _open(raw: memoryview, shard: str, pack_id: int) -> tuple[PackInfo, dict[str, memoryview]]:
    """key.json, and the contents of the tensors that it names, by suffix."""
    try:
        members = parse_members(raw, pack_id)
        info = PackInfo.from_bytes(members.pop(INFO_SUFFIX, memoryview(b"")))
        _check_members(info, members, pack_id)
    except ValueError as error:
        raise broken_pack(shard, pack_id, str(error)) from error
    return info, members


def _check_members(info: PackInfo, members: Mapping[str, memoryview], pack_id: int) -> None:
    if info.pack_id != pack_id:
        raise ValueError(f"its key.json is that of pack {info.pack_id}")
    found = sorted(split_suffix(suffix)[0] for suffix in members)
    if found != sorted(info.members):
        raise ValueError(f"it holds {found}, its key.json names {sorted(info.members)}")
