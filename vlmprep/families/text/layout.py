r"""What a chat template writes around the texts of a conversation, learned once for each shape of conversation.

A conversation of the same shape (roles and kinds of parts) is rendered with a numbered sentinel in place of every text. What
stands between the sentinels is the template's own text:

    <|im_start|>user\n [0] <|im_end|>\n<|im_start|>assistant\n [1] <|im_end|>\n
    literals:  l0            l1                                       l2

A second rendering, with white space around every sentinel, shows which texts the template strips, and of what.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vlmprep.families.text.dialogue import Dialogue, Slot, slots_of, with_texts
from vlmprep.schema.conversation import Message, Text
from vlmprep.schema.errors import RefuseSample

__all__ = ["Layout", "Renderer", "find_layout", "sentinel", "split_at_sentinels", "with_sentinels"]

SENTINEL = re.compile("\ue000([0-9]+)\ue001")
TEXT_SPELLED_OUT = re.compile(r"""['"]text['"]: ?['"](<think>)?(\ue000|\\ue000)""")
"""A list of parts that a template printed instead of reading."""
MEDIUM_SPELLED_OUT = re.compile(r"""\{['"]type['"]: ?['"](image|video|audio)['"]\}""")
"""The same of a list without texts."""

Renderer: TypeAlias = Callable[[Dialogue, bool], str]
"""Renders a conversation; the flag says whether messages of nothing but text go in as strings."""

Trim = tuple[str | None, str | None]
"""What str.lstrip and str.rstrip take off a text: "" nothing, None all white space."""

PAD_LEFT, PAD_RIGHT = "\n\t\n", "\n \n"
LEFTS: tuple[tuple[str, str | None], ...] = ((PAD_LEFT, ""), ("\t\n", "\n"), ("", None))
RIGHTS: tuple[tuple[str, str | None], ...] = ((PAD_RIGHT, ""), ("\n ", "\n"), ("", None))
"""What a template leaves of the white space beside a text, and what it strips then."""
NOTHING: tuple[tuple[str, str | None], ...] = (("", ""),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a template writes around the texts of one shape of conversation."""

    literals: tuple[str, ...]
    """One more than there are texts in `order`."""
    order: tuple[int, ...]
    """Numbers of the texts as they stand in the rendered text."""
    trims: tuple[Trim, ...]
    """What is stripped off them, likewise."""
    left_out: tuple[int, ...]
    """Texts that are not rendered."""
    complete: bool
    """What is left out are thoughts of earlier turns, which the template renders while they are the last."""
    plain_text: bool
    """Messages of nothing but text go in as strings, because this template does not read lists of parts."""
    num_control_tokens: int
    """In the literals."""

    @property
    def is_sound(self) -> bool:
        """Every text that must stand does, once, and in the conversation's order."""
        return self.complete and all(a < b for a, b in zip(self.order, self.order[1:], strict=False))

    def checked(self, messages: tuple[Message, ...], *, in_order: bool = True) -> Layout:
        """This layout, where nothing is left out, and where its literals mean something.

        Args:
            messages: The conversation.
            in_order: Every text must stand once, and in the conversation's order.

        Raises:
            RefuseSample: They do not.
        """
        if not self.complete or (in_order and not self.is_sound):
            raise RefuseSample(
                "unlocatable-turns",
                "the chat template leaves out, repeats or reorders text of a conversation with the turns "
                + ", ".join(message.role for message in messages)
                + self._where_thoughts_are_lost(messages),
            )
        return self

    def _where_thoughts_are_lost(self, messages: tuple[Message, ...]) -> str:
        slots = slots_of(messages)
        lost = [slots[number] for number in self.left_out if slots[number].is_reasoning]
        return f" (the thought of message {lost[0].message} is lost)" if lost and not self.complete else ""

    def texts_of(self, slots: Sequence[Slot]) -> list[str]:
        """The texts of a conversation as this template writes them, those that it writes."""
        return [
            slots[number].text if trim == ("", "") else slots[number].text.lstrip(trim[0]).rstrip(trim[1])
            for number, trim in zip(self.order, self.trims, strict=True)
        ]

    def around(self, texts: list[str]) -> str:
        """l0 + text0 + l1 + text1 + ... + ln."""
        pieces = [piece for pair in zip(self.literals, texts, strict=False) for piece in pair]
        return "".join([*pieces, self.literals[-1]])


def sentinel(number: int) -> str:
    """What stands for a text; no tokenizer's or person's words."""
    return f"\ue000{number}\ue001"


def split_at_sentinels(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The literals of a rendered text, and the numbers of the sentinels between them."""
    pieces = SENTINEL.split(text)
    return tuple(pieces[0::2]), tuple(map(int, pieces[1::2]))


def find_layout(dialogue: Dialogue, render: Renderer, control_tokens: re.Pattern[str]) -> Layout:
    """Learn how a template lays out conversations of the shape of `dialogue`.

    Lists of parts are tried first, as processors give them; strings where a template does not read every text of the lists.

    Args:
        dialogue: A conversation of that shape.
        render: The template.
        control_tokens: Pattern of the model's control tokens.

    Raises:
        RefuseSample: The template reads it in neither form.
    """
    found: Layout | None = None
    problem = RefuseSample("template-error", "the chat template prints lists of parts instead of reading them")
    probe = with_sentinels(dialogue)
    for plain_text in (False, True):
        try:
            text = render(probe, plain_text)
        except RefuseSample as refusal:
            problem = refusal
            continue
        if spells_parts_out(text, dialogue):
            continue
        layout = _layout_of(text, dialogue, render, control_tokens, plain_text=plain_text)
        if layout.complete:
            return dataclasses.replace(layout, trims=_trims_of(layout, dialogue, render))
        found = found or layout
    if found is None:
        raise problem
    return found


def spells_parts_out(text: str, dialogue: Dialogue) -> bool:
    """Whether a rendered text holds lists of parts as Python or JSON writes them."""
    wordless = any(
        message.parts and not any(isinstance(p, Text) for p in message.parts) for message in dialogue.messages
    )
    return bool(TEXT_SPELLED_OUT.search(text) or (wordless and MEDIUM_SPELLED_OUT.search(text)))


def with_sentinels(dialogue: Dialogue, left: str = "", right: str = "") -> Dialogue:
    """The same conversation with numbered sentinels for texts, between some white space."""
    texts = [left + sentinel(number) + right for number in range(len(slots_of(dialogue.messages)))]
    return dataclasses.replace(dialogue, messages=with_texts(dialogue.messages, texts))


def _layout_of(
    text: str, dialogue: Dialogue, render: Renderer, control_tokens: re.Pattern[str], *, plain_text: bool
) -> Layout:
    literals, order = split_at_sentinels(text)
    slots = slots_of(dialogue.messages)
    left_out = tuple(number for number in range(len(slots)) if number not in set(order))
    return Layout(
        literals=literals,
        order=order,
        trims=(("", ""),) * len(order),
        left_out=left_out,
        complete=max(order, default=-1) < len(slots)
        and all(_only_in_history(number, slots[number], dialogue, render, plain_text) for number in left_out),
        plain_text=plain_text,
        num_control_tokens=len(control_tokens.findall(text)),
    )


def _only_in_history(number: int, slot: Slot, dialogue: Dialogue, render: Renderer, plain_text: bool) -> bool:
    """Whether a text is the thought of an earlier turn that the template renders while its turn is the last.

    Then the model sees the same at inference: its thoughts while it answers, and no more when the next question comes.
    """
    later = dialogue.messages[slot.message + 1 :]
    if not slot.is_reasoning or not any(message.role == "user" for message in later):
        return False
    until_then = dataclasses.replace(dialogue, messages=dialogue.messages[: slot.message + 1])
    try:
        return sentinel(number) in render(with_sentinels(until_then), plain_text)
    except RefuseSample:
        return False


def _trims_of(layout: Layout, dialogue: Dialogue, render: Renderer) -> tuple[Trim, ...]:
    """What the template strips off each text; nothing where that cannot be told, which every conversation is checked for."""
    none = layout.trims
    try:
        padded, order = split_at_sentinels(render(with_sentinels(dialogue, PAD_LEFT, PAD_RIGHT), layout.plain_text))
    except RefuseSample:
        return none
    if order != layout.order:
        return none
    lefts, rights = [], []
    for at, (literal, found) in enumerate(zip(layout.literals, padded, strict=True)):
        stripped = next(
            (
                (right, left)
                for rest, right in (RIGHTS if at else NOTHING)
                for begin, left in (LEFTS if at < len(order) else NOTHING)
                if rest + literal + begin == found
            ),
            None,
        )
        if stripped is None:
            return none
        rights.append(stripped[0])
        lefts.append(stripped[1])
    return tuple(zip(lefts[:-1], rights[1:], strict=True))
