"""The model's control tokens, and text that must not hold them."""

from __future__ import annotations

import re
from typing import Any

from vlmprep.schema.conversation import Sample, Text
from vlmprep.schema.errors import RefuseSample

__all__ = ["control_pattern", "refuse_control_text", "refuse_joined_control_text"]


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
        RefuseSample: Some message holds one.
    """
    for at, message in enumerate(sample.messages):
        for part in message.parts:
            if isinstance(part, Text) and (found := pattern.search(part.text)):
                raise RefuseSample(
                    "control-token",
                    f"message {at} ({message.role}) holds the control token {found[0]!r} as text; "
                    "clean it, or pass --control-text keep if the model shall read it as one",
                )


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
