"""One conversation with its media: the form that every source is converted to and every family reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["Media", "MediaKind", "Message", "Part", "Sample", "Text", "ToolCall"]

MediaKind: TypeAlias = Literal["image", "video", "audio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A run of text inside a message."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """An image, clip or sound inside a message, by location, by content or by frames; exactly one of the three is set."""

    kind: MediaKind
    location: str | None = None
    """Absolute path or URL, already held against the media folder."""
    key: str | None = None
    """Of an image in an LMDB, whose path `location` is."""
    content: bytes | None = None
    """The encoded file itself, for media that came inside the row."""
    frames: tuple[Media, ...] | None = None
    """The images of a clip that is given as a list of images."""
    name: str | None = None
    """What messages call it, where it was read from a location before."""

    def __post_init__(self) -> None:
        given = [self.location, self.content, self.frames]
        assert sum(way is not None for way in given) == 1, "a medium has a location, a content or frames"
        assert self.key is None or self.location is not None, "a key is of a database"

    @property
    def where(self) -> str:
        """What messages call it."""
        if self.frames is not None:
            return f"the clip of {len(self.frames)} images"
        return self.name or self.place or f"the {self.kind} inside the row"

    @property
    def place(self) -> str | None:
        """Location and key as rows spell them; None without a location."""
        return self.location if self.key is None else f"{self.location}::{self.key}"


Part: TypeAlias = Text | Media


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A function that an assistant asks to be called."""

    name: str
    arguments: Mapping[str, Any]
    """A JSON object."""
    call_id: str | None = None
    """By which the tool's reply names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn."""

    role: str
    """As the chat template knows it: system, user, assistant, tool."""
    parts: tuple[Part, ...]
    learn: bool = True
    """False: an assistant turn that opted out of the loss. Other roles are never learned."""
    reasoning: str | None = None
    """What an assistant thought before it spoke, where the row gives it apart from the content."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What an assistant calls, behind what it says."""
    name: str | None = None
    """Who speaks: a tool's name, or one of several users."""
    call_id: str | None = None
    """The call that a tool replies to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row of a source as a conversation."""

    source: str
    row: int
    """0-based row number in the source."""
    sample_id: str
    messages: tuple[Message, ...] = field(repr=False)
    tools: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """Definitions of the functions that may be called, each a JSON schema as chat templates take them."""
    kept: str | None = field(default=None, repr=False)
    """Columns of the row that were asked to be kept, as a JSON object."""

    def media(self, kind: MediaKind | None = None) -> list[Media]:
        """All media in the order the conversation names them, of one kind or of all."""
        return [
            part
            for message in self.messages
            for part in message.parts
            if isinstance(part, Media) and (kind is None or part.kind == kind)
        ]
