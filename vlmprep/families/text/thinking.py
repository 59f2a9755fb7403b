r"""Gemma 4's empty thinking channel in front of what the assistant says.

Gemma 4's larger models open every turn with a channel for their thoughts, `<|channel>thought\n<channel|>`, also where they
have none. Conversations that lack it train the model on answers where it expects the channel:

    <|turn>model\n                                It is a cat.<turn|>
    <|turn>model\n<|channel>thought\n<channel|>   It is a cat.<turn|>
                  seen, never learned             learned
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from vlmprep.families.text.turns import Rendered
from vlmprep.schema.errors import StopRun

__all__ = ["MODEL_TURN", "THINKING_PREFIX", "require_thinking_tokens", "with_thinking_prefix"]

MODEL_TURN = "<|turn>model\n"
THINKING_PREFIX = "<|channel>thought\n<channel|>"
CHANNEL = "<|channel>"
CONTROL_TOKENS = ("<|turn>", CHANNEL, "<channel|>")

OPEN_TURN = re.compile(f"{re.escape(MODEL_TURN)}(?!{re.escape(CHANNEL)})")
"""A turn of the model that has no channel yet."""


def with_thinking_prefix(rendered: Rendered) -> Rendered:
    r"""Insert the prefix behind every `<|turn>model\n` that has none; spans that are learned leave it out.

    The channel's brackets are added tokens, so inserting the text is inserting its tokens.
    """
    places = [match.end() for match in OPEN_TURN.finditer(rendered.text)]
    pieces = [rendered.text[start:end] for start, end in zip([0, *places], [*places, None], strict=True)]
    return Rendered(
        text=THINKING_PREFIX.join(pieces),
        label_spans=tuple(part for span in rendered.label_spans for part in around(span, places)),
        num_control_tokens=rendered.num_control_tokens + 2 * len(places),
        num_left_out_characters=rendered.num_left_out_characters,
    )


def around(span: tuple[int, int], places: list[int]) -> list[tuple[int, int]]:
    """A span moved along by the prefixes in front of it, and cut where one stands inside it."""
    start, end = span
    cuts = [start, *(place for place in places if start < place < end), end]
    parts = []
    for left, right in itertools.pairwise(cuts):
        gained = len(THINKING_PREFIX) * sum(place <= left for place in places)
        parts.append((left + gained, right + gained))
    return parts


def require_thinking_tokens(tokenizer: Any) -> None:
    """Stop where the prefix is no control tokens of the model.

    Raises:
        StopRun: Naming those that are missing.
    """
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    if missing := [token for token in CONTROL_TOKENS if token not in added]:
        raise StopRun(
            f"the tokenizer has no {', '.join(missing)}, which --thinking-prefix is made of",
            "The thinking channel is Gemma 4's; leave the option out for other models.",
        )
