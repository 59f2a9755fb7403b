"""Sources at fsspec URLs: found by name, pattern or folder, and copied once, because rows are read again by their place.

A copy is named by URL, size and the store's own digest or time of the file (see `copies`): a file that changes gets a new one.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re

from vlmprep.schema.errors import StopRun
from vlmprep.sources.copies import plain_copy
from vlmprep.stores.file import find, look_at
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.urls import is_url, joined

__all__ = ["beside", "local_copy", "remote_files"]


def local_copy(path: str, endings: tuple[str, ...]) -> str:
    """A local file with the content of one at a URL; a local path stays itself.

    Args:
        path: The file.
        endings: By which kinds of files are told; the copy keeps its own.

    Raises:
        StopRun: It is not there, or changed while it was read.
    """
    if not is_url(path):
        return path
    folder, name = find(path)
    ending = max((ending for ending in endings if path.endswith(ending)), key=len, default="")
    return plain_copy(path, ending, lambda attempt: folder.fetch(name, attempt))


def remote_files(url: str, endings: tuple[str, ...]) -> list[str]:
    """The files of rows that a URL names: one, those of a folder, or those that match a pattern.

    Raises:
        StopRun: There are none, or the store is in trouble.
    """
    if glob.has_magic(url.partition("://")[2]):
        return _matching(url, endings)
    if url.endswith(endings) and look_at(url) is not None:
        return [url]
    found = sorted(name for name in StoreFolder(url).files() if name.endswith(endings))
    if not found:
        raise StopRun(
            f"{url} does not exist, or is no file of rows and no folder whose store lists some",
            f"Rows are in {', '.join(endings)} files.",
        )
    return [joined(url, name) for name in found]


def beside(url: str, name: str) -> str:
    """What a file at a URL calls `name`: a URL, or a path from its folder on, `..` included."""
    if is_url(name):
        return name
    scheme, _, place = url.rpartition("/")[0].partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(place, name))}"


def glob_regex(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stay in a folder, `**` does not."""
    from fsspec.utils import glob_translate  # only where sources are remote

    return str(glob_translate(pattern))


def _matching(pattern: str, endings: tuple[str, ...]) -> list[str]:
    """Files that match a pattern, by their URLs."""
    start = os.path.dirname(pattern[: min(pattern.find(mark) for mark in "*?[" if mark in pattern)])
    folder = StoreFolder(start)
    tail = pattern[len(start) + 1 :]
    matches = re.compile(glob_regex(tail)).match
    found = sorted(name for name in folder.files() if matches(name) and name.endswith(endings))
    if not found:
        raise StopRun(f"no file matches {pattern!r}", "Check the pattern; quote it so that the shell leaves it alone.")
    return [joined(start, name) for name in found]
