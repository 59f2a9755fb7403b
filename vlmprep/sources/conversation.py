"""From a row as people spell it (ShareGPT, OpenAI, a meta file's own words) to a Sample."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmprep.schema.conversation import Media, MediaKind, Message, Part, Sample, Text
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.media import resolve_location
from vlmprep.sources.spec import SourceSpec

__all__ = ["RowReader"]

MESSAGE_COLUMNS = ("messages", "conversations")
MEDIA_COLUMNS: dict[MediaKind, tuple[str, ...]] = {
    "image": ("images", "image"),
    "video": ("videos", "video"),
    "audio": ("audios", "audio"),
}
TAG = re.compile(r"<(image|video|audio)>")
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}
ID_COLUMNS = ("id", "sample_id", "uid")
OPT_OUT = ("learn", "loss", "train", "weight")
"""Per-message switches of the loss: false or 0 leaves an assistant turn out."""
TEMPLATE_EXTRAS = ("tool_calls", "function_call", "reasoning_content", "thinking")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """Converts the rows of one source."""

    spec: SourceSpec
    allow_outside_media: bool = False
    allow_remote_media: bool = False

    def sample(self, row: int, data: bytes) -> Sample:
        """Parse and convert one row.

        Args:
            row: 0-based row number.
            data: The row's bytes: one JSON object.

        Raises:
            RefuseSample: The row is no JSON object, is not UTF-8, or does not make a conversation.
        """
        record = parse_record(row, data)
        own_id = sample_id(record, row)
        try:
            messages = self._converted(record)
        except RefuseSample as refusal:
            refusal.sample_id = own_id
            raise
        return Sample(source=self.spec.name, row=row, sample_id=own_id, messages=messages)

    def _converted(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        media = {kind: self._media_column(record, kind) for kind in MEDIA_COLUMNS}
        messages = tuple(self._message(at, value, media) for at, value in enumerate(self._messages(record)))
        for kind, left in media.items():
            if left:
                tags = sum(part.kind == kind for m in messages for part in m.parts if isinstance(part, Media))
                raise RefuseSample(
                    "tag-mismatch", f"{tags} <{kind}> tags, {tags + len(left)} {kind}s: each needs the other"
                )
        return messages

    def _messages(self, record: Mapping[str, Any]) -> list[Any]:
        wanted = (self.spec.columns["messages"],) if "messages" in self.spec.columns else MESSAGE_COLUMNS
        column = next((name for name in wanted if name in record), None)
        if column is None:
            raise RefuseSample(
                "missing-column",
                f"no column {' or '.join(map(repr, wanted))}; the row has {', '.join(map(repr, record))}",
            )
        messages = record[column]
        if not isinstance(messages, list) or not messages:
            raise RefuseSample("no-messages", f"{column!r} is {_kind(messages)}, expected a list of messages")
        return messages

    def _media_column(self, record: Mapping[str, Any], kind: MediaKind) -> list[Any]:
        own = self.spec.columns.get(f"{kind}s")
        column = own or next((name for name in MEDIA_COLUMNS[kind] if record.get(name)), None)
        value = record.get(column) if column else None
        if value is None:
            return []
        return list(value) if isinstance(value, list) else [value]

    def _message(self, at: int, value: Any, media: dict[MediaKind, list[Any]]) -> Message:
        if not isinstance(value, dict):
            raise RefuseSample("bad-message", f"message {at} is {_kind(value)}, expected an object")
        tags = self.spec.tags
        role_key = tags.get("role_tag") or ("role" if "role" in value else "from")
        content_key = tags.get("content_tag") or ("content" if "content" in value else "value")
        if role_key not in value:
            raise RefuseSample(
                "missing-role", f"message {at} has no {role_key!r}; it has {', '.join(map(repr, value))}"
            )
        role = self._role(at, value[role_key])
        if extra := [name for name in TEMPLATE_EXTRAS if value.get(name)]:
            raise RefuseSample(
                "unsupported-message",
                f"message {at} has {extra[0]!r}, whose tokens cannot be labelled; fold it into the content",
            )
        parts = self._parts(at, value.get(content_key), media)
        return Message(role=role, parts=parts, learn=_learn(at, value))

    def _role(self, at: int, role: Any) -> str:
        own = {
            self.spec.tags[f"{name}_tag"]: name
            for name in ("user", "assistant", "system")
            if f"{name}_tag" in self.spec.tags
        }
        known = own.get(role) or ROLES.get(role) if isinstance(role, str) else None
        if known is None:
            raise RefuseSample(
                "unknown-role", f"message {at} has the role {role!r}; known are {', '.join([*own, *ROLES])}"
            )
        return known

    def _parts(self, at: int, content: Any, media: dict[MediaKind, list[Any]]) -> tuple[Part, ...]:
        if isinstance(content, str):
            return tuple(self._tagged_text(content, media))
        if not isinstance(content, list):
            raise RefuseSample(
                "bad-message", f"the content of message {at} is {_kind(content)}, expected text or parts"
            )
        parts: list[Part] = []
        for piece in content:
            parts.extend(self._content_part(at, piece, media))
        return tuple(parts)

    def _tagged_text(self, text: str, media: dict[MediaKind, list[Any]]) -> list[Part]:
        """Split `text` at its media tags, which take the media of the row's columns in order."""
        parts: list[Part] = []
        end = 0
        for match in TAG.finditer(text):
            kind: MediaKind = match[1]  # type: ignore[assignment]  # the pattern names just the kinds
            if not media[kind]:
                raise RefuseSample("tag-mismatch", f"more <{kind}> tags than {kind}s: each needs the other")
            if match.start() > end:
                parts.append(Text(text=text[end : match.start()]))
            parts.append(self._medium(kind, media[kind].pop(0)))
            end = match.end()
        if end < len(text):
            parts.append(Text(text=text[end:]))
        return parts

    def _content_part(self, at: int, piece: Any, media: dict[MediaKind, list[Any]]) -> list[Part]:
        kind = piece.get("type") if isinstance(piece, dict) else None
        if kind == "text" and isinstance(piece.get("text"), str):
            return [Text(text=piece["text"])] if piece["text"] else []
        if kind in ("image_url", "video_url", "audio_url"):
            value = piece.get(kind)
            return [self._medium(kind.removesuffix("_url"), value.get("url") if isinstance(value, dict) else value)]
        if kind in MEDIA_COLUMNS:
            value = next((piece[key] for key in (kind, "path", "url") if piece.get(key)), None)
            if value is None:
                if not media[kind]:
                    raise RefuseSample("tag-mismatch", f"message {at} has more {kind} parts than the row has {kind}s")
                value = media[kind].pop(0)
            return [self._medium(kind, value)]
        raise RefuseSample("bad-message", f"message {at} has a content part {_kind(piece)} of type {kind!r}")

    def _medium(self, kind: MediaKind, value: Any) -> Media:
        if not isinstance(value, str):
            raise RefuseSample("bad-media-path", f"{kind} is {_kind(value)}, expected a path or URL")
        if value.startswith("data:"):
            return Media(kind=kind, content=_data_uri(value))
        location = resolve_location(
            value.removeprefix("file://"),
            self.spec.media_dir,
            allow_outside_media=self.allow_outside_media,
            allow_remote_media=self.allow_remote_media,
        )
        return Media(kind=kind, location=location)


