"""Which of a row's columns hold its messages and its media."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlmprep.schema.conversation import MediaKind
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.records import decoded_object
from vlmprep.sources.wording import kind_of, names, shown

__all__ = ["MEDIA_COLUMNS", "MediaColumn", "media_columns", "message_column"]

MESSAGE_COLUMNS = ("messages", "conversations")
MEDIA_COLUMNS: dict[MediaKind, tuple[str, ...]] = {
    "image": ("images", "image"),
    "video": ("videos", "video"),
    "audio": ("audios", "audio"),
}
IMAGE_NAME = re.compile(r"\.(jpe?g|png|webp|bmp)$|\.lmdb::.", re.IGNORECASE)
"""A column called `video` that lists nothing else is one clip."""


class MediaColumn:
    """The media of one kind that a row lists, handed out in order to the tags that ask for them.

    Args:
        kind: Kind of the media.
        record: The row.
        wanted: Names of columns, of which the first that holds anything counts.
    """

    __slots__ = ("_kind", "_left", "_record", "_taken", "_wanted")

    def __init__(self, kind: MediaKind, record: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
        name = next(iter(filled(record, wanted)), None)
        value: Any = [] if name is None else record[name]
        if name == "video" and is_images(value):
            value = [value]
        self._kind, self._record, self._wanted = kind, record, wanted
        self._left = list(reversed(value)) if isinstance(value, list) else [value]
        self._taken = 0

    def take(self) -> Any:
        """The next medium.

        Raises:
            RefuseSample: There is none left.
        """
        if not self._left:
            raise RefuseSample(
                "tag-mismatch",
                f"more <{self._kind}> tags than the {self._taken} {self._kind}s in {self._place()}: each needs the other",
            )
        self._taken += 1
        return self._left.pop()

    def check_empty(self) -> None:
        """Raises RefuseSample where a medium was not asked for."""
        if self._left:
            total = self._taken + len(self._left)
            raise RefuseSample(
                "tag-mismatch",
                f"{self._taken} <{self._kind}> tags, {total} {self._kind}s in {self._place()}: each needs the other",
            )

    def _place(self) -> str:
        found = next((name for name in self._wanted if name in self._record), None)
        if found is not None:
            return f"column {found!r}"
        return f"the row, which has no column {' or '.join(map(repr, self._wanted))} but {names(self._record)}"


def is_images(value: Any) -> bool:
    """Whether a list is one clip, given by its images, rather than several clips."""
    return isinstance(value, list) and all(isinstance(name, str) and IMAGE_NAME.search(name) for name in value)


def filled(record: Mapping[str, Any], wanted: tuple[str, ...]) -> list[str]:
    """Which of some columns of one meaning hold anything.

    Raises:
        RefuseSample: Several do, and not the same: one of them would be left out.
    """
    found = [name for name in wanted if record.get(name)]
    if len(found) > 1 and any(record[name] != record[found[0]] for name in found[1:]):
        raise RefuseSample(
            "ambiguous-columns",
            f"the row fills {' and '.join(map(repr, found))} with different things: which is meant?",
        )
    return found


def media_columns(record: Mapping[str, Any], own: Mapping[str, str]) -> dict[MediaKind, MediaColumn]:
    """A row's media by kind.

    Args:
        record: The row.
        own: The source's own column names: images, videos, audios -> name.
    """
    return {
        kind: MediaColumn(kind, record, (own[f"{kind}s"],) if f"{kind}s" in own else usual)
        for kind, usual in MEDIA_COLUMNS.items()
    }


def message_column(record: Mapping[str, Any], own: Mapping[str, str]) -> list[Any]:
    """A row's messages, unconverted.

    Args:
        record: The row.
        own: The source's own column names: messages -> name.

    Raises:
        RefuseSample: There is no such column, or it does not hold a list of messages, as such or as JSON.
    """
    if "prompt" in own:
        return instructed(record, own)
    wanted = (own["messages"],) if "messages" in own else MESSAGE_COLUMNS
    present = [name for name in wanted if name in record]
    if not present:
        raise RefuseSample(
            "missing-column",
            f"no column {' or '.join(map(repr, wanted))}; the row has {names(record)}; a meta JSON can name its columns",
        )
    column = next(iter(filled(record, wanted)), present[0])
    messages = record[column]
    if isinstance(messages, str) and messages.lstrip().startswith("["):  # JSON in a cell, as tables keep it
        messages = decoded_object(f"column {column!r}", messages.encode(), or_list=True)
    if not isinstance(messages, list) or not messages:
        raise RefuseSample("no-messages", f"{column!r} is {kind_of(messages)}, expected a list of messages")
    return messages


def instructed(record: Mapping[str, Any], own: Mapping[str, str]) -> list[Any]:
    """The messages of a row in Alpaca's form: an instruction, an input behind it, earlier turns, an answer.

    Args:
        record: The row.
        own: The source's own column names: prompt, response, and if it has them query, history.

    Raises:
        RefuseSample: A column is not there, or does not hold text.
    """
    turns: list[tuple[Any, Any]] = []
    for turn in _column(record, own.get("history"), list):
        if not (isinstance(turn, list) and len(turn) == 2):
            raise RefuseSample("bad-message", f"{own['history']!r} has {shown(turn)}, expected [instruction, answer]")
        turns.append((turn[0], turn[1]))
    asked = [text for name in ("prompt", "query") if (text := _column(record, own.get(name), str))]
    turns.append(("\n".join(asked), _column(record, own.get("response", "response"), str)))
    return [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]


def _column(record: Mapping[str, Any], name: str | None, kind: type) -> Any:
    """What a column of Alpaca's form holds; empty where the source has none such or the row fills none."""
    if name is None:
        return kind()
    if name not in record:
        raise RefuseSample("missing-column", f"no column {name!r}; the row has {names(record)}")
    value = record[name]
    if value is not None and not isinstance(value, kind):
        raise RefuseSample("bad-message", f"column {name!r} is {kind_of(value)}")
    return value or kind()
