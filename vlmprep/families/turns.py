r"""Where the assistant's words lie in the rendered chat template, found by construction.

Two ways, neither of which searches the text for markers:

*Marks.* A template with `{% generation %}` marks says itself what the assistant generates.

*Layout.* Of any other template it is known what it writes around the texts of a conversation (see layout.py). A real
conversation must then render to l0 + text0 + l1 + text1 + l2, character for character, which is checked for every sample;
so the place of each text is known. An assistant turn is learned from its first text up to the end-of-turn token that opens the
literal behind its last one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from vlmprep.families.layout import Layout, find_layout
from vlmprep.families.wording import first_line
from vlmprep.schema.conversation import Media, Message, Sample, Text
from vlmprep.schema.errors import RefuseSample, StopRun

__all__ = ["Rendered", "TurnFinder"]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
LAYOUTS_KEPT = 4_096
"""Shapes of conversation whose layout is remembered."""

Span = tuple[int, int]
Shape = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as the chat template writes it."""

    text: str
    label_spans: tuple[Span, ...]
    """Character ranges that the loss counts, in order."""
    num_control_tokens: int
    """How many control tokens the template writes itself; any more in the text are the conversation's."""


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
        self._template = chat_template(processor)
        self._variables = dict(processor.tokenizer.special_tokens_map)
        self._marked = bool(GENERATION.search(self._template))
        self._compiled: Any = None
        self._compiled = self._compiled_template()
        try:
            self._end_of_turn = "" if self._marked else self._find_end_of_turn()
        except RefuseSample as refusal:
            raise StopRun(
                f"the chat template does not take a question and its answer: {refusal.reason}",
                "Correct the processor's chat template, or give it {% generation %} marks.",
            ) from refusal

    def _compiled_template(self) -> Any:
        """The template as transformers compiles it, if rendering it without the copies that transformers makes is the same.

        What goes in are plain dictionaries of our own, so that nothing has to be copied for safety.
        """
        probe = (
            Message(role="user", parts=(Text(text="a\n"), Media(kind="image", content=b""), Text(text=" <b> "))),
            Message(role="assistant", parts=(Text(text="c"),)),
        )
        try:
            compiled = chat_template_utils._compile_jinja_template(self._template)  # noqa: SLF001 - tried, or not used
            expected, _ = self._render(probe, plain_text=False)
            self._compiled = compiled
            found, _ = self._render(probe, plain_text=False)
        except Exception:  # noqa: BLE001 - a template is a program of its own; rendering it tells what is wrong
            return None
        return compiled if found == expected else None

    def render(self, sample: Sample) -> Rendered:
        """Render one conversation with the spans that the loss counts.

        Raises:
            RefuseSample: The template rejects the conversation, its turns cannot be located, or no assistant turn is learned.
        """
        messages = sample.messages
        if not any(message.role == "assistant" and message.learn for message in messages):
            raise RefuseSample("no-label-tokens", "no assistant turn to learn from")
        texts = [text for message in messages for text in texts_of(message)]
        refuse_empty_answers(messages, texts)
        layout = self._layout(messages)
        text, marks = self._render(messages, plain_text=layout.plain_text, marks=self._marked)
        spans = marked_spans(messages, marks) if self._marked else self._located_spans(messages, texts, text, layout)
        return Rendered(text=text, label_spans=spans, num_control_tokens=layout.num_control_tokens)

    def image_literal(self) -> str:
        """What the template writes for an image between two texts of a user.

        Raises:
            StopRun: It has no place for one.
        """
        probe = (Message(role="user", parts=(Text(text="a"), Media(kind="image", content=b""), Text(text="b"))),)
        try:
            return self._layout(probe).checked(probe).literals[1]
        except RefuseSample as refusal:
            raise StopRun(f"the chat template has no place for an image: {refusal.reason}") from refusal

    def _located_spans(
        self, messages: tuple[Message, ...], texts: list[str], rendered: str, layout: Layout
    ) -> tuple[Span, ...]:
        layout.checked(messages)
        if layout.around(texts) != rendered:
            texts = [text.strip() for text in texts]
            if layout.around(texts) != rendered:
                raise RefuseSample(
                    "unlocatable-turns",
                    "the chat template changes the text of this conversation, so its turns cannot be located; "
                    "give the template {% generation %} marks",
                )
            refuse_empty_answers(messages, texts)
        return self._spans_of_answers(messages, texts, layout.literals)

    def _spans_of_answers(
        self, messages: tuple[Message, ...], texts: list[str], literals: tuple[str, ...]
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
        literal = self._layout(probe).checked(probe).literals[2]
        found = self._control_tokens.match(literal.lstrip())
        if found is None:
            raise StopRun(
                f"the chat template ends an assistant turn with {literal!r}, which is no control token",
                "Give the template {% generation %} marks, which say what the assistant generates.",
            )
        return found[0]

    def _layout(self, messages: tuple[Message, ...]) -> Layout:
        shape = tuple((message.role, tuple(map(kind_of, message.parts))) for message in messages)
        layout = self._layouts.get(shape)
        if layout is None:
            layout = find_layout(
                messages, lambda probe, plain_text: self._render(probe, plain_text=plain_text)[0], self._control_tokens
            )
            if len(self._layouts) < LAYOUTS_KEPT:
                self._layouts[shape] = layout
        return layout

    def _render(
        self, messages: tuple[Message, ...], *, plain_text: bool, marks: bool = False
    ) -> tuple[str, list[Span]]:
        conversation = conversation_of(messages, plain_text=plain_text)
        try:
            if self._compiled is not None and not marks:
                text: str = self._compiled.render(
                    messages=conversation, tools=None, documents=None, add_generation_prompt=False, **self._variables
                )
                return text, []
            render: Any = render_jinja_template  # annotated as returning text alone
            texts, spans = render(
                conversations=[conversation],
                chat_template=self._template,
                return_assistant_tokens_mask=marks,
                **self._variables,
            )
        except Exception as error:  # a template is a program of its own
            raise RefuseSample(
                "template-error", f"the chat template rejects this conversation: {first_line(error)}"
            ) from error
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


def refuse_empty_answers(messages: tuple[Message, ...], texts: list[str]) -> None:
    """Refuse a conversation where an assistant turn that is learned says nothing.

    Args:
        messages: The conversation.
        texts: Its texts in order, as the template writes them.

    Raises:
        RefuseSample: One does.
    """
    left = iter(texts)
    for at, message in enumerate(messages):
        said = [next(left) for _ in texts_of(message)]
        if message.role == "assistant" and message.learn and not any(said):
            raise RefuseSample("empty-answer", f"message {at}, an assistant turn, is empty")


def texts_of(message: Message) -> list[str]:
    """The texts of a message, in order."""
    return [part.text for part in message.parts if isinstance(part, Text)]


def kind_of(part: Text | Media) -> str:
    """text, image, video or audio."""
    return "text" if isinstance(part, Text) else part.kind
