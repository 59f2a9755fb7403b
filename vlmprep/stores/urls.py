"""Which locations are URLs, how they are joined, and where local copies of what lies behind them go."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "is_url", "joined", "local_path"]


def is_url(location: str) -> bool:
    """Whether a location is one for fsspec; `file://` and plain paths are local."""
    return "://" in location and not location.startswith("file://")


def local_path(location: str | os.PathLike[str]) -> str:
    """A local location as a path: without `file://`, where it has that."""
    return os.fspath(location).removeprefix("file://")


def joined(url: str, name: str) -> str:
    """What `name` is called beneath a URL; a URL stays itself, `.` and empty names are the folder."""
    if is_url(name):
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join([url.rstrip("/"), *parts])


def cache_folder() -> Path:
    """Where copies of files lie that can be made again: `$VLMPREP_CACHE`, or `~/.cache/vlmprep`."""
    named = os.environ.get("VLMPREP_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "vlmprep"
