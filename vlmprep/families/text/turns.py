r"""Where the assistant's words lie in the rendered chat template, found by construction.

Two ways, neither of which searches the text for markers:

*Marks.* A template with `{% generation %}` marks says itself what the assistant generates.

*Layout.* Of any other template it is known what it writes around the texts of a conversation (see layout.py). A real
conversation must then render to l0 + text0 + l1 + text1 + l2, character for character, which is checked for every sample;
so the place of each text is known. An assistant turn is learned from its first text up to the end-of-turn token that opens the
literal behind its last one; see spans.py for turns with thoughts and tool calls.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlmprep.families.text.bounds import TurnBounds
from vlmprep.families.text.calls import NO_CALLS, CallPlaces, check_calls, structure_of
from vlmprep.families.text.control import refuse_control_in_calls
from vlmprep.families.text.dialogue import Dialogue, Shape, Slot, remember, shape_of, slots_of
from vlmprep.families.text.layout import Layout, find_layout
from vlmprep.families.text.spans import spans_of_answers
from vlmprep.families.text.template import ChatTemplate, Span
from vlmprep.schema.conversation import Media, MediaKind, Message, Sample, Text
from vlmprep.schema.errors import RefuseSample, StopRun

__all__ = ["Rendered", "TurnFinder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as the chat template writes it."""

    text: str
    label_spans: tuple[Span, ...]
    """Character ranges that the loss counts, in order."""
    num_control_tokens: int
    """How many control tokens the template writes itself; any more in the text are the conversation's."""
    num_left_out_characters: int = 0
    """Of thoughts of earlier turns, which the template leaves out as it does at inference."""


class TurnFinder:
    """Renders conversations and locates what the assistant says.

    Args:
        processor: A processor with a chat template.
        control_tokens: Pattern of the model's control tokens; an end-of-turn token is one of them.

    Raises:
        StopRun: No chat template, or one whose end of turn cannot be found.
    """

    def __init__(self, processor: Any, control_tokens: re.Pattern[str]) -> None:
        self._control_tokens = control_tokens
        self._layouts: dict[Shape, Layout] = {}
        self._call_places: dict[bytes, CallPlaces] = {}
        self._literals: dict[MediaKind, str] = {}
        self._template = ChatTemplate(processor)
        try:
            self._bounds = None if self._template.is_marked else TurnBounds(self._template, control_tokens)
        except RefuseSample as refusal:
            raise StopRun(
                f"the chat template does not take a question and its answer: {refusal.reason}",
                "Correct the processor's chat template, or give it {% generation %} marks.",
            ) from refusal

    def render(self, sample: Sample) -> Rendered:
        """Render one conversation with the spans that the loss counts.

        Raises:
            RefuseSample: The template rejects the conversation, its turns cannot be located, or no assistant turn is learned.
        """
        messages = sample.messages
        if not any(message.role == "assistant" and message.learn for message in messages):
            raise RefuseSample("no-label-tokens", "no assistant turn to learn from")
        refuse_control_in_calls(sample, self._control_tokens)
        dialogue = Dialogue.of(sample)
        slots = slots_of(messages)
        refuse_empty_answers(messages, slots, (slot.text for slot in slots))
        layout = self._layout(dialogue)
        if self._bounds is not None:
            text = self._template.render(dialogue, plain_text=layout.plain_text)
            return self._located(dialogue, slots, layout, text, self._bounds)
        layout.checked(messages, in_order=False)
        self._calls(dialogue, layout)
        text, marks = self._template.render_marked(dialogue, plain_text=layout.plain_text)
        return rendered_as(text, marked_spans(messages, marks), layout, slots)

    def image_literal(self) -> str:
        """What the template writes for an image between two texts of a user.

        Raises:
            StopRun: It has no place for one.
        """
        try:
            return self._literal("image")
        except RefuseSample as refusal:
            raise StopRun(f"the chat template has no place for an image: {refusal.reason}") from refusal

    def media_literal(self, kind: MediaKind) -> str:
        """What the template writes for a medium of a user; nothing where that cannot be told."""
        if kind not in self._literals:
            try:
                literal = self._literal(kind)
                self._literals[kind] = literal if self._control_tokens.search(literal) else self._bare_literal(kind)
            except RefuseSample:
                self._literals[kind] = ""
        return self._literals[kind]

    def _bare_literal(self, kind: MediaKind) -> str:
        """The same where media do not stand between their texts: a placeholder, if two in a row have no token between them."""
        media = (Media(kind=kind, content=b""),) * 2
        probe = (Message(role="user", parts=(*media, Text(text="a"))),)
        written = "".join(self._layout(Dialogue(messages=probe)).checked(probe).literals)
        tokens = self._control_tokens.findall(written)
        return next((token for token, behind in itertools.pairwise(tokens) if token == behind), "")

    def _literal(self, kind: MediaKind) -> str:
        probe = (Message(role="user", parts=(Text(text="a"), Media(kind=kind, content=b""), Text(text="b"))),)
        return self._layout(Dialogue(messages=probe)).checked(probe).literals[1]

    def _located(
        self, dialogue: Dialogue, slots: list[Slot], layout: Layout, rendered: str, bounds: TurnBounds
    ) -> Rendered:
        """The spans of a rendered conversation, by the layout of `dialogue`, which may be the same less its blanks."""
        texts = layout.texts_of(slots) if layout.is_sound else []
        if not layout.is_sound or layout.around(texts) != rendered:
            bare = dialogue.without_blanks()  # templates ask whether there is a thought, and words beside a call
            if bare != dialogue:
                return self._located(bare, slots_of(bare.messages), self._layout(bare), rendered, bounds)
            layout.checked(dialogue.messages)
            raise RefuseSample(
                "unlocatable-turns",
                "the chat template changes the text of this conversation, so its turns cannot be located; "
                "give the template {% generation %} marks",
            )
        refuse_empty_answers(dialogue.messages, [slots[number] for number in layout.order], texts)
        calls = self._calls(dialogue, layout, bounds.ends)
        spans = spans_of_answers(dialogue, slots, texts, layout, calls, bounds)
        return rendered_as(rendered, spans, layout, slots)

    def _layout(self, dialogue: Dialogue) -> Layout:
        if not dialogue.is_plain:  # what stands in calls, tools and names is in the literals
            return find_layout(dialogue, self._plainly, self._control_tokens)
        shape = shape_of(dialogue.messages)
        layout = self._layouts.get(shape)
        if layout is None:
            layout = find_layout(dialogue, self._plainly, self._control_tokens)
            remember(self._layouts, shape, layout)
        return layout

    def _calls(self, dialogue: Dialogue, layout: Layout, ends: tuple[str, ...] = ()) -> CallPlaces:
        if not dialogue.has_calls and not dialogue.tools:
            return NO_CALLS
        structure = structure_of(dialogue, layout.plain_text)
        places = self._call_places.get(structure)
        if places is None:
            places = check_calls(dialogue, layout, self._plainly, ends)
            remember(self._call_places, structure, places)
        return places

    def _plainly(self, dialogue: Dialogue, plain_text: bool) -> str:
        return self._template.render(dialogue, plain_text=plain_text)


