r"""Where the places of a rendered conversation lie among a processor's token ids.

The chat template says where the answers lie in its text (families/text/turns.py); what is left is to find these places in token
ids in which every medium's placeholder has become a long run of others. Control tokens anchor both:

    text    <|im_start|> user\n <|image_pad|> Q <|im_end|> \n <|im_start|> assistant\n A <|im_end|>
    ids     S user \n P P P P P P P P P P P P Q E \n          S            assistant \n A E
            ^ anchor                          ^ anchor        ^ anchor                  ^ anchor

Those that stand as often in the ids as in the text are anchors: media add none of them. What lies between the anchors
around an answer is tokenized by itself and must be the batch's own tokens there, id by id; so nothing is guessed, and
text that looks like a marker or like an answer is never taken for one.
"""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vlmprep.families.text.control import control_pattern
from vlmprep.families.text.token_labels import tokens_over
from vlmprep.families.text.turns import TurnFinder
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.packset import IGNORE_INDEX

__all__ = ["Finder", "Prompt", "finder_of", "not_this_text", "tokens_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation as the chat template writes it, media as one placeholder each."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Character ranges that the loss counts, in order."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A control token in a text."""

    token_id: int
    start: int
    """Character."""
    end: int
    """Character behind it."""


class Finder:
    """Places a rendered text's spans in token ids.

    Args:
        processor: With a tokenizer and a chat template.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer = processor.tokenizer
        self._pattern = control_pattern(processor)
        self.turns = TurnFinder(processor, self._pattern)
        added = self._tokenizer.added_tokens_decoder
        self._control = {str(token): number for number, token in added.items() if self._pattern.fullmatch(str(token))}

    def knows(self, text: str) -> bool:
        """Whether a text begins with a control token of this tokenizer."""
        return self._pattern.match(text) is not None

    def labels(self, ids: Tensor, prompt: Prompt) -> Tensor:
        """See `labels_of`."""
        row = ids.tolist()
        first, stop = self._without_padding(row, prompt.text)
        anchors, places = self._anchors(row, first, stop, prompt.text)
        labels = torch.full_like(ids, IGNORE_INDEX)
        for start, end in prompt.spans:
            place = self._answer(row, (first, stop), prompt.text, (start, end), anchors, places)
            labels[place] = ids[place]
        return labels

    def _without_padding(self, row: list[int], text: str) -> tuple[int, int]:
        """Where the text's own tokens begin and end; they may begin or end with the padding token themselves."""
        pad = self._tokenizer.pad_token_id
        token = self._tokenizer.pad_token
        if pad is None or token is None:
            return 0, len(row)
        leading = next((at for at, found in enumerate(row) if found != pad), len(row))
        trailing = next((at for at, found in enumerate(reversed(row)) if found != pad), len(row))
        own_first = (len(text) - len(text.removeprefix(token))) // len(token)
        own_last = 0
        while text.endswith(token * (own_last + 1)):
            own_last += 1
        return max(0, leading - own_first), len(row) - max(0, trailing - own_last)

    def _anchors(self, row: list[int], first: int, stop: int, text: str) -> tuple[list[Anchor], list[int]]:
        """Control tokens that stand as often in the ids as in the text, and where they stand in the ids."""
        written = [
            Anchor(number, *match.span())
            for match in self._pattern.finditer(text)
            if (number := self._control.get(match[0])) is not None
        ]
        control = set(self._control.values())
        found = [(at, row[at]) for at in range(first, stop) if row[at] in control]
        in_text, in_ids = Counter(anchor.token_id for anchor in written), Counter(number for _, number in found)
        anchors = [anchor for anchor in written if in_text[anchor.token_id] == in_ids[anchor.token_id]]
        places = [at for at, number in found if in_text[number] == in_ids[number]]
        if [anchor.token_id for anchor in anchors] != [row[at] for at in places]:
            raise not_this_text()
        return anchors, places

    def _answer(
        self,
        row: list[int],
        window: tuple[int, int],
        text: str,
        span: tuple[int, int],
        anchors: list[Anchor],
        places: list[int],
    ) -> slice:
        """Tokens of one answer, proved by tokenizing what lies between the anchors around it."""
        before = max((n for n, anchor in enumerate(anchors) if anchor.end <= span[0]), default=None)
        behind = next((n for n, anchor in enumerate(anchors) if anchor.end >= span[1]), None)
        begin = 0 if before is None else anchors[before].start
        end = len(text) if behind is None else anchors[behind].end
        at = window[0] + self._specials_before(row, window, text) if before is None else places[before]
        stop = window[1] if behind is None else places[behind] + 1
        expected, learned = tokens_of(self._tokenizer, text[begin:end], span[0] - begin, span[1] - begin)
        if row[at : at + len(expected)] != expected or (behind is not None and at + len(expected) != stop):
            raise not_this_text()
        head = 0 if before is None else 1  # the anchor, which in some tokenizers reaches over the blanks behind it
        return slice(at + max(head, learned.start), at + learned.stop)

    def _specials_before(self, row: list[int], window: tuple[int, int], text: str) -> int:
        """How many tokens the tokenizer put before the text's own first one."""
        control = set(self._control.values())
        written = {self._control.get(match[0]) for match in [self._pattern.match(text)] if match}
        at = window[0]
        while at < window[1] and row[at] in control - written:
            at += 1
        return at - window[0]


def tokens_of(tokenizer: Any, text: str, start: int, end: int) -> tuple[list[int], slice]:
    """Token ids of a text, and which of them overlap the characters from `start` to before `end`."""
    encoded = tokenizer(text, add_special_tokens=False)
    ids: list[int] = list(encoded["input_ids"])
    if encodings := getattr(encoded, "encodings", None):
        return ids, tokens_over(encodings[0], start, end)
    return ids, decoded_over(tokenizer, ids, text, start, end)


def decoded_over(tokenizer: Any, ids: list[int], text: str, start: int, end: int) -> slice:
    """The same for a tokenizer that does not say where its tokens lie: by how much of the text they decode to.

    Raises:
        RefuseSample: They do not decode to the text.
    """
    if tokenizer.decode(ids) != text:
        raise not_this_text()
    whole = [characters_shared(tokenizer.decode(ids[:count]), text) for count in range(len(ids) + 1)]
    # A token that ends within a character belongs to that character.
    over = [at for at in range(len(ids)) if whole[at] < end and max(whole[at + 1], whole[at] + 1) > start]
    return slice(over[0], over[-1] + 1)


def characters_shared(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


_FINDERS: weakref.WeakKeyDictionary[Any, dict[str, Finder]] = weakref.WeakKeyDictionary()


def finder_of(processor: Any, template: str) -> Finder:
    """The finder of a processor (or of a bare tokenizer) for one of its chat templates, made once."""
    finders = _FINDERS.setdefault(processor, {})
    if template not in finders:
        tokenizer = getattr(processor, "tokenizer", processor)
        placeholders = getattr(processor, "all_special_multimodal_tokens", [])
        finders[template] = Finder(
            SimpleNamespace(tokenizer=tokenizer, chat_template=template, all_special_multimodal_tokens=placeholders)
        )
    return finders[template]


def not_this_text() -> RefuseSample:
    """Why tokens have no labels."""
    return RefuseSample(
        "unlocatable-turns", "its tokens are not those of the rendered conversation: cut short, or changed on the way?"
    )
