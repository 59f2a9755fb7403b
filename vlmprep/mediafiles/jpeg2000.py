"""JPEG 2000 that breaks off behind the marker of a tile: Pillow leaves it and all others black, and says nothing."""

from __future__ import annotations

from vlmprep.schema.errors import RefuseSample

__all__ = ["check_end"]

CODESTREAM = b"\xff\x4f\xff\x51"
SIGNATURES = (CODESTREAM, b"\0\0\0\x0cjP  ")
"""Of a bare codestream, and of one in boxes, before which others may stand that hold anything."""
END = b"\xff\xd9"
"""The codestream's last marker, whose bytes never stand among coded pixels."""


def check_end(data: bytes, name: str) -> None:
    """Hold a JPEG 2000 against the marker that ends it.

    Args:
        data: An encoded image of any format.
        name: What a person calls it.

    Raises:
        RefuseSample: It is a JPEG 2000 without one.
    """
    if data.startswith(SIGNATURES) and data.find(END, max(data.find(CODESTREAM), 0)) < 0:
        raise RefuseSample("undecodable-media", f"{name} does not decode: it is a JPEG 2000 that is cut off")
