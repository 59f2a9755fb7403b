"""From ranges of characters to labels of tokens."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

__all__ = ["TokenLabels", "tokens_over"]

HEADERS_KEPT = 1_024
"""Texts between a control token and an answer whose tokens are remembered."""


class TokenLabels:
    """Says which tokens of a text the loss counts.

    Args:
        tokenizer: The processor's.
        control_tokens: Pattern of the model's control tokens.
        encode: Tokens and their places, of a whole conversation (True) or of a piece of one.
    """

    def __init__(
        self, tokenizer: Any, control_tokens: re.Pattern[str], encode: Callable[[str, bool], tokenizers.Encoding]
    ) -> None:
        self._control_tokens = control_tokens
        self._encode = encode
        added = tokenizer.added_tokens_decoder
        self._is_control = np.zeros(max([len(tokenizer), *(number + 1 for number in added)]), dtype=np.bool_)
        self._is_control[[n for n, token in added.items() if control_tokens.fullmatch(str(token))]] = True
        self._tokens_between = functools.lru_cache(maxsize=HEADERS_KEPT)(self._ids_of)

    def over(self, ids: NDArray[np.int32], text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
        """Which tokens overlap a span.

        Args:
            ids: [C] int32, the tokens of the text.
            text: The text.
            spans: Character ranges, in order.

        Returns:
            [C] bool.
        """
        found = self.anchored(ids, text, spans)
        return self.overlapping(text, spans) if found is None else found

    def overlapping(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
        """The same by the places that the tokenizer gives its tokens."""
        encoding = self._encode(text, True)
        is_label = np.zeros(len(encoding), dtype=np.bool_)
        for start, end in spans:
            is_label[tokens_over(encoding, start, end)] = True
        return is_label

    def anchored(self, ids: NDArray[np.int32], text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_] | None:
        r"""The same without the tokens' places, where control tokens anchor the spans; None where they do not.

        Control tokens stand one by one in text and ids. A span that ends with one ends there. It begins behind the one
        before it and what stands between (`assistant\n`), if the ids go on with just the tokens of that: then no token
        straddles the border.
        """
        anchors = np.flatnonzero(self._is_control[ids])
        places = [match.span() for match in self._control_tokens.finditer(text)]
        if len(anchors) != len(places):
            return None
        ends = [end for _, end in places]
        is_label = np.zeros(len(ids), dtype=np.bool_)
        for start, end in spans:
            last = bisect.bisect_left(ends, end)
            before = bisect.bisect_right(ends, start) - 1
            if before < 0 or last == len(ends) or ends[last] != end:
                return None
            between = self._tokens_between(text[ends[before] : start])
            first = int(anchors[before]) + 1
            if tuple(ids[first : first + len(between)].tolist()) != between:
                return None
            is_label[first + len(between) : anchors[last] + 1] = True
        return is_label

    def _ids_of(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode(text, False).ids)


def tokens_over(encoding: tokenizers.Encoding, start: int, end: int) -> slice:
    """The run of tokens that overlap the characters from `start` to before `end`, as transformers' assistant mask has them."""
    tokens = map(encoding.char_to_token, range(start, end))
    first = next((token for token in tokens if token is not None), None)
    if first is None:
        return slice(0)
    tokens = map(encoding.char_to_token, range(end - 1, start - 1, -1))
    last = next(token for token in tokens if token is not None)

    def overlaps(token: int) -> bool:
        place = encoding.token_to_chars(token)
        return place is not None and place[0] < end and place[1] > start

    while last + 1 < len(encoding) and overlaps(last + 1):  # a character's bytes may be several tokens
        last += 1
    return slice(first, last + 1)
