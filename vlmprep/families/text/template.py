"""A processor's chat template as a function from a conversation to text."""

from __future__ import annotations

import re
from typing import Any

from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

from vlmprep.families.text.dialogue import Dialogue, conversation_of
from vlmprep.families.wording import first_line
from vlmprep.schema.conversation import Media, Message, Text, ToolCall
from vlmprep.schema.errors import RefuseSample, StopRun

__all__ = ["ChatTemplate", "Span"]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

_RENDER_MARKED: Any = getattr(chat_template_utils, "_render_with_assistant_indices", None)
"""transformers' own rendering of a compiled template with its marks; tried before it is used."""

Span = tuple[int, int]
"""Characters from the first to before the second."""


class ChatTemplate:
    """The template that a processor renders by default.

    Args:
        processor: A processor with a chat template.

    Raises:
        StopRun: It has none.
    """

    def __init__(self, processor: Any) -> None:
        self._source = chat_template(processor)
        self._variables = dict(processor.tokenizer.special_tokens_map)
        self.is_marked = bool(GENERATION.search(self._source))
        """It says itself what the assistant generates."""
        self._compiled: Any = None
        self._compiled = self._compiled_template()

    def render(self, dialogue: Dialogue, *, plain_text: bool, generation_prompt: bool = False) -> str:
        """Render a conversation.

        Args:
            dialogue: The conversation.
            plain_text: Messages of nothing but text go in as strings.
            generation_prompt: Add what a model is given before it answers.

        Raises:
            RefuseSample: The template rejects it.
        """
        if self._compiled is None:
            return self._render_slowly(dialogue, plain_text, add_generation_prompt=generation_prompt)[0]
        try:
            return str(
                self._compiled.render(
                    messages=conversation_of(dialogue.messages, plain_text=plain_text),
                    tools=list(dialogue.tools) or None,
                    documents=None,
                    add_generation_prompt=generation_prompt,
                    **self._variables,
                )
            )
        except Exception as error:  # a template is a program of its own
            raise _rejected(error) from error

    def render_marked(self, dialogue: Dialogue, *, plain_text: bool) -> tuple[str, list[Span]]:
        """Render a conversation, and tell the characters that the template marks as generated.

        Raises:
            RefuseSample: The template rejects it.
        """
        if self._compiled is None or _RENDER_MARKED is None:
            return self._render_slowly(dialogue, plain_text, return_assistant_tokens_mask=True)
        conversation, tools = conversation_of(dialogue.messages, plain_text=plain_text), list(dialogue.tools) or None
        try:
            text, spans = _RENDER_MARKED(self._compiled, conversation, tools, None, False, **self._variables)
        except Exception as error:  # likewise
            raise _rejected(error) from error
        return text, list(spans)

    def _render_slowly(self, dialogue: Dialogue, plain_text: bool, **options: bool) -> tuple[str, list[Span]]:
        render: Any = render_jinja_template  # annotated as returning text alone
        try:
            texts, spans = render(
                conversations=[conversation_of(dialogue.messages, plain_text=plain_text)],
                tools=list(dialogue.tools) or None,
                chat_template=self._source,
                **options,
                **self._variables,
            )
        except Exception as error:  # likewise
            raise _rejected(error) from error
        return texts[0], list(spans[0]) if spans else []

    def _compiled_template(self) -> Any:
        """The template as transformers compiles it, if rendering it without the copies that transformers makes is the same.

        What goes in are plain dictionaries of our own, so that nothing has to be copied for safety.
        """
        try:
            compiled = chat_template_utils._compile_jinja_template(self._source)  # noqa: SLF001 - tried, or not used
        except Exception:  # noqa: BLE001 - a template is a program of its own; rendering it tells what is wrong
            return None
        return compiled if all(self._renders_alike(compiled, probe) for probe in PROBES) else None

    def _renders_alike(self, compiled: Any, probe: Dialogue) -> bool:
        made: list[Any] = []
        for template in (None, compiled):
            self._compiled = template
            try:
                made.append(self.render(probe, plain_text=False))
                made.append(self.render_marked(probe, plain_text=False) if self.is_marked else None)
            except RefuseSample as refusal:
                made.append(refusal.reason)
        self._compiled = None
        half = len(made) // 2
        return made[:half] == made[half:]


PROBES = (
    Dialogue(
        messages=(
            Message(role="user", parts=(Text(text="a\n"), Media(kind="image", content=b""), Text(text=" <b> "))),
            Message(role="assistant", parts=(Text(text="c"),)),
        )
    ),
    Dialogue(
        messages=(
            Message(role="user", parts=(Text(text="a"),)),
            Message(
                role="assistant",
                parts=(Text(text="b"),),
                reasoning="c",
                tool_calls=(ToolCall(name="f", arguments={"x": ["<é>", 1, None]}, call_id="i"),),
            ),
            Message(role="tool", parts=(Text(text="d"),), name="f", call_id="i"),
            Message(role="assistant", parts=(Text(text="e"),)),
        ),
        tools=({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}},),
    ),
)
"""Conversations that both ways of rendering are tried on."""


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


def _rejected(error: Exception) -> RefuseSample:
    return RefuseSample("template-error", f"the chat template rejects this conversation: {first_line(error)}")