def rendered_as(text: str, spans: tuple[Span, ...], layout: Layout, slots: list[Slot]) -> Rendered:
    """A rendered conversation with what its layout says of it."""
    return Rendered(
        text=text,
        label_spans=spans,
        num_control_tokens=layout.num_control_tokens,
        num_left_out_characters=sum(len(slots[number].text) for number in layout.left_out),
    )


def marked_spans(messages: tuple[Message, ...], marks: list[Span]) -> tuple[Span, ...]:
    """The marked spans of the assistant turns that are learned.

    Raises:
        RefuseSample: Some opted out, and it cannot be told which marks are theirs.
    """
    turns = [message for message in messages if message.role == "assistant"]
    if all(message.learn for message in turns):
        return tuple(marks)
    if len(marks) != len(turns):
        raise RefuseSample(
            "unlocatable-turns", f"{len(turns)} assistant turns, {len(marks)} generation marks: which turn opted out?"
        )
    return tuple(mark for mark, message in zip(marks, turns, strict=True) if message.learn)


def refuse_empty_answers(messages: tuple[Message, ...], slots: list[Slot], texts: Iterable[str]) -> None:
    """Refuse a conversation where an assistant turn that is learned says nothing and calls nothing.

    Args:
        messages: The conversation.
        slots: Texts of it that the template writes.
        texts: What it writes of each.

    Raises:
        RefuseSample: One does.
    """
    speaking = {slot.message for slot, text in zip(slots, texts, strict=True) if text}
    for at, message in enumerate(messages):
        if message.role == "assistant" and message.learn and at not in speaking and not message.tool_calls:
            raise RefuseSample("empty-answer", f"message {at}, an assistant turn, is empty")
