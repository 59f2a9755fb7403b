"""Sizes of the last clips that were looked at: who decodes a clip has just read its header, which may mean decoding it."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from typing import IO, TypeAlias

from vlmprep.schema.media import VideoSize

__all__ = ["recall", "remember"]

CLIPS_KEPT = 256
"""More than one sample has."""
Identity: TypeAlias = tuple[int, int, int, int]
"""Device, file, bytes, time of the last change."""

_sizes: OrderedDict[Identity, VideoSize] = OrderedDict()


def remember(file: IO[bytes], size: VideoSize) -> None:
    """Keep what was found out about an open file."""
    identity = identity_of(file)
    if identity is None:
        return
    _sizes[identity] = size
    if len(_sizes) > CLIPS_KEPT:
        _sizes.popitem(last=False)


def recall(file: IO[bytes]) -> VideoSize | None:
    """What was found out about an open file; None where it is another one or has changed."""
    identity = identity_of(file)
    return None if identity is None else _sizes.get(identity)


def identity_of(file: IO[bytes]) -> Identity | None:
    """None for what is no file of this machine."""
    try:
        found = os.fstat(file.fileno())
    except (OSError, AttributeError, io.UnsupportedOperation):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
