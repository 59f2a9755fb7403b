"""From a row as people spell it (ShareGPT, OpenAI, a meta file's own words) to a Sample."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from vlmprep.schema.conversation import MediaKind, Message, Part, Sample, Text
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.blobs import RowData
from vlmprep.sources.columns import MediaColumn, filled, media_columns, message_column
from vlmprep.sources.members import record_of_members
from vlmprep.sources.mentions import MediaMentions
from vlmprep.sources.messages import FUNCTION_CALL, is_learned, own_text, refuse_words_of_others, role_of, thought_of
from vlmprep.sources.named import messages_of
from vlmprep.sources.provenance import kept_text
from vlmprep.sources.records import ID_COLUMNS, parse_record, sample_id
from vlmprep.sources.spec import SourceSpec
from vlmprep.sources.tools import calls_of_message, calls_of_text, tools_of
from vlmprep.sources.wording import kind_of, names, shown

__all__ = ["RowReader"]

TAG = re.compile(r"<(image|video|audio)>")
Columns = dict[MediaKind, MediaColumn]


def own_ids(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a row is called, without its other columns."""
    return {name: record[name] for name in ID_COLUMNS if name in record}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReader:
    """Converts the rows of one source."""

    spec: SourceSpec
    allow_outside_media: bool = False
    allow_remote_media: bool = False
    keep: tuple[str, ...] = ()
    """Columns that samples keep as provenance."""

    @property
    def _mentions(self) -> MediaMentions:
        return MediaMentions(
            media_dir=self.spec.media_dir,
            allow_outside_media=self.allow_outside_media,
            allow_remote_media=self.allow_remote_media,
        )

    def sample(self, row: int, data: RowData) -> Sample:
        """Parse and convert one row.

        Args:
            row: 0-based row number.
            data: The row as its file gives it.

        Raises:
            RefuseSample: The row is no JSON object, is not UTF-8, cannot be given by its source, or does not make a conversation.
        """
        values = self.values(row, data)
        own_id, kept = sample_id(values, row), kept_text(values, self.keep)
        try:
            record = self._named(values)
            messages, tools = self.messages(record), tools_of(record, self.spec.columns)
        except RefuseSample as refusal:
            refusal.sample_id, refusal.kept = own_id, kept
            raise
        return Sample(source=self.spec.name, row=row, sample_id=own_id, messages=messages, tools=tools, kept=kept)

    def record(self, row: int, data: RowData) -> dict[str, Any]:
        """Parse a row; one of a named data set has the messages that its columns make.

        Raises:
            RefuseSample: It is no JSON object, is not UTF-8, cannot be given by its source, or is not as its data set has it.
        """
        return self._named(self.values(row, data))

    def values(self, row: int, data: RowData) -> dict[str, Any]:
        """Parse a row's own columns.

        Raises:
            RefuseSample: It is no JSON object, is not UTF-8, or cannot be given by its source.
        """
        if isinstance(data, bytes):
            return parse_record(row, data)
        values = data.values()
        return record_of_members(data.key, values, self.spec.columns) if data.kind == "members" else values

    def _named(self, values: dict[str, Any]) -> dict[str, Any]:
        if not self.spec.named:
            return values
        return {**own_ids(values), "messages": messages_of(self.spec.named, values)}

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        """The conversation of a row that is parsed already.

        Raises:
            RefuseSample: It makes none.
        """
        columns = media_columns(record, self.spec.columns)
        rows = message_column(record, self.spec.columns)
        messages = tuple([self._message(at, value, columns) for at, value in enumerate(rows)])
        for column in columns.values():
            column.check_empty()
        return self._with_system_column(record, messages)

    def _with_system_column(self, record: Mapping[str, Any], messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation behind the system turn that a column of its own gives, if one does."""
        column = self.spec.columns.get("system", "system")
        if not filled(record, (column,)):
            return messages
        text = record[column]
        if not isinstance(text, str):
            raise RefuseSample("bad-message", f"column {column!r} is {kind_of(text)}, expected text")
        if TAG.search(text):
            raise RefuseSample("tag-mismatch", f"column {column!r} holds a media tag; media belong into turns")
        system = Message(role="system", parts=(Text(text=text),))
        if messages[0].role != "system":
            return (system, *messages)
        if messages[0] != system:
            raise RefuseSample(
                "ambiguous-columns", f"column {column!r} and the first turn are two system turns: which is meant?"
            )
        return messages

    def _message(self, at: int, value: Any, columns: Columns) -> Message:
        if not isinstance(value, dict):
            raise RefuseSample("bad-message", f"message {at} is {kind_of(value)}, expected an object")
        tags = self.spec.tags
        role_key = tags.get("role_tag") or ("role" if "role" in value else "from")
        content_key = tags.get("content_tag") or ("content" if "content" in value else "value")
        if role_key not in value:
            raise RefuseSample("missing-role", f"message {at} has no {role_key!r}; it has {names(value)}")
        role = role_of(at, value[role_key], tags)
        content = value.get(content_key)
        if isinstance(content, str) and len(value) == 2 and role != FUNCTION_CALL:  # most messages are these two alone
            return Message(role=role, parts=self._parts(at, content, columns))
        refuse_words_of_others(at, role, value)
        words: dict[str, Any] = {
            "name": own_text(at, value, "name"),
            "call_id": own_text(at, value, "tool_call_id"),
            "learn": is_learned(at, role, value),
            "reasoning": thought_of(at, value),
        }
        if role == FUNCTION_CALL:
            return Message(role="assistant", parts=(), tool_calls=calls_of_text(at, content), **words)
        calls = calls_of_message(at, value)
        if content is None and calls:
            return Message(role=role, parts=(), tool_calls=calls, **words)
        if content_key not in value:
            raise RefuseSample("bad-message", f"message {at} has no {content_key!r}; it has {names(value)}")
        return Message(role=role, parts=self._parts(at, content, columns), tool_calls=calls, **words)

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
