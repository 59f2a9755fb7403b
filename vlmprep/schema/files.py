"""Files that are there whole or not at all, and JSON in one canonical spelling."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vlmprep.schema.errors import StopRun

__all__ = [
    "DiskTrouble",
    "canonical_json",
    "check_digest",
    "json_bytes",
    "publish",
    "publish_bytes",
    "read_json",
    "sha256_file",
    "write_json",
]

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Errors that only writing meets, whatever was being read beside it."""


class DiskTrouble(StopRun):
    """A file on this machine cannot be written."""


@contextmanager
def publish(path: Path, *, durable: bool = True, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and vanishes when it does not.

    The content is on disk before the name is: fsync, read back, rename, fsync of the folder.

    Args:
        path: The final name.
        durable: False leaves out the waiting for the disk, for many small files whose readers notice a torn one.
        check: Reads the file that is to be published and raises where it is not what was written.

    Raises:
        DiskTrouble: The file cannot be written; the message names it.
    """
    attempt = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield attempt
        if durable:
            with attempt.open("rb+") as file:
                os.fsync(file.fileno())
        if check is not None:
            check(attempt)
        os.replace(attempt, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        if not is_about_writing(error, path):
            raise
        raise DiskTrouble(
            f"{path} cannot be written: {error.strerror or error}",
            "What was finished is kept; mend this and run the same command again.",
        ) from error
    finally:
        with suppress(OSError):  # what made writing fail may forbid this too; the next run clears it away
            attempt.unlink(missing_ok=True)


def is_about_writing(error: OSError, path: Path) -> bool:
    """Whether an error met while `path` was written is one of writing it, not of reading something for it."""
    if error.errno in NO_ROOM or error.filename is None:
        return True
    where = Path(os.fsdecode(error.filename))
    return where.parent == path.parent or path.is_relative_to(where)


def publish_bytes(path: Path, content: bytes) -> None:
    """Publish a file that holds just these bytes, read back before it gets its name.

    Raises:
        StopRun: It cannot be written, or what is read back is something else.
    """
    with publish(
        path, check=lambda attempt: check_digest(attempt, path, hashlib.sha256(content).hexdigest())
    ) as attempt:
        attempt.write_bytes(content)


def check_digest(attempt: Path, path: Path, sha256: str) -> None:
    """Read a file back and hold it against what was written to it.

    Args:
        attempt: Where it lies now.
        path: Where it will lie, for the message.
        sha256: Of what was written, in hexadecimal.

    Raises:
        StopRun: It is something else.
    """
    if (found := sha256_file(attempt)) != sha256:
        raise StopRun(
            f"{path}: what is read back has SHA-256 {found[:16]}..., what was written {sha256[:16]}...",
            "The file system, the disk or the memory of this machine changes data; once that is mended, run the same "
            "command again.",
        )


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
    """Publish a JSON file, indented for people.

    Raises:
        StopRun: It cannot be written, or what is read back is something else.
    """
    publish_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """A JSON value as files have it: sorted keys, indented for people, a newline at the end."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


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
