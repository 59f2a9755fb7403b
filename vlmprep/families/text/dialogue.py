r"""A conversation as chat templates take it, and the texts in it that a template is expected to write.

A text that holds a thought, `<think>R</think>A`, counts as two: many templates take the thought out, move it or leave it out.
Its tags are then the text's own words, which stand between the two.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlmprep.schema.conversation import Media, Message, Part, Sample, Text, ToolCall

__all__ = [
    "Dialogue",
    "Shape",
    "Slot",
    "conversation_of",
    "media_gaps",
    "remember",
    "shape_of",
    "slots_of",
    "with_texts",
]

THOUGHT = re.compile(r"(<think>)?(.*?)</think>(.*)", re.DOTALL)
"""A thought and an answer in one text; models whose prompt ends with `<think>` leave the opening tag out."""
SHAPES_KEPT = 4_096
"""Shapes of conversation of which something is remembered."""


Shape = tuple[tuple[str, str | None, bool, tuple[str, ...]], ...]
"""Of each message its role, its name, whether it thinks, and its parts; see `shape_of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """What a chat template is given."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, sample: Sample) -> Dialogue:
        """A sample's."""
        return cls(messages=sample.messages, tools=sample.tools)

    @property
    def has_calls(self) -> bool:
        """Some message calls a tool."""
        return any(message.tool_calls for message in self.messages)

    @property
    def is_plain(self) -> bool:
        """Nothing but texts and media in turns: its layout depends on its shape alone."""
        return not self.tools and not any(message.tool_calls or message.call_id for message in self.messages)

    def without_blanks(self) -> Dialogue:
        """The same without thoughts, and texts beside calls, that are nothing but white space.

        A thought in the content of a message that says nothing else and calls is given apart.
        """
        return dataclasses.replace(self, messages=tuple(map(without_blanks, self.messages)))


class Slot(NamedTuple):
    """One text of a conversation."""

    message: int
    """0-based number of its message."""
    text: str
    is_reasoning: bool = False
    """The assistant's thought, which templates may leave out of earlier turns."""


def slots_of(messages: tuple[Message, ...]) -> list[Slot]:
    """The texts of a conversation, in order: the thought of a message before its content."""
    slots: list[Slot] = []
    for at, message in enumerate(messages):
        if message.reasoning is not None:
            slots.append(Slot(at, message.reasoning, is_reasoning=True))
        may_think = message.role == "assistant"
        for part in message.parts:
            if isinstance(part, Text):
                texts = pieces_of(part.text, may_think)[1]
                may_think = False
                slots += [Slot(at, text, is_reasoning=True) for text in texts[:-1]]
                slots.append(Slot(at, texts[-1]))
    return slots


def without_blanks(message: Message) -> Message:
    """See `Dialogue.without_blanks`."""
    if message.role != "assistant":
        return message
    reasoning = message.reasoning if message.reasoning and message.reasoning.strip() else None
    parts: list[Part] = []
    for part, may_think in own_parts(message):
        if isinstance(part, Media):
            parts.append(part)
            continue
        texts = pieces_of(part.text, may_think)[1]
        said = part.text
        if len(texts) > 1 and not texts[0].strip():
            said = texts[-1].lstrip()
        elif len(texts) > 1 and message.tool_calls and not texts[-1].strip() and reasoning is None:
            reasoning, said = texts[0].strip("\n"), ""
        if said.strip() or not message.tool_calls:
            parts.append(Text(text=said))
    return dataclasses.replace(message, parts=tuple(parts), reasoning=reasoning)


def media_gaps(message: Message) -> list[bool]:
    """Whether a medium stands before each of a message's texts, and behind the last."""
    gaps = [] if message.reasoning is None else [False]
    medium = False
    for part, may_think in own_parts(message):
        if isinstance(part, Text):
            gaps += [medium] + [False] * (len(pieces_of(part.text, may_think)[1]) - 1)
        medium = isinstance(part, Media)
    return [*gaps, medium]


def pieces_of(text: str, may_think: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A text as fixed words and texts in turn: equally many, the fixed ones first."""
    if may_think and "</think>" in text and (found := THOUGHT.fullmatch(text)):
        return (found[1] or "", "</think>"), (found[2], found[3])
    return ("",), (text,)


def own_parts(message: Message) -> Iterator[tuple[Part, bool]]:
    """A message's parts, each with whether it may hold a thought: an assistant's first text may."""
    may_think = message.role == "assistant"
    for part in message.parts:
        yield part, may_think
        may_think = may_think and not isinstance(part, Text)


def with_texts(messages: tuple[Message, ...], texts: Iterable[str]) -> tuple[Message, ...]:
    """The same conversation with other texts, as many as `slots_of` gives."""
    left = iter(texts)
    changed = []
    for message in messages:
        reasoning = None if message.reasoning is None else next(left)
        parts = tuple(
            part if isinstance(part, Media) else Text(text="".join(word + next(left) for word in pieces_of(*pair)[0]))
            for part, pair in ((part, (getattr(part, "text", ""), may_think)) for part, may_think in own_parts(message))
        )
        changed.append(dataclasses.replace(message, reasoning=reasoning, parts=parts))
    return tuple(changed)


def shape_of(messages: tuple[Message, ...]) -> Shape:
    """What a plain conversation's layout depends on: roles, names, kinds of parts, fixed words."""
    return tuple([(m.role, m.name, m.reasoning is not None, kinds_of(m)) for m in messages])


def kinds_of(message: Message) -> tuple[str, ...]:
    """Kinds of a message's parts; a text with a thought is one of its own."""
    kinds: list[str] = []
    may_think = message.role == "assistant"
    for part in message.parts:
        if isinstance(part, Media):
            kinds.append(part.kind)
        else:
            kinds.append("|".join(("text", *pieces_of(part.text, may_think)[0])) if may_think else "text")
            may_think = False
    return tuple(kinds)


def conversation_of(messages: tuple[Message, ...], *, plain_text: bool) -> list[dict[str, Any]]:
    """Messages as transformers' chat templates take them.

    Args:
        messages: The conversation.
        plain_text: Messages of nothing but text go in as strings.
    """
    return [turn_of(message, plain_text) for message in messages]


def turn_of(message: Message, plain_text: bool) -> dict[str, Any]:
    """One of them; reasoning under the names that transformers gives it before it renders."""
    if plain_text and all(isinstance(part, Text) for part in message.parts):
        content: Any = "".join(part.text for part in message.parts if isinstance(part, Text))
    else:
        content = [{"type": "text", "text": p.text} if isinstance(p, Text) else {"type": p.kind} for p in message.parts]
    turn: dict[str, Any] = {"role": message.role, "content": content}
    if message.reasoning is not None:
        turn |= {"reasoning_content": message.reasoning, "thinking": message.reasoning}
    if message.tool_calls:
        turn["tool_calls"] = [call_of(call) for call in message.tool_calls]
    if message.name is not None:
        turn["name"] = message.name
    if message.call_id is not None:
        turn["tool_call_id"] = message.call_id
    return turn


def call_of(call: ToolCall) -> dict[str, Any]:
    """A tool call as OpenAI and transformers write it, with its arguments as an object."""
    written: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    return written if call.call_id is None else {"id": call.call_id, **written}


def remember(known: dict[Any, Any], key: Any, value: Any) -> None:
    """Add to a dictionary of bounded size, in place of what is oldest in it."""
    if len(known) >= SHAPES_KEPT:
        known.pop(next(iter(known)))
    known[key] = value
