"""What begins and ends an assistant's turn under a chat template, by the template's own account."""

from __future__ import annotations

import re
from dataclasses import replace

from vlmprep.families.text.dialogue import Dialogue, Shape, remember, shape_of, slots_of
from vlmprep.families.text.layout import Layout, find_layout, sentinel, split_at_sentinels, with_sentinels
from vlmprep.families.text.template import ChatTemplate
from vlmprep.schema.conversation import Message, Text, ToolCall
from vlmprep.schema.errors import RefuseSample, StopRun

__all__ = ["TurnBounds", "common_beginning"]

QUESTION = Message(role="user", parts=(Text(text="a"),))
CALL = ToolCall(name="f", arguments={"x": "a"}, call_id="functions.f:0")
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "d"}}},
    },
}
OPEN_TAG = re.compile(r"<[^<>\s]*$")
"""The beginning of a tag that its end is cut off from."""


class TurnBounds:
    """What begins and ends an assistant's turn, by the template's own account.

    Args:
        template: The template.
        control_tokens: Pattern of the model's control tokens.

    Raises:
        StopRun: No control token ends a turn.
        RefuseSample: The template does not take a question and its answer.
    """

    def __init__(self, template: ChatTemplate, control_tokens: re.Pattern[str]) -> None:
        self._template = template
        self._control_tokens = control_tokens
        self._openings: dict[tuple[Shape, int], str] = {}
        self.end_of_turn = self._find_end_of_turn()
        self.end_of_calls = self._find_end_of_calls()
        self.prompt = self._find_prompt()
        opening = control_tokens.match(self.prompt)
        self.opening = opening[0] if opening else ""
        """The token that begins a turn, if there is one."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Tokens that end a turn, of which a turn that calls has another in some families."""
        return (self.end_of_turn, self.end_of_calls)

    def plain_opening(
        self, dialogue: Dialogue, message: int, layout: Layout, at: int, calls: tuple[ToolCall, ...] = ()
    ) -> str:
        """What the template writes before the text of a message that does not think.

        Args:
            dialogue: The conversation.
            message: Number of the message that is tried in this form.
            layout: Of the conversation.
            at: Number of the literal that holds the message's opening.
            calls: What the message calls then.

        Raises:
            RefuseSample: It takes no such message there.
        """
        if not dialogue.is_plain:
            return self._plain_opening(dialogue, message, layout, at, calls)
        key = shape_of(dialogue.messages), message
        opening = self._openings.get(key)
        if opening is None:
            opening = self._plain_opening(dialogue, message, layout, at, calls)
            remember(self._openings, key, opening)
        return opening

    def _plain_opening(
        self, dialogue: Dialogue, message: int, layout: Layout, at: int, calls: tuple[ToolCall, ...]
    ) -> str:
        number = len(slots_of(dialogue.messages))
        probe = with_sentinels(dialogue)
        words = Text(text=sentinel(number))
        stand_in = replace(dialogue.messages[message], parts=(words,), reasoning=None, tool_calls=calls)
        messages = (*probe.messages[:message], stand_in, *probe.messages[message + 1 :])
        rendered = self._template.render(Dialogue(messages=messages, tools=probe.tools), plain_text=layout.plain_text)
        literals, order = split_at_sentinels(rendered)
        if order[: at + 1] != (*layout.order[:at], number):
            raise RefuseSample("unlocatable-turns", f"what opens message {message}, an assistant turn, cannot be told")
        return literals[at]

    def _find_end_of_turn(self) -> str:
        probe = Dialogue(messages=(QUESTION, Message(role="assistant", parts=(Text(text="b"),))))
        literal = find_layout(probe, self._plainly, self._control_tokens).checked(probe.messages).literals[2]
        found = self._control_tokens.match(literal.lstrip())
        if found is None:
            raise StopRun(
                f"the chat template ends an assistant turn with {literal!r}, which is no control token",
                "Give the template {% generation %} marks, which say what the assistant generates.",
            )
        return found[0]

    def _find_end_of_calls(self) -> str:
        """The last control token of a conversation that ends with a call."""
        probe = Dialogue(messages=(QUESTION, Message(role="assistant", parts=(), tool_calls=(CALL,))), tools=(TOOL,))
        try:
            layout = find_layout(probe, self._plainly, self._control_tokens)
        except RefuseSample:
            return self.end_of_turn
        found = self._control_tokens.findall(layout.literals[-1])
        return str(found[-1]) if found else self.end_of_turn

    def _find_prompt(self) -> str:
        """What a model is given before it answers; empty where the template does not say."""
        probe = Dialogue(messages=(QUESTION,))
        for plain_text in (False, True):
            try:
                asked = self._template.render(probe, plain_text=plain_text)
                prompted = self._template.render(probe, plain_text=plain_text, generation_prompt=True)
            except RefuseSample:
                continue
            return prompted[len(common_beginning(asked, prompted)) :].lstrip()
        return ""

    def _plainly(self, dialogue: Dialogue, plain_text: bool) -> str:
        return self._template.render(dialogue, plain_text=plain_text)


def common_beginning(one: str, other: str) -> str:
    """The beginning that two texts share, without a tag that they share the first letters of alone."""
    pairs = enumerate(zip(one, other, strict=False))
    shared = one[: next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))]
    if shared in (one, other):
        return shared
    return OPEN_TAG.sub("", shared)
