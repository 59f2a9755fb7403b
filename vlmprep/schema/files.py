"""Files that are there whole or not at all, and JSON in one canonical spelling."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["canonical_json", "publish", "read_json", "sha256_file", "write_json"]


@contextmanager
def publish(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and vanishes when it does not.

    The content is on disk before the name is: fsync, rename, fsync of the folder.

    Args:
        path: The final name.
        durable: False leaves out the waiting for the disk, for many small files whose readers notice a torn one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    attempt = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield attempt
        if durable:
            with attempt.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(attempt, path)
        if durable:
            sync_folder(path.parent)
    finally:
        attempt.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value that digests are made of: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON file, indented for people."""
    with publish(path) as attempt:
        attempt.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
