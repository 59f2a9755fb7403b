"""The model's control tokens, and text that must not hold them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlmprep.schema.conversation import Message, Sample, Text
from vlmprep.schema.errors import RefuseSample

__all__ = ["control_pattern", "refuse_control_in_calls", "refuse_control_text", "refuse_joined_control_text"]


def control_pattern(processor: Any) -> re.Pattern[str]:
    """A pattern that matches every control token: the tokenizer's special tokens and the processor's placeholders."""
    special = {str(token) for token in processor.tokenizer.added_tokens_decoder.values() if token.special}
    special.update(processor.tokenizer.all_special_tokens)
    special.update(processor.all_special_multimodal_tokens)
    tokens = sorted((token for token in special if token), key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, tokens)) or r"(?!)")


def refuse_control_text(sample: Sample, pattern: re.Pattern[str]) -> None:
    """Refuse a sample whose text would be read as the model's own control tokens.

    Raises:
        RefuseSample: Some message or tool definition holds one.
    """
    for at, message in enumerate(sample.messages):
        for text in words_of(message):
            if found := pattern.search(text):
                raise control_token(found[0], f"message {at} ({message.role})")
    for text in texts_within(sample.tools):
        if found := pattern.search(text):
            raise control_token(found[0], "a tool's definition")


def refuse_control_in_calls(sample: Sample, pattern: re.Pattern[str]) -> None:
    """Refuse a sample whose tool calls hold control tokens, also where those of other texts are kept.

    The end of a call is told by the token that ends a turn.

    Raises:
        RefuseSample: Some call holds one.
    """
    for at, message in enumerate(sample.messages):
        for text in words_of_calls(message):
            if found := pattern.search(text):
                raise RefuseSample(
                    "control-token",
                    f"a tool call of message {at} holds the control token {found[0]!r} as text, which cannot be kept there",
                )


def control_token(token: str, where: str) -> RefuseSample:
    """The refusal of a control token in somebody's text."""
    return RefuseSample(
        "control-token",
        f"{where} holds the control token {token!r} as text; "
        "clean it, or pass --control-text keep if the model shall read it as one",
    )


def words_of(message: Message) -> Iterator[str]:
    """Everything of a message that a template may write."""
    yield from (part.text for part in message.parts if isinstance(part, Text))
    yield from (text for text in (message.reasoning, message.name, message.call_id) if text)
    yield from words_of_calls(message)


def words_of_calls(message: Message) -> Iterator[str]:
    """Everything of its calls."""
    for call in message.tool_calls:
        yield call.name
        yield call.call_id or ""
        yield from texts_within(call.arguments)


def texts_within(value: Any) -> Iterator[str]:
    """All names and texts of some JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from texts_within(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from texts_within(inner)


def refuse_joined_control_text(rendered: str, num_template_tokens: int, pattern: re.Pattern[str]) -> None:
    """Refuse a sample whose texts are harmless one by one and join into a control token.

    Args:
        rendered: The conversation as the chat template writes it.
        num_template_tokens: How many control tokens the template itself writes.
        pattern: As `control_pattern` makes it.

    Raises:
        RefuseSample: There are others.
    """
    found = pattern.findall(rendered)
    if len(found) != num_template_tokens:
        raise RefuseSample(
            "control-token",
            f"the rendered conversation holds {len(found)} control tokens, of which the template writes "
            f"{num_template_tokens}: the others come from texts that join",
        )
