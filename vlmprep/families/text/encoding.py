"""From a rendered conversation to tokens and labels, placeholders counted instead of written out."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vlmprep.families.text.media_spans import MediaSpans, Placed
from vlmprep.families.text.token_labels import TokenLabels
from vlmprep.families.text.turns import Rendered
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import Encoded, no_media
from vlmprep.schema.media import MediaCount

__all__ = ["Collapsed", "PlaceholderEncoder", "filled_tokens"]

KINDS = ("image", "video", "audio")
REPLACEMENTS_KEPT = 1_024
"""Short replacements whose placeholders are remembered; most families have one."""


@dataclass(frozen=True, slots=True)
class Collapsed:
    """A rendered conversation with its media in it, every run of placeholders written once."""

    text: str
    label_spans: Sequence[tuple[int, int]]
    """Character ranges that the loss counts, in order."""
    counts: Sequence[MediaCount]
    """What the family makes of each medium, in the order of the text."""
    num_left_out_characters: int = 0
    """Of thoughts that the template leaves out."""
    starts: Sequence[int] = ()
    """Where each medium's replacement begins, in characters, in the order of the text; empty where no text moved."""
    kinds: Sequence[str] = ()
    """The media's kinds in the order of the conversation."""
    literals: Mapping[str, str] = field(default_factory=dict)
    """By kind, what the template writes for a medium between two texts; none: where media lie is not asked."""


