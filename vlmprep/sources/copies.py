"""Copies of files whose rows cannot be found again by their place: unpacked once, beside nothing of the user's.

They lie in `$VLMPREP_CACHE`, or in `~/.cache/vlmprep`, named by the digest of path, size and modification time of the file that
they are made from, so a file that changes gets a new one. Deleting them is safe: the next run makes them again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import publish
from vlmprep.stores.file import look_at
from vlmprep.stores.urls import cache_folder, is_url

__all__ = ["file_state", "plain_copy"]


def file_state(path: str) -> bytes:
    """What changes when a file is written to: its path, size and modification time.

    Raises:
        StopRun: It cannot be looked at.
    """
    if is_url(path):
        return _remote_state(path)
    try:
        found = os.stat(path)
    except OSError as error:
        raise StopRun(
            f"{path} cannot be read: {error.strerror or error}", "Bring it back and run the same command again."
        ) from error
    return b"%b\0%d\0%d" % (os.fsencode(path), found.st_size, found.st_mtime_ns)


def _remote_state(url: str) -> bytes:
    stored = look_at(url)
    if stored is None:
        raise StopRun(f"{url} does not exist", "Bring it back and run the same command again.")
    return b"%b\0%d\0%b" % (url.encode(), stored.size, stored.state.encode())


def plain_copy(path: str, suffix: str, write: Callable[[Path], None]) -> str:
    """The copy of a file, made unless it is there.

    Args:
        path: Absolute path of the file.
        suffix: Of the copy's name.
        write: Writes the copy to a path.

    Raises:
        StopRun: The file changed meanwhile, or the copy cannot be written.
    """
    state = file_state(path)
    copy = cache_folder() / (hashlib.sha256(state).hexdigest()[:32] + suffix)
    if not copy.exists():
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with publish(copy) as attempt:
            write(attempt)
            if file_state(path) != state:
                raise StopRun(
                    f"{path} changed while it was read", "Run the same command again when it is written to no longer."
                )
    return str(copy)
