"""One pack's bytes inside a shard: USTAR members side by side, all with the pack's key.

    | header 512 | content, padded to 512 | header 512 | content, padded to 512 | ...
      000000017.json                        000000017.input_ids.npy.zst

A header holds the name (bytes 0-99), the size in octal (124-135), a checksum (148-155), the type (156) and `ustar`
(257). Source: POSIX.1-1988, pax(1).
"""

from __future__ import annotations

from vlmprep.schema.packset import pack_key

__all__ = ["parse_members"]

_BLOCK = 512
"""Bytes of a header; contents are padded to a multiple of it."""
_MAGIC = b"ustar\x0000"


def parse_members(raw: memoryview, pack_id: int) -> dict[str, memoryview]:
    """Split a pack's bytes into its members, without copying.

    Args:
        raw: From the pack's first header to the next pack's, or to the end-of-archive blocks.
        pack_id: The pack that the bytes should hold.

    Returns:
        Content by suffix (what follows `key.` in the member's name), in the order of the tar.

    Raises:
        ValueError: The bytes are no sequence of plain USTAR files of this pack.
    """
    members: dict[str, memoryview] = {}
    prefix = pack_key(pack_id) + "."
    at = 0
    while at < len(raw):
        name, size = _parse_header(bytes(raw[at : at + _BLOCK]), at)
        start, end = at + _BLOCK, at + _BLOCK + size
        at = end + -size % _BLOCK
        if at > len(raw):
            raise ValueError(f"member {name} of {size} bytes runs over the end of the pack's {len(raw)} bytes")
        if not name.startswith(prefix):
            raise ValueError(f"member {name} does not belong to pack {pack_key(pack_id)}")
        suffix = name[len(prefix) :]
        if suffix in members:
            raise ValueError(f"member {name} is there twice")
        members[suffix] = raw[start:end]
    return members


def _parse_header(header: bytes, at: int) -> tuple[str, int]:
    """Name and size of a plain file."""
    if len(header) < _BLOCK:
        raise ValueError(f"tar header at byte {at} of the pack is cut off")
    if header[257:265] != _MAGIC:
        raise ValueError(f"no USTAR header at byte {at} of the pack")
    if header[156:157] not in (b"0", b"\x00") or header[345:500].strip(b"\x00"):
        raise ValueError(f"member at byte {at} of the pack is no plain file with a short name")
    checksum = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    if _octal(header[148:156], at) != checksum:
        raise ValueError(f"tar header at byte {at} of the pack has a wrong checksum")
    return header[:100].rstrip(b"\x00").decode("ascii"), _octal(header[124:136], at)


def _octal(digits: bytes, at: int) -> int:
    text = digits.strip(b" \x00")
    if not text.isdigit() or b"8" in text or b"9" in text:
        raise ValueError(f"tar header at byte {at} of the pack: {digits!r} is no octal number")
    return int(text, 8)
