"""An example's conversation: its texts, its media, and what the chat template sees of them.

example = {"conversation": [{"role": "user", "content": [{"type": "image", "image": PIL.Image or path},
                                                         {"type": "text", "text": "..."}]},
                            {"role": "assistant", "content": "..."}]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from vlmprep.schema.conversation import Media, MediaKind, Message, Part, Sample, Text
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.messages import SWITCHES, WORDS_OF_ASSISTANTS, is_learned, own_text, thought_of
from vlmprep.sources.tools import calls_of_message
from vlmprep.sources.wording import shown

__all__ = [
    "Conversation",
    "Medium",
    "assistant_text",
    "count_media",
    "extract_media",
    "for_template",
    "media_of",
    "medium_in",
    "sample_of",
    "unread_keys",
]

Conversation: TypeAlias = Sequence[Mapping[str, Any]]
"""Messages, each with a role and a content: a text, or a list of items."""
ToMedia: TypeAlias = Callable[[MediaKind, Mapping[str, Any]], Media]

KINDS: tuple[MediaKind, ...] = get_args(MediaKind)
VALUE_KEYS = {kind: (kind, f"{kind}_url", "url", "path", "base64") for kind in KINDS}
"""Where an item may hold its medium, first come, first served."""
UNREAD_OPTIONS = {
    "nframes",
    "min_frames",
    "max_frames",
    "video_start",
    "video_end",
    "resized_height",
    "resized_width",
} | {
    "min_pixels",
    "max_pixels",
    "total_pixels",
}
"""Switches of single items that other loaders know; the processor's own settings hold for all items here."""
READ_KEYS = {"role", "content", "name", "tool_call_id", *SWITCHES, *WORDS_OF_ASSISTANTS}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Medium:
    """One image, clip or sound of a conversation."""

    kind: MediaKind
    value: Any
    """As the example holds it: PIL image, path, frames, array."""
    item: Mapping[str, Any]
    """The item of the message that holds it."""


def media_of(conversation: Conversation) -> list[Medium]:
    """All media of a conversation, in order.

    Raises:
        RefuseSample: An item of a medium's type holds none, or asks for settings of its own.
    """
    return [
        medium_in(kind, item)
        for message in conversation
        for item in items_of(message)
        if (kind := kind_of(item)) is not None
    ]


def items_of(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The items of a message's content; a text of its own is one."""
    content = message.get("content")
    if isinstance(content, str):
        yield {"type": "text", "text": content}
        return
    for item in content or ():
        yield {"type": "text", "text": item} if isinstance(item, str) else item


def kind_of(item: Mapping[str, Any]) -> MediaKind | None:
    """The kind of medium that an item is, by its type or, where it has none, by its key; None for text."""
    name = str(item.get("type") or "").removesuffix("_url")
    found = [kind for kind in KINDS if kind == name] or [
        kind for kind in KINDS if not name and item.get(kind) is not None
    ]
    return found[0] if found else None


def medium_in(kind: MediaKind, item: Mapping[str, Any]) -> Medium:
    """The medium of an item.

    Raises:
        RefuseSample: It holds none, or asks for settings of its own.
    """
    value = next((item[key] for key in VALUE_KEYS[kind] if item.get(key) is not None), None)
    if value is None:
        raise RefuseSample("missing-media", f"an item of type {kind} holds none: its keys are {', '.join(item)}")
    if isinstance(value, Mapping) and "url" in value:
        value = value["url"]
    if unread := sorted(name for name in UNREAD_OPTIONS if item.get(name) is not None):
        raise RefuseSample(
            "media-options",
            f"{unread[0]} of a single {kind} is not read; set it on the processor, where it holds for all",
        )
    return Medium(kind=kind, value=value, item=item)


def extract_media(conversations: Sequence[Conversation]) -> tuple[list[Any] | None, list[Any] | None]:
    """All images and all videos of several conversations, as they stand there.

    Returns:
        (images or None, videos or None).
    """
    media = [medium for conversation in conversations for medium in media_of(conversation)]
    images, videos = ([medium.value for medium in media if medium.kind == kind] for kind in ("image", "video"))
    return images or None, videos or None


def count_media(conversations: Sequence[Conversation]) -> tuple[list[int], list[int]]:
    """How many images and how many videos each conversation has."""
    kinds = [
        [kind_of(item) for message in conversation for item in items_of(message)] for conversation in conversations
    ]
    return [found.count("image") for found in kinds], [found.count("video") for found in kinds]


def assistant_text(message: Mapping[str, Any]) -> str:
    """What a message says: its content, or all texts of its items on end."""
    return "".join(text_of(item) for item in items_of(message) if kind_of(item) is None)


def text_of(item: Mapping[str, Any]) -> str:
    """The text of an item.

    Raises:
        RefuseSample: It is an item of another type.
    """
    text = item.get("text")
    if item.get("type", "text") != "text" or not isinstance(text, str):
        raise RefuseSample(
            "bad-message", f"an item of a message is {shown(dict(item))}, which is no text and no medium"
        )
    return text


def for_template(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation as chat templates read it: media as bare types, everything else as it stands."""
    return [
        message
        if isinstance(message.get("content"), str) or message.get("content") is None
        else {**message, "content": [_bare(item) for item in items_of(message)]}
        for message in map(dict, conversation)
    ]


def _bare(item: Mapping[str, Any]) -> dict[str, Any]:
    kind = kind_of(item)
    return {"type": "text", "text": text_of(item)} if kind is None else {"type": kind}


def place_of(kind: MediaKind, _: Mapping[str, Any]) -> Media:
    """A medium that is a place in the conversation, and no file."""
    return Media(kind=kind, content=b"")


def sample_of(conversation: Conversation, row: int, to_media: ToMedia = place_of) -> Sample:
    """A conversation as vlmprep's families read it.

    Args:
        conversation: The messages, with thoughts, calls and switches of the loss as in vlmprep's sources.
        row: Its place in the batch.
        to_media: What an item of a medium's kind becomes.

    Raises:
        RefuseSample: A message holds something that is none of these.
    """
    messages = tuple(_message(at, message, to_media) for at, message in enumerate(conversation))
    return Sample(source="batch", row=row, sample_id=str(row), messages=messages)


def _message(at: int, message: Mapping[str, Any], to_media: ToMedia) -> Message:
    role = str(message.get("role"))
    return Message(
        role=role,
        parts=tuple(_part(item, to_media) for item in items_of(message)),
        learn=is_learned(at, role, message),
        reasoning=thought_of(at, message),
        tool_calls=calls_of_message(at, message),
        name=own_text(at, message, "name"),
        call_id=own_text(at, message, "tool_call_id"),
    )


def _part(item: Mapping[str, Any], to_media: ToMedia) -> Part:
    kind = kind_of(item)
    return Text(text=text_of(item)) if kind is None else to_media(kind, item)


def unread_keys(message: Mapping[str, Any]) -> set[str]:
    """What a message holds beside what `sample_of` reads."""
    return {name for name, value in message.items() if value is not None} - READ_KEYS
