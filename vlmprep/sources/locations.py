"""Where media may lie: a row's paths and URLs, held against the media folder of its source."""

from __future__ import annotations

import functools
import os

from vlmprep.mediafiles.opening import is_on_the_web, is_remote
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.wording import shown

__all__ = ["resolve_location"]


def resolve_location(
    location: str, media_dir: str, *, allow_outside_media: bool = False, allow_remote_media: bool = False
) -> str:
    """Turn what a row says into an absolute path or URL that lies inside the media folder.

    Args:
        location: Path or URL from the row; relative paths start at `media_dir`.
        media_dir: Absolute path or URL of the media folder.
        allow_outside_media: Accept local paths anywhere.
        allow_remote_media: Accept http and https URLs.

    Raises:
        RefuseSample: The location is empty, escapes the folder (symbolic links included), or is remote and may not be.
    """
    if not location or "\0" in location:
        raise RefuseSample("bad-media-path", f"media path {shown(location)} is empty or holds a NUL byte")
    if not is_remote(location) and not is_remote(media_dir):
        return _resolve_path(location, media_dir, allow_outside_media=allow_outside_media)
    url = location if is_on_the_web(location) else _resolve_url(location, media_dir)
    if is_on_the_web(url) and not allow_remote_media:
        raise RefuseSample("remote-media", f"{shown(url)} is remote; pass --allow-remote-media to fetch such media")
    return url


def _resolve_path(location: str, media_dir: str, *, allow_outside_media: bool) -> str:
    path = os.path.join(media_dir, location)
    # Behind a link, only the file system knows what ".." means.
    path = os.path.realpath(path) if ".." in location else os.path.normpath(path)
    if allow_outside_media:
        return path
    folder = _real_folder(media_dir)
    real = os.path.join(_real_folder(os.path.dirname(path)), os.path.basename(path))
    if os.path.islink(real):
        real = os.path.realpath(real)
    if real != folder and not real.startswith(folder.rstrip(os.sep) + os.sep):
        raise RefuseSample(
            "outside-media",
            f"{shown(location)} lies outside the media folder {media_dir}; pass --allow-outside-media if that is meant",
        )
    return path


def _resolve_url(location: str, media_dir: str) -> str:
    url = location if is_remote(location) else f"{media_dir.rstrip('/')}/{location}"
    # "::" chains file systems in fsspec, each of which would open a place of its own.
    if not url.startswith(media_dir.rstrip("/") + "/") or ".." in url.split("/") or "::" in url:
        raise RefuseSample("outside-media", f"{shown(location)} lies outside the media folder {media_dir}")
    return url


@functools.lru_cache(maxsize=65_536)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)
