r"""Tool calls and tool definitions: whether a chat template writes all of them, and on which side of a message's texts.

How a template spells a call is its own affair (`{"name": "f", "arguments": {"x": "a"}}`, `call:f{x:a}`, XML). What must hold is
tried with sentinels for names and values: all are written, in their own turns, and no turn ends between them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from vlmprep.families.text.dialogue import Dialogue, shape_of, slots_of
from vlmprep.families.text.layout import Layout, Renderer, sentinel, split_at_sentinels, with_sentinels
from vlmprep.schema.conversation import ToolCall
from vlmprep.schema.errors import RefuseSample

__all__ = ["NO_CALLS", "CallPlaces", "check_calls", "structure_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlaces:
    """Where a template writes the calls of a conversation's messages."""

    before_texts: frozenset[int] = frozenset()
    """Messages whose calls stand before what they say."""


NO_CALLS = CallPlaces()


def check_calls(dialogue: Dialogue, layout: Layout, render: Renderer, ends: tuple[str, ...]) -> CallPlaces:
    """Find where a template writes the calls of a conversation.

    Args:
        dialogue: The conversation.
        layout: How the template lays out its texts.
        render: The template.
        ends: Tokens that end a turn.

    Raises:
        RefuseSample: Not all calls or tools are written, not in their own turns, or a turn ends among them.
    """
    slots = slots_of(dialogue.messages)
    probe, owners, num_named = _with_call_sentinels(with_sentinels(dialogue), len(slots))
    owner_of = {**{number: slot.message for number, slot in enumerate(slots)}, **owners}
    literals, order = split_at_sentinels(render(probe, layout.plain_text))
    written = set(order)
    if missing := [number for number in owners if number not in written]:
        raise _not_written(f"a call of message {owners[missing[0]]}")
    if any(number not in written for number in range(len(owner_of), len(owner_of) + num_named)):
        raise _not_written("a tool's definition")
    order_of_messages = [owner_of[number] for number in order if number in owner_of]
    if order_of_messages != sorted(order_of_messages):
        raise RefuseSample("unlocatable-turns", "the chat template moves tool calls out of the turns that make them")
    before = set()
    for message in sorted(set(owners.values())):
        places = [at for at, number in enumerate(order) if owner_of.get(number) == message]
        if any(end in literal for literal in literals[places[0] + 1 : places[-1] + 1] for end in ends):
            raise RefuseSample(
                "unlocatable-turns", f"the chat template ends a turn among the calls of message {message}"
            )
        if order[places[0]] >= len(slots) and any(order[at] < len(slots) for at in places):
            before.add(message)
    return CallPlaces(before_texts=frozenset(before))


def structure_of(dialogue: Dialogue, plain_text: bool) -> bytes:
    """A digest of all that `check_calls` depends on."""
    calls = [
        [(_values_as(call.arguments, lambda: 0), str(call.call_id).count(call.name)) for call in message.tool_calls]
        for message in dialogue.messages
    ]
    names = [(message.name, message.call_id) for message in dialogue.messages]
    content = (shape_of(dialogue.messages), calls, names, dialogue.tools, plain_text)
    return xxhash.xxh3_128_digest(json.dumps(content, ensure_ascii=True).encode())


def _with_call_sentinels(dialogue: Dialogue, first: int) -> tuple[Dialogue, dict[int, int], int]:
    """The conversation with sentinels for names and values of calls and for names of tools.

    Returns:
        The conversation; the message of each sentinel of a call, numbered from `first`; how many tools' names follow.
    """
    owners: dict[int, int] = {}

    def fresh(message: int) -> str:
        owners[first + len(owners)] = message
        return sentinel(first + len(owners) - 1)

    messages = []
    for at, message in enumerate(dialogue.messages):
        calls = tuple(_call_with(call, fresh, at) for call in message.tool_calls)
        messages.append(dataclasses.replace(message, tool_calls=calls))
    numbers = iter(range(first + len(owners), first + len(owners) + len(dialogue.tools)))
    tools = tuple(_tool_with(tool, sentinel(next(numbers))) for tool in dialogue.tools)
    return Dialogue(messages=tuple(messages), tools=tools), owners, len(tools)


def _call_with(call: ToolCall, fresh: Callable[[int], str], message: int) -> ToolCall:
    """A call with sentinels; a template that writes ids in place of names has the name's in an id that holds the name."""
    name = fresh(message)
    call_id = None if call.call_id is None else call.call_id.replace(call.name, name)
    arguments = _values_as(call.arguments, lambda: fresh(message))
    return ToolCall(name=name, arguments=arguments, call_id=call_id)


def _values_as(value: Any, leaf: Callable[[], Any]) -> Any:
    """The same JSON with every text, number, truth value and null replaced."""
    if isinstance(value, Mapping):
        return {key: _values_as(inner, leaf) for key, inner in value.items()}
    if isinstance(value, list):
        return [_values_as(inner, leaf) for inner in value]
    return leaf()


def _tool_with(tool: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    function = tool.get("function")
    if isinstance(function, Mapping):
        return {**tool, "function": {**function, "name": name}}
    return {**tool, "name": name}


def _not_written(what: str) -> RefuseSample:
    return RefuseSample(
        "unsupported-message",
        f"the chat template does not write {what}: the model was not made for tools, or reads them in another form "
        "(some templates write ids, which must hold the function's name: functions.NAME:0)",
    )
