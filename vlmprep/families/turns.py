r"""Where the assistant's words lie in the rendered chat template, found by construction.

Two ways, neither of which searches the text for markers:

*Marks.* A template with `{% generation %}` marks says itself what the assistant generates.

*Layout.* Any other template is rendered once per shape of conversation (roles and kinds of parts) with a sentinel in place of
every text. What stands between the sentinels is the template's own text:

    <|im_start|>user\n [0] <|im_end|>\n<|im_start|>assistant\n [1] <|im_end|>\n
    literals:  l0            l1                                       l2

A real conversation must then render to l0 + text0 + l1 + text1 + l2, character for character, which is checked for every sample;
so the place of each text is known. An assistant turn is learned from its first text up to the end-of-turn token that opens the
literal behind its last one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from vlmprep.schema.conversation import Media, Message, Sample, Text
from vlmprep.schema.errors import RefuseSample, StopRun

__all__ = ["Rendered", "TurnFinder"]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
SENTINEL = re.compile("\ue000([0-9]+)\ue001")
PART_SPELLED_OUT = re.compile(r"""['"]type['"]: ['"]text['"]""")
"""A list of parts that a template printed instead of reading."""

Span = tuple[int, int]
Shape = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as the chat template writes it."""

    text: str
    label_spans: tuple[Span, ...]
    """Character ranges that the loss counts, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a template writes around the texts of one shape of conversation."""

    literals: tuple[str, ...]
    """One more than there are texts."""
    plain_text: bool
    """Messages of nothing but text go in as strings, because this template prints lists."""


class TurnFinder:
    """Renders conversations and locates what the assistant says.

    Args:
        processor: A processor with a chat template.
        control_tokens: Pattern of the model's control tokens; an end-of-turn token is one of them.

    Raises:
        StopRun: No chat template, or one whose end of turn cannot be found.
    """

    def __init__(self, processor: Any, control_tokens: re.Pattern[str]) -> None:
        self._processor = processor
        self._control_tokens = control_tokens
        self._layouts: dict[Shape, Layout] = {}
        self.template = chat_template(processor)
        self._variables = dict(processor.tokenizer.special_tokens_map)
        self._marked = bool(GENERATION.search(self.template))
        self._end_of_turn = "" if self._marked else self._find_end_of_turn()

    def render(self, sample: Sample) -> Rendered:
        """Render one conversation with the spans that the loss counts.

        Raises:
            RefuseSample: The template rejects the conversation, its turns cannot be located, or no assistant turn is learned.
        """
        learned = [m for m in sample.messages if m.role == "assistant" and m.learn]
        if not learned:
            raise RefuseSample("no-label-tokens", "no assistant turn to learn from")
        for at, message in enumerate(sample.messages):
            if message.role == "assistant" and message.learn and not any(texts_of(message)):
                raise RefuseSample("empty-answer", f"message {at}, an assistant turn, is empty")
        return self._by_marks(sample) if self._marked else self._by_layout(sample)

    def image_literal(self) -> str:
        """What the template writes for an image between two texts of a user."""
        probe = (Message(role="user", parts=(Text(text="a"), Media(kind="image", content=b""), Text(text="b"))),)
        return self._layout(probe).literals[1]

    def _by_marks(self, sample: Sample) -> Rendered:
        layout_free = conversation_of(sample.messages, plain_text=False)
        text, spans = self._render(layout_free, marks=True)
        turns = [message for message in sample.messages if message.role == "assistant"]
        if all(message.learn for message in turns):
            return Rendered(text=text, label_spans=tuple(spans))
        if len(spans) != len(turns):
            raise RefuseSample(
                "unlocatable-turns",
                f"{len(turns)} assistant turns, {len(spans)} generation marks: which turn opted out?",
            )
        kept = tuple(span for span, message in zip(spans, turns, strict=True) if message.learn)
        return Rendered(text=text, label_spans=kept)

    def _by_layout(self, sample: Sample) -> Rendered:
        layout = self._layout(sample.messages)
        text, _ = self._render(conversation_of(sample.messages, plain_text=layout.plain_text))
        raw = [text for message in sample.messages for text in texts_of(message)]
        for texts in (raw, [text.strip() for text in raw]):
            if interleave(layout.literals, texts) == text:
                return Rendered(text=text, label_spans=self._label_spans(sample.messages, layout.literals, texts))
        raise RefuseSample(
            "unlocatable-turns",
            "the chat template changes the text of this conversation, so its turns cannot be located; "
            "give the template {% generation %} marks",
        )

    def _label_spans(
        self, messages: tuple[Message, ...], literals: tuple[str, ...], texts: list[str]
    ) -> tuple[Span, ...]:
        spans: list[Span] = []
        at, next_text = 0, 0
        for message in messages:
            start = None
            for _ in texts_of(message):
                at += len(literals[next_text])
                start = at if start is None else start
                at += len(texts[next_text])
                next_text += 1
            if message.role == "assistant" and message.learn and start is not None:
                spans.append((start, at + self._end_of_turn_behind(literals[next_text])))
        return tuple(spans)

    def _end_of_turn_behind(self, literal: str) -> int:
        """Length of the end of turn that opens the literal behind an assistant's last text."""
        head = len(literal) - len(literal.lstrip())
        if not literal.startswith(self._end_of_turn, head):
            raise RefuseSample(
                "unlocatable-turns", f"an assistant turn does not end with {self._end_of_turn!r} but {literal!r}"
            )
        return head + len(self._end_of_turn)

    def _find_end_of_turn(self) -> str:
        probe = (
            Message(role="user", parts=(Text(text="a"),)),
            Message(role="assistant", parts=(Text(text="b"),)),
        )
        literal = self._layout(probe).literals[2]
        found = self._control_tokens.match(literal.lstrip())
        if found is None:
            raise StopRun(
                f"the chat template ends an assistant turn with {literal!r}, which is no control token",
                "Give the template {% generation %} marks, which say what the assistant generates.",
            )
        return found[0]

    def _layout(self, messages: tuple[Message, ...]) -> Layout:
        shape = tuple((message.role, tuple(kind_of(part) for part in message.parts)) for message in messages)
        if shape not in self._layouts:
            self._layouts[shape] = self._find_layout(messages)
        return self._layouts[shape]

    def _find_layout(self, messages: tuple[Message, ...]) -> Layout:
        probe, num_texts = with_sentinels(messages)
        for plain_text in (False, True):
            text, _ = self._render(conversation_of(probe, plain_text=plain_text))
            pieces = SENTINEL.split(text)
            in_order = [int(number) for number in pieces[1::2]] == list(range(num_texts))
            literals = tuple(pieces[0::2])
            if in_order and not any(PART_SPELLED_OUT.search(literal) for literal in literals):
                return Layout(literals=literals, plain_text=plain_text)
        raise RefuseSample(
            "unlocatable-turns",
            "the chat template leaves out, repeats or reorders text of a conversation with the turns "
            + ", ".join(message.role for message in messages),
        )

    def _render(self, conversation: list[dict[str, Any]], *, marks: bool = False) -> tuple[str, list[Span]]:
        render: Any = render_jinja_template  # annotated as returning text alone
        try:
            texts, spans = render(
                conversations=[conversation],
                chat_template=self.template,
                return_assistant_tokens_mask=marks,
                **self._variables,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RefuseSample("template-error", f"the chat template rejects this conversation: {error}") from error
        return texts[0], list(spans[0]) if spans else []


def chat_template(processor: Any) -> str:
    """The template that the processor renders by default.

    Raises:
        StopRun: It has none.
    """
    template = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise StopRun("the processor has no chat template", "Save one with it (processor.chat_template = ...).")
    return str(template)


def conversation_of(messages: tuple[Message, ...], *, plain_text: bool) -> list[dict[str, Any]]:
    """Messages as transformers' chat templates take them."""
    conversation: list[dict[str, Any]] = []
    for message in messages:
        if plain_text and all(isinstance(part, Text) for part in message.parts):
            content: Any = "".join(texts_of(message))
        else:
            content = [
                {"type": "text", "text": p.text} if isinstance(p, Text) else {"type": p.kind} for p in message.parts
            ]
        conversation.append({"role": message.role, "content": content})
    return conversation


def texts_of(message: Message) -> list[str]:
    """The texts of a message, in order."""
    return [part.text for part in message.parts if isinstance(part, Text)]


def kind_of(part: Text | Media) -> str:
    """text, image, video or audio."""
    return "text" if isinstance(part, Text) else part.kind


def with_sentinels(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], int]:
    """The same conversation with numbered sentinels for texts, and how many there are."""
    count = 0
    probe: list[Message] = []
    for message in messages:
        parts: list[Text | Media] = []
        for part in message.parts:
            if isinstance(part, Text):
                parts.append(Text(text=f"\ue000{count}\ue001"))
                count += 1
            else:
                parts.append(part)
        probe.append(Message(role=message.role, parts=tuple(parts), learn=message.learn))
    return tuple(probe), count


def interleave(literals: tuple[str, ...], texts: list[str]) -> str:
    """l0 + text0 + l1 + text1 + ... + ln."""
    pieces = [piece for pair in zip(literals, texts, strict=False) for piece in pair]
    return "".join([*pieces, literals[-1]])
