"""S3's digest of an object, where it is one: the MD5 of its bytes, or of the MD5s of the parts that it was uploaded in.

A store that encrypts with keys of its own, or is no S3, has something else there: it says nothing,
and the object is read back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["etag_says", "md5_etags"]

ETAG = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
BLOCK_BYTES = 8 << 20


def etag_says(etag: str, expected: Callable[[], set[str]]) -> bool | None:
    """Whether an object is what was expected; True where its digest says so, None where that says nothing."""
    return True if ETAG.fullmatch(etag) and etag in expected() else None


def md5_etags(content: bytes | Path, part_bytes: int = 0) -> Callable[[], set[str]]:
    """What S3 may call some content: found out when it is called.

    Args:
        content: Bytes, or a local file.
        part_bytes: Of every part but the last, where it may have been uploaded in parts.
    """
    if isinstance(content, bytes):
        return lambda: {hashlib.md5(content, usedforsecurity=False).hexdigest()}
    return lambda: _of_file(content, part_bytes)


def _of_file(path: Path, part_bytes: int) -> set[str]:
    whole = hashlib.md5(usedforsecurity=False)
    parts: list[bytes] = []
    with path.open("rb") as file:
        while block := file.read(part_bytes or BLOCK_BYTES):
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return {whole.hexdigest(), f"{joined}-{len(parts)}"}
