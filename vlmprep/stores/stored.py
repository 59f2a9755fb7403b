"""What a store says of a file, in our words."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

__all__ = ["Stored", "stored"]

STATES = ("ETag", "etag", "crc32c", "VersionId", "LastModified", "last_modified", "mtime", "updated", "created")
"""What file systems call what changes with a file, the most telling first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a store says of a file."""

    size: int
    """Bytes."""
    state: str
    """Changes when the file is written again: the store's digest, version or time; empty where it has none."""


def stored(info: dict[str, Any]) -> Stored:
    """What an fsspec file system says of a file, in our words."""
    if info.get("md5Hash"):  # of Google's store: the same digest, spelled otherwise
        return Stored(size=int(info["size"]), state=base64.b64decode(info["md5Hash"]).hex())
    state = next((str(info[name]) for name in STATES if info.get(name)), "")
    return Stored(size=int(info["size"]), state=state.strip('"'))
