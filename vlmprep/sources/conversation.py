"""From a row as people spell it (ShareGPT, OpenAI, a meta file's own words) to a Sample."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from vlmprep.schema.conversation import MediaKind, Message, Part, Sample, Text
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.columns import MediaColumn, media_columns, message_column
from vlmprep.sources.mentions import MediaMentions
from vlmprep.sources.records import parse_record, sample_id
from vlmprep.sources.spec import SourceSpec
from vlmprep.sources.wording import kind_of, names, shown

__all__ = ["RowReader"]

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
OPT_OUT = ("learn", "loss", "train", "weight")
"""Per-message switches of the loss: false or 0 leaves an assistant turn out."""
TEMPLATE_EXTRAS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""What templates write beside a message's content."""

Columns = dict[MediaKind, MediaColumn]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """Converts the rows of one source."""

    spec: SourceSpec
    allow_outside_media: bool = False
    allow_remote_media: bool = False

    @property
    def _mentions(self) -> MediaMentions:
        return MediaMentions(
            media_dir=self.spec.media_dir,
            allow_outside_media=self.allow_outside_media,
            allow_remote_media=self.allow_remote_media,
        )

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
        for name in ("tools", "system"):
            if record.get(name):
                raise RefuseSample(
                    "unsupported-message",
                    f"the row has a column {name!r}, which vlmprep does not render; fold it into a system turn",
                )
        columns = media_columns(record, self.spec.columns)
        rows = message_column(record, self.spec.columns)
        messages = tuple(self._message(at, value, columns) for at, value in enumerate(rows))
        for column in columns.values():
            column.check_empty()
        return messages

    def _message(self, at: int, value: Any, columns: Columns) -> Message:
        if not isinstance(value, dict):
            raise RefuseSample("bad-message", f"message {at} is {kind_of(value)}, expected an object")
        tags = self.spec.tags
        role_key = tags.get("role_tag") or ("role" if "role" in value else "from")
        content_key = tags.get("content_tag") or ("content" if "content" in value else "value")
        if role_key not in value:
            raise RefuseSample("missing-role", f"message {at} has no {role_key!r}; it has {names(value)}")
        role = self._role(at, value[role_key])
        if extra := [name for name in TEMPLATE_EXTRAS if value.get(name)]:
            raise RefuseSample(
                "unsupported-message",
                f"message {at} has {extra[0]!r}, whose tokens cannot be labelled; fold it into the content",
            )
        if content_key not in value:
            raise RefuseSample("bad-message", f"message {at} has no {content_key!r}; it has {names(value)}")
        return Message(role=role, parts=self._parts(at, value[content_key], columns), learn=is_learned(at, value))

    def _role(self, at: int, role: Any) -> str:
        tags = self.spec.tags
        own = {tags[f"{name}_tag"]: name for name in ("user", "assistant", "system") if f"{name}_tag" in tags}
        known = own.get(role) or ROLES.get(role) if isinstance(role, str) else None
        if known is None:
            raise RefuseSample(
                "unknown-role", f"message {at} has the role {shown(role)}; known are {', '.join([*own, *ROLES])}"
            )
        return known

    def _parts(self, at: int, content: Any, columns: Columns) -> tuple[Part, ...]:
        if isinstance(content, str):
            return tuple(self._tagged_text(content, columns))
        if not isinstance(content, list):
            raise RefuseSample(
                "bad-message", f"the content of message {at} is {kind_of(content)}, expected text or parts"
            )
        return tuple(part for piece in content for part in self._content_part(at, piece, columns))

    def _tagged_text(self, text: str, columns: Columns) -> list[Part]:
        """Split `text` at its media tags, which take the media of the row's columns in order."""
        if "<" not in text:
            return [Text(text=text)] if text else []
        parts: list[Part] = []
        end = 0
        for match in TAG.finditer(text):
            if match.start() > end:
                parts.append(Text(text=text[end : match.start()]))
            kind = cast(MediaKind, match[1])  # the pattern names just the kinds
            parts.append(self._mentions.medium(kind, columns[kind].take()))
            end = match.end()
        if end < len(text):
            parts.append(Text(text=text[end:]))
        return parts

    def _content_part(self, at: int, piece: Any, columns: Columns) -> list[Part]:
        """One of OpenAI's content parts; a media part that names nothing takes from the row's column."""
        kind = piece.get("type") if isinstance(piece, dict) else None
        if kind == "text" and isinstance(piece.get("text"), str):
            return [Text(text=piece["text"])] if piece["text"] else []
        medium = self._mentions.in_part(piece, columns) if isinstance(piece, dict) else None
        if medium is not None:
            return [medium]
        raise RefuseSample(
            "bad-message", f"message {at} has the content part {shown(piece)}, which is none of a kind known"
        )


def is_learned(at: int, value: Mapping[str, Any]) -> bool:
    """Whether no switch of a message turns the loss off.

    Raises:
        RefuseSample: A switch is neither on nor off.
    """
    switches = {name: value[name] for name in OPT_OUT if value.get(name) is not None}
    for name, switch in switches.items():
        if switch not in (0, 1):
            raise RefuseSample("bad-message", f"message {at} has {name} {shown(switch)}, expected true or false")
    return all(switches.values())
