r"""What a chat template writes around the texts of a conversation, learned once for each shape of conversation.

A conversation of the same shape (roles and kinds of parts) is rendered with a numbered sentinel in place of every text. What
stands between the sentinels is the template's own text:

    <|im_start|>user\n [0] <|im_end|>\n<|im_start|>assistant\n [1] <|im_end|>\n
    literals:  l0            l1                                       l2
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from vlmprep.schema.conversation import Media, Message, Part, Text
from vlmprep.schema.errors import RefuseSample

__all__ = ["Layout", "Renderer", "find_layout"]

SENTINEL = re.compile("\ue000([0-9]+)\ue001")
PART_SPELLED_OUT = re.compile(r"""['"]type['"]: ['"](text|image|video|audio)['"]""")
"""A list of parts that a template printed instead of reading."""

Renderer: TypeAlias = Callable[[tuple[Message, ...], bool], str]
"""Renders messages; the flag says whether messages of nothing but text go in as strings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a template writes around the texts of one shape of conversation."""

    literals: tuple[str, ...]
    """One more than there are texts, where the texts stand in order; else meaningless."""
    in_order: bool
    """Every text stands once, and in the conversation's order."""
    plain_text: bool
    """Messages of nothing but text go in as strings, because this template does not read lists of parts."""
    num_control_tokens: int
    """In the literals."""

    def checked(self, messages: tuple[Message, ...]) -> Layout:
        """This layout, where its literals mean something.

        Raises:
            RefuseSample: They do not.
        """
        if not self.in_order:
            raise RefuseSample(
                "unlocatable-turns",
                "the chat template leaves out, repeats or reorders text of a conversation with the turns "
                + ", ".join(message.role for message in messages),
            )
        return self

    def around(self, texts: list[str]) -> str:
        """l0 + text0 + l1 + text1 + ... + ln."""
        pieces = [piece for pair in zip(self.literals, texts, strict=False) for piece in pair]
        return "".join([*pieces, self.literals[-1]])


def find_layout(messages: tuple[Message, ...], render: Renderer, control_tokens: re.Pattern[str]) -> Layout:
    """Learn how a template lays out conversations of the shape of `messages`.

    Lists of parts are tried first, as processors give them; strings where a template does not read every text of the lists.

    Args:
        messages: A conversation of that shape.
        render: The template.
        control_tokens: Pattern of the model's control tokens.

    Raises:
        RefuseSample: The template reads it in neither form.
    """
    probe, num_texts = with_sentinels(messages)
    found: Layout | None = None
    problem = RefuseSample("template-error", "the chat template prints lists of parts instead of reading them")
    for plain_text in (False, True):
        try:
            text = render(probe, plain_text)
        except RefuseSample as refusal:
            problem = refusal
            continue
        if PART_SPELLED_OUT.search(text):
            continue
        pieces = SENTINEL.split(text)
        order = [int(number) for number in pieces[1::2]]
        layout = Layout(
            literals=tuple(pieces[0::2]),
            in_order=order == list(range(num_texts)),
            plain_text=plain_text,
            num_control_tokens=len(control_tokens.findall(text)),
        )
        if set(order) == set(range(num_texts)):
            return layout
        found = found or layout
    if found is None:
        raise problem
    return found


def with_sentinels(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], int]:
    """The same conversation with numbered sentinels for texts, and how many there are."""
    count = 0
    probe: list[Message] = []
    for message in messages:
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, Media):
                parts.append(part)
            else:
                parts.append(Text(text=f"\ue000{count}\ue001"))
                count += 1
        probe.append(Message(role=message.role, parts=tuple(parts), learn=message.learn))
    return tuple(probe), count
