"""Media as examples give them: a path or URL, a value of an LMDB, encoded bytes; a clip also as a list of images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vlmprep.mediafiles.lmdb_values import split_key
from vlmprep.mediafiles.opening import is_on_the_web, is_remote
from vlmprep.schema.conversation import Media, MediaKind
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.mentions import MediaMentions, inside
from vlmprep.sources.wording import clipped, shown

__all__ = ["given_medium", "is_encoded"]

MENTIONS = MediaMentions(media_dir="")


def is_encoded(value: Any) -> bool:
    """Whether a value says where an encoded medium lies, or is one; not decoded images, frames or samples of sound."""
    return isinstance(value, str | bytes | os.PathLike) or (isinstance(value, Mapping) and value.get("array") is None)


def given_medium(kind: MediaKind, value: Any, *, from_web: bool = True) -> Media:
    """A medium that is still encoded.

    Args:
        kind: Of the medium.
        value: A path, `FOLDER.lmdb::KEY`, a URL, a base64 data URI, the file's bytes, `{"bytes", "path"}`; for a clip also a
            list of these. Paths may lie anywhere.
        from_web: Whether it may be fetched from a server.

    Raises:
        RefuseSample: It is none of these.
    """
    if kind == "video" and isinstance(value, list | tuple) and value:
        frames = tuple(given_medium("image", frame, from_web=from_web) for frame in value)
        return Media(kind=kind, frames=frames)
    value = inside(value) if isinstance(value, Mapping) else value
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str | bytes):
        raise RefuseSample("bad-media-path", f"{kind} is {type(value).__name__}, expected a path, a URL or bytes")
    if isinstance(value, bytes) or value.startswith("data:"):
        return MENTIONS.medium(kind, value)
    if is_on_the_web(value) and not from_web:
        raise RefuseSample("remote-media", f"{clipped(value)} is remote; download it first")
    return _at(kind, value.removeprefix("file://"))


def _at(kind: MediaKind, location: str) -> Media:
    """A medium by its location: paths as absolute ones, URLs as they are, images of an LMDB by path and key."""
    if not location or "\0" in location:
        raise RefuseSample("bad-media-path", f"media path {shown(location)} is empty or holds a NUL byte")
    path, key = split_key(location) if kind == "image" else (location, None)
    return Media(kind=kind, location=path if is_remote(path) else os.path.abspath(path), key=key)