class PlaceholderEncoder:
    """Tokenizes rendered conversations as the processor would, without writing its placeholders out.

    A processor replaces each placeholder that the template left by a long text: hundreds of `<|image_pad|>`, wrapped or
    split into rows in some families. Placeholders are added tokens, which no neighbour can merge with; so runs of them
    are written once, tokenized, and repeated as numbers.

    Args:
        processor: A processor with a fast tokenizer.
        control_tokens: Pattern of the model's control tokens.

    Raises:
        StopRun: The tokenizer is a slow one, or its placeholders are no added tokens.
    """

    def __init__(self, processor: Any, control_tokens: re.Pattern[str]) -> None:
        self._processor = processor
        backend = getattr(processor.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise StopRun("the processor's tokenizer is a slow one", "Save it in its fast form (a tokenizer.json).")
        self._shared_backend: tokenizers.Tokenizer = backend
        self._tokens = filled_tokens(processor)
        self._token_ids = self._added_ids()
        self._kinds = self._typed_ids()
        self._audio_ids = {token for number, token in self._kinds if number == KINDS.index("audio") + 1}
        self._framing = re.compile("|".join(map(re.escape, self._framing_tokens())))
        self._runs = re.compile("|".join(f"(?:{re.escape(token)})+" for token in self._tokens) or r"(?!)")
        self._bos: str | None = processor.tokenizer.bos_token
        self.labels = TokenLabels(processor.tokenizer, control_tokens, self._encoding_of)
        self._media_spans = MediaSpans(processor, self._tokens, lambda piece: self._encoding_of(piece, False))
        self._placeholders_of = functools.lru_cache(maxsize=REPLACEMENTS_KEPT)(self._find_placeholders)

    @property
    def _backend(self) -> tokenizers.Tokenizer:
        """The processor's own tokenizer; whoever calls the processor may have left it padding or cutting."""
        self._shared_backend.no_padding()
        self._shared_backend.no_truncation()
        return self._shared_backend

    def collapse(
        self,
        rendered: Rendered,
        counts: Sequence[MediaCount],
        kinds: Sequence[str],
        literals: Mapping[str, str] | None = None,
    ) -> Collapsed:
        """Put each medium's replacement, every run of placeholders written once, into a conversation.

        Args:
            rendered: The conversation as the template writes it, one placeholder per medium.
            counts: What the family makes of each medium, in the conversation's order.
            kinds: The media's kinds, likewise.
            literals: By kind, what the template writes for a medium between two texts.

        Raises:
            RefuseSample: The rendered text has other placeholders than the conversation has media.
        """
        text, spans, in_order, starts = self._collapse(rendered, counts, kinds)
        return Collapsed(text, spans, in_order, rendered.num_left_out_characters, starts, kinds, literals or {})

    def tokenize(self, texts: Sequence[str]) -> list[NDArray[np.int32] | RefuseSample]:
        """Token ids of several texts, or why a text has none.

        Without the places of the tokens, which take the tokenizer a fifth of its time; and many at a call, which saves
        a tenth of it.
        """
        try:
            return self._tokenized(texts)
        except TypeError:  # a str that is no UTF-8
            if len(texts) > 1:
                return [ids for text in texts for ids in self.tokenize([text])]
            return [RefuseSample("not-unicode", "a text holds half a surrogate pair, which is no character")]

    def encode(self, collapsed: Collapsed, ids: NDArray[np.int32]) -> Encoded:
        """Label and count the tokens of one conversation.

        Args:
            collapsed: The conversation.
            ids: [C] int32, the tokens of its text.

        Raises:
            RefuseSample: The text has other placeholders than the conversation has media.
        """
        text, spans, in_order = collapsed.text, collapsed.label_spans, collapsed.counts
        is_label = self.labels.over(ids, text, spans)
        types = self._types(ids)
        repeats = np.ones(len(ids), dtype=np.int32)
        placeholders = np.flatnonzero(self._is_placeholder(ids))
        expected = [token for count in in_order for token in self._placeholders_of(count.replacement)]
        if ids[placeholders].tolist() != expected:
            raise RefuseSample(
                "tag-mismatch",
                f"the text has {len(placeholders)} placeholders, the media have {len(expected)}, or they are of other kinds: "
                "control text?",
            )
        repeats[placeholders] = [length for count in in_order for length in count.run_lengths]
        is_label &= types == 0
        return Encoded(
            input_ids=ids,
            is_label=is_label,
            mm_token_type_ids=types,
            repeats=repeats,
            num_left_out_characters=collapsed.num_left_out_characters,
            find_media=functools.partial(self._spans_of_media, collapsed, ids, placeholders),
        )

    def _spans_of_media(
        self, collapsed: Collapsed, ids: NDArray[np.int32], placeholders: NDArray[np.int64]
    ) -> NDArray[np.int32] | None:
        """Where each medium lies in the sequence in full, in the conversation's order; None where it cannot be told.

        Args:
            collapsed: The conversation.
            ids: [C] its tokens, every run of placeholders written once.
            placeholders: Which of them are placeholders.
        """
        if not collapsed.counts:
            return no_media()
        if not collapsed.literals:
            return None
        places, spans, at, longer = placeholders.tolist(), [], 0, 0
        for count, start in zip(collapsed.counts, collapsed.starts or [0] * len(collapsed.counts), strict=True):
            if not (num_runs := len(count.run_lengths)):
                return None
            first, last = places[at], places[at + num_runs - 1]
            literal = collapsed.literals[count.kind]
            span = self._media_spans.of(
                ids, collapsed.text, Placed(count.kind, count.replacement, literal, start, first, last)
            )
            if span is None:
                return None
            at, before = at + num_runs, longer
            longer += count.num_placeholders - num_runs
            spans.append((span[0] + before, span[1] + longer))
        in_text = [count.kind for count in collapsed.counts]
        if in_text != list(collapsed.kinds):
            spans = [spans[number] for number in as_in_conversation(in_text, collapsed.kinds)]
        return np.array(spans, dtype=np.int32)

    def _tokenized(self, texts: Sequence[str]) -> list[NDArray[np.int32] | RefuseSample]:
        adds_special = list(map(self._adds_special, texts))
        if len(set(adds_special)) > 1:  # a template that writes the first token for some conversations alone
            return [ids for text in texts for ids in self._tokenized([text])]
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=any(adds_special))
        return [np.fromiter(encoding.ids, dtype=np.int32, count=len(encoding)) for encoding in encodings]

    def _adds_special(self, text: str) -> bool:
        return not (self._bos and text.startswith(self._bos))

    def _encoding_of(self, text: str, whole: bool) -> tokenizers.Encoding:
        """Tokens and their places, of a whole conversation or of a piece."""
        return self._backend.encode(text, add_special_tokens=whole and self._adds_special(text))

    def _collapse(
        self, rendered: Rendered, counts: Sequence[MediaCount], kinds: Sequence[str]
    ) -> tuple[str, Sequence[tuple[int, int]], Sequence[MediaCount], Sequence[int]]:
        """The text with each medium's replacement in it, the spans moved along, the counts in the text's order, and starts."""
        if not counts:
            return rendered.text, rendered.label_spans, counts, ()
        if len(set(kinds)) == 1 and all(count.replacement in self._tokens for count in counts):
            # Each placeholder stays as it is, only longer: nothing moves.
            return rendered.text, rendered.label_spans, counts, ()
        of_kind = {kind: [count for count, k in zip(counts, kinds, strict=True) if k == kind] for kind in KINDS}
        try:
            (text,), (moves,) = self._processor.get_text_with_replacements(
                [rendered.text], *([count.replacement for count in of_kind[kind]] for kind in KINDS)
            )
        except StopIteration:
            raise RefuseSample(
                "tag-mismatch", "the rendered text has more placeholders than media: control text?"
            ) from None
        if len(moves) != len(counts):
            raise RefuseSample("tag-mismatch", f"the template wrote {len(moves)} placeholders for {len(counts)} media")
        in_order = [of_kind[move["type"]].pop(0) for move in moves]
        ends = np.array([move["span"][1] for move in moves])
        gained = np.array([0, *(move["new_span"][1] - move["span"][1] for move in moves)])

        def moved(at: int) -> int:
            return at + int(gained[np.searchsorted(ends, at, side="right")])

        replaced = [move["new_span"] for move in moves]
        spans = [piece for start, end in rendered.label_spans for piece in outside(replaced, moved(start), moved(end))]
        return text, spans, in_order, [start for start, _ in replaced]

    def shorten(self, replacement: str) -> tuple[str, tuple[int, ...]]:
        """Write every run of placeholders in a replacement once.

        Returns:
            The short text, and how long each run was.
        """
        lengths: list[int] = []

        def once(match: re.Match[str]) -> str:
            token = next(token for token in self._tokens if match[0].startswith(token))
            lengths.append(len(match[0]) // len(token))
            return token

        return self._runs.sub(once, replacement), tuple(lengths)

    def num_visual_tokens(self, replacement: str, run_lengths: Sequence[int]) -> int:
        """How many placeholders of a replacement the vision encoder fills.

        Args:
            replacement: Its short form.
            run_lengths: How long its runs of placeholders are.
        """
        runs = zip(self._placeholders_of(replacement), run_lengths, strict=True)
        return sum(length for token, length in runs if token not in self._audio_ids)

    def num_framing(self, replacement: str) -> int:
        """How many tokens of a replacement are typed as media and filled by nothing, such as those that frame an image.

        Args:
            replacement: Its short form.
        """
        return len(self._framing.findall(replacement)) if self._framing.pattern else 0

    def _find_placeholders(self, replacement: str) -> tuple[int, ...]:
        """Token ids of a short replacement's placeholders."""
        number_of = dict(zip(self._tokens, self._token_ids, strict=True))
        return tuple(number_of[token] for token in self._runs.findall(replacement))

    def _is_placeholder(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        found = np.zeros(len(ids), dtype=np.bool_)
        for token in self._token_ids:
            found |= ids == token
        return found

    def _types(self, ids: NDArray[np.int32]) -> NDArray[np.uint8]:
        types = np.zeros(len(ids), dtype=np.uint8)
        for number, wanted in self._kinds:
            types[ids == wanted] = number
        return types

    def _added_ids(self) -> list[int]:
        """Ids of the placeholders, which must be added tokens."""
        ids = [int(self._processor.tokenizer.convert_tokens_to_ids(token)) for token in self._tokens]
        added = self._processor.tokenizer.added_tokens_decoder
        if strange := [token for token, number in zip(self._tokens, ids, strict=True) if number not in added]:
            raise StopRun(
                f"placeholders {strange} of the processor are no added tokens, so text beside them could merge with them",
                "This processor cannot be counted exactly from sizes; add them to its tokenizer as special tokens.",
            )
        return ids

    def _framing_tokens(self) -> list[str]:
        """Tokens that are typed as media and are no placeholders."""
        typed = sorted({token for _, token in self._kinds} - set(self._token_ids))
        return [str(token) for token in self._processor.tokenizer.convert_ids_to_tokens(typed)]

    def _typed_ids(self) -> list[tuple[int, int]]:
        """(token type, token id) as the processor's create_mm_token_type_ids numbers them."""
        return [
            (number, int(token))
            for number, kind in enumerate(KINDS, start=1)
            for token in getattr(self._processor, f"{kind}_token_ids", [])
            if token is not None
        ]


def filled_tokens(processor: Any) -> list[str]:
    """What the model fills with media: the placeholders, or what a processor writes and types as media in their stead.

    A placeholder that the tokenizer does not know never reaches it: the processor writes others in its place.
    """
    tokenizer, tokens = processor.tokenizer, dict[str, None]()
    for kind in KINDS:
        if (token := getattr(processor, f"{kind}_token", None)) is None:
            continue
        unknown = {None, tokenizer.unk_token_id}
        typed = [number for number in getattr(processor, f"{kind}_token_ids", []) if number not in unknown]
        written = tokenizer.convert_tokens_to_ids(str(token))
        named = getattr(processor, f"{kind}_token_id", None)
        filled = next(([number] for number in (written, named) if number in typed), typed)
        if filled or written not in unknown:
            tokens |= dict.fromkeys(tokenizer.convert_ids_to_tokens(filled) or [str(token)])
    return list(tokens)


def as_in_conversation(in_text: Sequence[str], in_conversation: Sequence[str]) -> list[int]:
    """Which medium of the text each of the conversation is: the first image of the one is the first of the other, ..."""
    places = {kind: iter([at for at, found in enumerate(in_text) if found == kind]) for kind in KINDS}
    return [next(places[kind]) for kind in in_conversation]


def outside(ranges: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """The pieces of `start` to before `end` that lie in none of some ranges, which are in order."""
    pieces = []
    for first, stop in ranges:
        if start < stop and first < end:
            pieces.append((start, first))
            start = stop
    return [(a, b) for a, b in [*pieces, (start, end)] if a < b]
