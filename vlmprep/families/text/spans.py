r"""Which characters of a rendered conversation the assistant generates.

    <|im_start|>assistant\n  It is a cat.                               <|im_end|>\n    a text: from itself
    <|im_start|>assistant\n  <think>\n R \n</think>\n\n It is a cat.    <|im_end|>\n    a thought: from where the text departs
                                                                                     from the generation prompt, and
                                                                                     behind what opens any text
    <|im_start|>assistant\n  <tool_call>\n{"name": ...}\n</tool_call>   <|im_end|>\n    a call: from where a text would stand
    seen                     learned

What a template writes of its own before the first of these, such as `<think>\n\n</think>\n\n` where nothing was thought, is
seen and not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vlmprep.families.text.bounds import TurnBounds, common_beginning
from vlmprep.families.text.calls import CallPlaces
from vlmprep.families.text.dialogue import Dialogue, Slot, media_gaps
from vlmprep.families.text.layout import Layout
from vlmprep.families.text.template import Span
from vlmprep.schema.conversation import Media, Message, Text
from vlmprep.schema.errors import RefuseSample

__all__ = ["spans_of_answers"]


class Turn(NamedTuple):
    """An assistant turn in a rendered conversation."""

    number: int
    """Of its message."""
    message: Message
    first: int
    """Number of the literal before its first text."""
    stop: int
    """Number of the literal behind its last one; `first` where it has none."""


def spans_of_answers(
    dialogue: Dialogue, slots: Sequence[Slot], texts: list[str], layout: Layout, calls: CallPlaces, bounds: TurnBounds
) -> tuple[Span, ...]:
    """The spans that the loss counts: assistant turns that are learned, less what is written for media in them.

    Args:
        dialogue: The conversation.
        slots: Its texts.
        texts: Those that the template writes, as it writes them.
        layout: What it writes around them.
        calls: Where it writes tool calls.
        bounds: What begins and ends a turn.

    Raises:
        RefuseSample: A turn's beginning or end cannot be told.
    """
    finder = SpanFinder(dialogue, slots, texts, layout, calls, bounds)
    spans: list[Span] = []
    stop = 0
    for at, message in enumerate(dialogue.messages):
        first = stop
        while stop < len(layout.order) and slots[layout.order[stop]].message == at:
            stop += 1
        if message.role == "assistant" and message.learn:
            turn = Turn(number=at, message=message, first=first, stop=stop)
            spans.extend(finder.without_media(turn, *finder.span(turn)))
    return tuple(spans)


class SpanFinder:
    """Finds the spans of one rendered conversation; see `spans_of_answers`."""

    def __init__(
        self,
        dialogue: Dialogue,
        slots: Sequence[Slot],
        texts: list[str],
        layout: Layout,
        calls: CallPlaces,
        bounds: TurnBounds,
    ) -> None:
        self._dialogue, self._layout, self._bounds = dialogue, layout, bounds
        self._before_texts = calls.before_texts
        self._thinks = [slots[number].is_reasoning for number in layout.order]
        self._texts = texts
        self._slots = slots
        self._literal_at: list[int] = []
        at = 0
        for literal, text in zip(layout.literals, [*texts, ""], strict=True):
            self._literal_at.append(at)
            at += len(literal) + len(text)

    def span(self, turn: Turn) -> Span:
        """The span of one turn, from its first generated character to behind its end of turn."""
        if self._is_plain(turn):
            behind = self._layout.literals[turn.stop]
            return self._text_at(turn.first), self._literal_at[turn.stop] + self._end_at_once(turn, behind)
        start = self._start(turn)
        end = self._end(turn, start)
        self._check_whole(turn, start, end)
        return start, end

    def without_media(self, turn: Turn, start: int, end: int) -> list[Span]:
        """A turn's span in pieces, without what the template writes for the media in it: no model generates them."""
        if all(isinstance(part, Text) for part in turn.message.parts):
            return [(start, end)]
        gaps = media_gaps(turn.message)
        own = next(number for number, slot in enumerate(self._slots) if slot.message == turn.number)
        spans = []
        for at in range(turn.first + 1, turn.stop):
            if gaps[self._layout.order[at] - own]:
                spans.append((start, self._literal_at[at]))
                start = self._text_at(at)
        if gaps[-1]:
            behind = self._literal_at[turn.stop]
            spans.append((start, behind))
            token = next(token for token in self._bounds.ends if self._written(turn.stop, end).endswith(token))
            start = end - len(token)
        return [span for span in [*spans, (start, end)] if span[0] < span[1]]

    def _written(self, number: int, end: int) -> str:
        """What the template writes from the start of a literal to a place in it."""
        return self._layout.literals[number][: end - self._literal_at[number]]

    def _is_plain(self, turn: Turn) -> bool:
        """A turn of texts, with media at most between them."""
        speaks = turn.first < turn.stop and not self._thinks[turn.first]
        return speaks and not turn.message.tool_calls and not self._ends_with_medium(turn)

    def _ends_with_medium(self, turn: Turn) -> bool:
        return bool(turn.message.parts) and isinstance(turn.message.parts[-1], Media)

    def _start(self, turn: Turn) -> int:
        if turn.first == turn.stop or turn.number in self._before_texts:
            return self._behind_plain_opening(turn)
        if self._thinks[turn.first]:
            return self._behind_prompt(turn)
        return self._text_at(turn.first)

    def _behind_plain_opening(self, turn: Turn) -> int:
        opening = self._bounds.plain_opening(self._dialogue, turn.number, self._layout, turn.first)
        return self._literal_at[turn.first] + len(common_beginning(opening, self._layout.literals[turn.first]))

    def _behind_prompt(self, turn: Turn) -> int:
        """Where a turn that thinks departs from what the model is given before it answers."""
        literal = self._layout.literals[turn.first]
        opened = literal.rfind(self._bounds.opening) if self._bounds.opening else -1
        if opened < 0:  # no turn of its own: it goes on behind a tool's reply
            return self._behind_plain_opening(turn)
        said = literal[opened:] + self._texts[turn.first]
        shared = common_beginning(self._bounds.prompt, said)
        if turn.message.name and shared != self._bounds.prompt:
            raise RefuseSample(
                "unlocatable-turns", f"the name of message {turn.number} stands where the generation prompt has none"
            )
        departure = opened + len(shared)
        calls = turn.message.tool_calls
        opening = self._bounds.plain_opening(self._dialogue, turn.number, self._layout, turn.first, calls)
        if literal.startswith(opening):  # it does not depend on the thought
            departure = max(departure, len(opening))
        return self._literal_at[turn.first] + departure

    def _end(self, turn: Turn, start: int) -> int:
        at = self._literal_at[turn.stop]
        behind = self._layout.literals[turn.stop]
        calls_last = bool(turn.message.tool_calls) and turn.number not in self._before_texts
        speaks_last = turn.first < turn.stop and not self._thinks[turn.stop - 1] and not calls_last
        if speaks_last and not self._ends_with_medium(turn):
            return at + self._end_at_once(turn, behind)
        skipped = 0 if turn.first < turn.stop else start - at
        found = [(place, token) for token in self._bounds.ends if (place := behind.find(token, skipped)) >= 0]
        if not found:
            raise self._no_end(turn, behind[skipped:])
        place, token = min(found)
        return at + place + len(token)

    def _end_at_once(self, turn: Turn, literal: str) -> int:
        """Length of the end of turn that opens a literal."""
        head = len(literal) - len(literal.lstrip())
        ends = self._bounds.ends if turn.message.tool_calls else (self._bounds.end_of_turn,)
        token = next((end for end in ends if literal.startswith(end, head)), None)
        if token is None:
            raise self._no_end(turn, literal)
        return head + len(token)

    def _check_whole(self, turn: Turn, start: int, end: int) -> None:
        """Refuse a span that is not one turn: what the template wrote in it opens another, or ends more than one."""
        written = ""
        for literal, at in zip(
            self._layout.literals[turn.first : turn.stop + 1], self._literal_at[turn.first :], strict=False
        ):
            written += literal[max(0, start - at) : max(0, end - at)]
        ends = sum(written.count(token) for token in set(self._bounds.ends))
        if ends != 1 or (self._bounds.opening and self._bounds.opening in written):
            raise self._no_end(turn, written)

    def _no_end(self, turn: Turn, literal: str) -> RefuseSample:
        return RefuseSample(
            "unlocatable-turns",
            f"an assistant turn, message {turn.number}, does not end with {self._bounds.end_of_turn!r} but {literal!r:.200}",
        )

    def _text_at(self, number: int) -> int:
        return self._literal_at[number] + len(self._layout.literals[number])
