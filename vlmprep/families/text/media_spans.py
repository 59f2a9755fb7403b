r"""Where each medium lies among the tokens: from the first to the last that template and processor write for it.

    <|im_start|>user\nLook: <|vision_start|><|image_pad|>...<|image_pad|><|vision_end|>What is it?
                            ^ start                                                    ^ end

What the template writes around a placeholder is known from its literal between two texts; from its first added token to its
last one it is the medium's, text around these is not. All of the processor's replacement is the medium's, text included
(times between a clip's frames); a token that the text beside it shares with that belongs to the medium.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

__all__ = ["MediaSpans", "Placed"]

EDGES_KEPT = 1_024
"""Literals and replacements whose edges are remembered; most families have one of each kind."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One medium in a text in which every run of placeholders is written once."""

    kind: str
    replacement: str
    """What the processor writes, as it stands in the text."""
    literal: str
    """What the template writes for such a medium, with the one placeholder that was replaced."""
    start: int
    """Where the replacement begins in the text, in characters."""
    first: int
    """The token of its first placeholder."""
    last: int
    """The token of its last placeholder."""


@dataclass(frozen=True, slots=True)
class Edge:
    """What is written for a medium on one side of its placeholders."""

    ids: list[int]
    """Its tokens, as they are between added tokens."""
    is_closed: bool
    """Its outer end is an added token, which no text beside it can merge with."""
    num_written: int
    """Characters of it that the replacement has."""


class MediaSpans:
    """Finds the tokens of media.

    Args:
        processor: The model's own.
        filled: Text of the placeholders.
        encode: Tokens and their places, of a piece of a conversation.
    """

    def __init__(self, processor: Any, filled: Sequence[str], encode: Callable[[str], tokenizers.Encoding]) -> None:
        self._processor = processor
        self._encode = encode
        tokenizer = processor.tokenizer
        added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        spared = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self._added_ids = frozenset(added) - spared
        self._added = any_of([text for number, text in added.items() if number not in spared])
        self._borders = any_of(list(added.values()))
        self._filled = any_of(list(filled))
        self._edges = functools.lru_cache(maxsize=EDGES_KEPT)(self._find_edges)

    def of(self, ids: NDArray[np.int32], text: str, medium: Placed) -> tuple[int, int] | None:
        """The tokens of a medium.

        Args:
            ids: [C] the tokens of the text.
            text: The text.
            medium: Where it is.

        Returns:
            Its first token, and the one behind its last; None where they cannot be told.
        """
        edges = self._edges(medium.kind, medium.literal, medium.replacement)
        if edges is None:
            return None
        start = self._start(ids, text, medium, edges[0])
        end = self._end(ids, text, medium, edges[1])
        return None if start is None or end is None else (start, end)

    def _start(self, ids: NDArray[np.int32], text: str, medium: Placed, edge: Edge) -> int | None:
        start = medium.first - len(edge.ids)
        if edge.is_closed:
            return start if start >= 0 and ids[start : medium.first].tolist() == edge.ids else None
        first = medium.start + edge.num_written  # of the placeholder's characters
        borders = [match.start() for match in self._borders.finditer(text, 0, medium.start)]
        begin = borders[-1] if borders else 0
        piece = self._encode(text[begin:first])
        start = medium.first - len(piece.ids)
        if start < 0 or ids[start : medium.first].tolist() != piece.ids:
            return None
        return start + next(at for at, (_, stop) in enumerate(piece.offsets) if begin + stop > medium.start)

    def _end(self, ids: NDArray[np.int32], text: str, medium: Placed, edge: Edge) -> int | None:
        after = medium.last + 1
        if edge.is_closed:
            return after + len(edge.ids) if ids[after : after + len(edge.ids)].tolist() == edge.ids else None
        stop = medium.start + len(medium.replacement)
        border = self._borders.search(text, stop)
        begin = stop - edge.num_written
        placeholder = next(match for match in self._filled.finditer(text, medium.start, begin) if match.end() == begin)
        piece = self._encode(text[placeholder.start() : border.end() if border else len(text)])
        if ids[medium.last : medium.last + len(piece.ids)].tolist() != piece.ids:
            return None
        within = stop - placeholder.start()
        return medium.last + sum(first < within for first, _ in piece.offsets)

    def _find_edges(self, kind: str, literal: str, replacement: str) -> tuple[Edge, Edge] | None:
        """What stands before and behind a medium's placeholders; None where the literal or the placeholders are unknown."""
        placeholder = getattr(self._processor, f"{kind}_token", None)
        runs = list(self._filled.finditer(replacement))
        if not runs or not placeholder or literal.count(placeholder) != 1:
            return None
        before, _, behind = literal.partition(placeholder)
        opening, closing = self._added.search(before), list(self._added.finditer(behind))
        written_before, written_behind = replacement[: runs[0].start()], replacement[runs[-1].end() :]
        before = (before[opening.start() :] if opening else "") + written_before
        behind = written_behind + (behind[: closing[-1].end()] if closing else "")
        opened = self._encode(before + runs[0][0]).ids[
            :-1
        ]  # with the placeholder: tokenizers treat a text's begin apart
        closed = self._encode(runs[-1][0] + behind).ids[1:]
        return self._edge(opened, len(written_before), outer=0), self._edge(closed, len(written_behind), outer=-1)

    def _edge(self, ids: Sequence[int], num_written: int, *, outer: int) -> Edge:
        return Edge(list(ids), not ids or ids[outer] in self._added_ids, num_written)


def any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """A pattern that matches any of some texts, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, texts), key=len, reverse=True))) or r"(?!)")