def parse_record(row: int, data: bytes) -> dict[str, Any]:
    """Parse one row's JSON object.

    Raises:
        RefuseSample: Not UTF-8, not JSON, or not an object; the message names the line.
    """
    try:
        record = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise RefuseSample("not-utf8", f"line {row + 1} is not UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise RefuseSample("not-json", f"line {row + 1} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise RefuseSample("not-an-object", f"line {row + 1} is {_kind(record)}, expected a JSON object")
    return record


def sample_id(record: Mapping[str, Any], row: int) -> str:
    """The row's own id, or its number."""
    own = next((record[name] for name in ID_COLUMNS if isinstance(record.get(name), (str, int))), None)
    return str(row) if own is None else str(own)


def _learn(at: int, value: Mapping[str, Any]) -> bool:
    for name in OPT_OUT:
        if name in value and value[name] is not None:
            if value[name] not in (0, 1):
                raise RefuseSample("bad-message", f"message {at} has {name} {value[name]!r}, expected true or false")
            return bool(value[name])
    return True


def _data_uri(value: str) -> bytes:
    head, _, body = value.partition(",")
    if not head.endswith(";base64"):
        raise RefuseSample("bad-media-path", f"data URI {head[:60]!r} is not base64")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise RefuseSample("bad-media-path", f"data URI does not decode: {error}") from None


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "dict": "an object", "list": "a list", "str": "text", "int": "a number"}
    name = type(value).__name__
    return "an empty list" if value == [] else names.get(name, name)
