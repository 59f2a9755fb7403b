"""Media as rows mention them: paths and URLs, data URIs, encoded sounds, clips as lists of images."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmprep.mediafiles.lmdb_values import data_file, split_key
from vlmprep.schema.conversation import Media, MediaKind
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.columns import MEDIA_COLUMNS, MediaColumn
from vlmprep.sources.locations import resolve_location
from vlmprep.sources.wording import clipped, kind_of, shown

__all__ = ["MediaMentions", "inside"]

URL_PARTS: dict[str, MediaKind] = {"image_url": "image", "video_url": "video", "audio_url": "audio"}
MAX_INLINE_BYTES = 256 << 20
"""Of a medium in base64; checked before it is decoded."""
PROCESSING = frozenset(
    {
        "fps",
        "max_frames",
        "max_pixels",
        "min_frames",
        "min_pixels",
        "nframes",
        "num_frames",
        "resized_height",
        "resized_width",
        "sample_fps",
        "total_pixels",
        "video_end",
        "video_start",
    }
)
"""What some tools read beside a medium: how to sample or resize it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaMentions:
    """Finds the media that the rows of one source mention."""

    media_dir: str
    """Absolute folder that relative paths start at and may not leave."""
    allow_outside_media: bool = False
    allow_remote_media: bool = False

    def in_part(self, piece: Mapping[str, Any], columns: Mapping[MediaKind, MediaColumn]) -> Media | None:
        """The medium of a content part; one that names nothing takes from the row's column.

            {"type": "image" | "video" | "audio", [that type | "path" | "url"]: value}    "frames" too for a video
            {"type": "image_url" | "video_url" | "audio_url", [that type]: value or {"url": value}}
            {"type": "input_audio", "input_audio": {"data": base64, "format": "wav"}}

        Args:
            piece: The part.
            columns: The row's columns of media.

        Returns:
            None where the part is of another type.

        Raises:
            RefuseSample: The medium cannot be used, or the part wants it processed in a way of its own.
        """
        type_ = piece.get("type")
        if not isinstance(type_, str) or type_ not in {*MEDIA_COLUMNS, *URL_PARTS, "input_audio"}:
            return None
        value = piece.get(type_)
        if wanted := sorted(PROCESSING & {*piece, *(value if isinstance(value, dict) else ())}):
            raise RefuseSample(
                "unsupported-media-option",
                f"a part of type {type_} has {wanted[0]!r}; media are sampled and resized by the processor's settings alone: "
                "set it there, and leave it out of the row",
            )
        if type_ == "input_audio":
            return encoded_sound(value)
        if type_ in URL_PARTS:
            return self.medium(URL_PARTS[type_], value.get("url") if isinstance(value, dict) else value)
        kind = next(kind for kind in MEDIA_COLUMNS if kind == type_)
        keys = (kind, "path", "url", *(("frames",) if kind == "video" else ()))
        value = next((piece[key] for key in keys if piece.get(key)), None)
        return self.medium(kind, columns[kind].take() if value is None else value)

    def medium(self, kind: MediaKind, value: Any) -> Media:
        """A medium from what a row says of it: a path, a URL, a data URI, bytes, {"bytes", "path"}; for a clip a list of these.

        An image may be a value of an LMDB: `FOLDER::KEY`.

        Raises:
            RefuseSample: It is something else, or lies where it may not.
        """
        if kind == "video" and isinstance(value, list):
            if not value:
                raise RefuseSample("no-frames", "a video is an empty list of images")
            return Media(kind=kind, frames=tuple(self.medium("image", frame) for frame in value))
        if isinstance(value, dict):
            value = inside(value)
        if isinstance(value, bytes):
            return Media(kind=kind, content=value)
        if not isinstance(value, str):
            raise RefuseSample("bad-media-path", f"{kind} is {kind_of(value)}, expected a path, a URL or bytes")
        if value.startswith("data:"):
            return Media(kind=kind, content=data_uri(value))
        value = value.removeprefix("file://")
        path, key = split_key(value, self.media_dir) if kind == "image" else (value, None)
        return Media(kind=kind, location=self._held(path) if key is None else self._held_database(path, key), key=key)

    def _held(self, location: str) -> str:
        """A location, held against the media folder."""
        return resolve_location(
            location,
            self.media_dir,
            allow_outside_media=self.allow_outside_media,
            allow_remote_media=self.allow_remote_media,
        )

    def _held_database(self, path: str, key: str) -> str:
        """An LMDB, held against the media folder: the file in it too, which may be a link."""
        if not path or not key:
            raise RefuseSample("bad-media-path", f"{shown(f'{path}::{key}')} names no LMDB, or no key in it")
        location = self._held(path)
        self._held(data_file(location))
        return location


def inside(value: Mapping[str, Any]) -> Any:
    """The bytes of a medium that a table keeps as {"bytes", "path"}, or its path where it has no bytes."""
    content = value.get("bytes")
    return content if isinstance(content, bytes) else value.get("path") or value.get("url") or dict(value)


def encoded_sound(value: Any) -> Media:
    """A sound that came inside the row; its bytes say what format it is.

    Raises:
        RefuseSample: There is none, or it is not base64.
    """
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, str) or not data:
        raise RefuseSample("bad-media-path", "input_audio has no 'data', expected a sound in base64")
    return Media(kind="audio", content=data_uri(data) if data.startswith("data:") else from_base64(data, "input_audio"))


def data_uri(value: str) -> bytes:
    """The content of a base64 data URI.

    Raises:
        RefuseSample: It is another encoding, or broken.
    """
    head, _, body = value.partition(",")
    if not head.endswith(";base64"):
        raise RefuseSample("bad-media-path", f"data URI {clipped(head)!r} is not base64")
    return from_base64(body, "data URI")


def from_base64(body: str, what: str) -> bytes:
    """The bytes that base64 spells.

    Raises:
        RefuseSample: It is broken, or larger than a medium inside a row may be.
    """
    if len(body) // 4 * 3 > MAX_INLINE_BYTES:
        raise RefuseSample(
            "media-too-large",
            f"{what} has {len(body)} characters, a medium of more than {MAX_INLINE_BYTES >> 20} MiB: give it as a file",
        )
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise RefuseSample("bad-media-path", f"{what} does not decode: {error}") from None
