"""Tool calls and tool definitions in every spelling give the same; what cannot be told is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sources.test_conversation import refusal, sample
from vlmprep.schema.conversation import Message, Text, ToolCall

ARGUMENTS = {"city": 'Bern "é"\n', "days": 3, "units": None, "nested": {"a": [1.5, True]}}
CALL = ToolCall(name="weather", arguments=ARGUMENTS, call_id="c1")
FUNCTION = {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}


def calling(**words: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None, **words}]}


def call(arguments: Any, **words: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}, **words}


@pytest.mark.parametrize(
    "calls",
    [
        [call(ARGUMENTS)],
        [call(json.dumps(ARGUMENTS))],
        [call(json.dumps(ARGUMENTS, indent=3, ensure_ascii=False))],
        [call(ARGUMENTS, index=0)],
        [{"id": "c1", "name": "weather", "arguments": ARGUMENTS}],
        json.dumps([call(ARGUMENTS)]),
        call(ARGUMENTS),
    ],
)
def test_every_spelling_of_a_call_is_the_same(calls):
    assert sample(calling(tool_calls=calls)).messages[1] == Message(role="assistant", parts=(), tool_calls=(CALL,))


def test_a_call_may_stand_behind_words_and_thoughts():
    found = sample(calling(content="Let me see.", reasoning_content="hm", tool_calls=[call({}), call({"a": 1})]))
    calls = (
        ToolCall(name="weather", arguments={}, call_id="c1"),
        ToolCall(name="weather", arguments={"a": 1}, call_id="c1"),
    )
    expected = Message(role="assistant", parts=(Text(text="Let me see."),), reasoning="hm", tool_calls=calls)
    assert found.messages[1] == expected


def test_the_older_function_call_and_its_reply():
    record = calling(function_call={"name": "weather", "arguments": json.dumps(ARGUMENTS)})
    record["messages"].append({"role": "function", "name": "weather", "content": "sunny"})
    messages = sample(record).messages
    assert messages[1].tool_calls == (ToolCall(name="weather", arguments=ARGUMENTS),)
    assert messages[2] == Message(role="tool", parts=(Text(text="sunny"),), name="weather")


@pytest.mark.parametrize("roles", [("function_call", "observation"), ("tool_call", "tool_response")])
@pytest.mark.parametrize("several", [False, True])
def test_sharegpts_calls_and_observations(roles, several):
    one = {"name": "weather", "arguments": ARGUMENTS}
    turns = [
        {"from": "human", "value": "Q"},
        {"from": roles[0], "value": json.dumps([one, one] if several else one)},
        {"from": roles[1], "value": "sunny"},
        {"from": "gpt", "value": "A"},
    ]
    found = sample({"conversations": turns, "tools": json.dumps([FUNCTION])})
    expected = ToolCall(name="weather", arguments=ARGUMENTS)
    assert [message.role for message in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert found.messages[1].tool_calls == (expected,) * (2 if several else 1)
    assert found.messages[1].learn
    assert found.tools == ({"type": "function", "function": FUNCTION},)
    turns[1]["loss"] = False
    assert not sample({"conversations": turns}).messages[1].learn


def test_a_meta_files_own_words_for_calls_and_tools():
    turns = [{"from": "U", "value": "Q"}, {"from": "F", "value": '{"name": "f"}'}, {"from": "O", "value": "x"}]
    tags = {"user_tag": "U", "function_tag": "F", "observation_tag": "O"}
    found = sample({"conversations": turns, "kit": [FUNCTION]}, tags=tags, columns={"tools": "kit"})
    assert [message.role for message in found.messages] == ["user", "assistant", "tool"]
    assert found.messages[1].tool_calls == (ToolCall(name="f", arguments={}),)
    assert found.tools == ({"type": "function", "function": FUNCTION},)


@pytest.mark.parametrize("arguments", ["", " ", None, {}, "{}"])
def test_a_call_may_have_no_arguments(arguments):
    assert sample(calling(tool_calls=[call(arguments)])).messages[1].tool_calls[0].arguments == {}


@pytest.mark.parametrize(
    "calls",
    [
        [call("no json")],
        [call("[1]")],
        [call([1])],
        [call(5)],
        [call(True)],
        [call('"text"')],
        [call('{"a": NaN}')],
        [call('{"a": 1e999}')],
        [call("[" * 100_000)],
        [{"function": {"arguments": {}}}],
        [{"function": {"name": "", "arguments": {}}}],
        [{"function": {"name": 5}}],
        [{"function": "f"}],
        [{"type": "code", "function": {"name": "f"}}],
        [{"id": 5, "function": {"name": "f"}}],
        [{"name": "f", "parameters": {}}],
        ["f"],
        [None],
        "f",
        5,
    ],
)
def test_a_call_that_cannot_be_read_is_refused(calls):
    found = refusal(calling(tool_calls=calls))
    assert found.code == "bad-tools"
    assert "message 1" in found.reason


def test_arguments_that_give_a_name_twice_are_refused():
    found = refusal(calling(tool_calls=[call('{"a": 1, "a": 2}')]))
    assert (found.code, "'a'" in found.reason) == ("duplicate-name", True)


def test_two_spellings_at_once_are_refused():
    assert refusal(calling(tool_calls=[call({})], function_call={"name": "f"})).code == "bad-tools"


@pytest.mark.parametrize("value", ["", "x", "[]", "{}", "5", "null", None, [], ["x"]])
def test_a_function_call_that_calls_nothing_is_refused(value):
    turns = [{"from": "human", "value": "Q"}, {"from": "function_call", "value": value}]
    assert refusal({"conversations": turns}).code == "bad-tools"


@pytest.mark.parametrize("calls", [None, [], ""])
def test_a_message_without_calls_says_something(calls):
    assert refusal(calling(tool_calls=calls)).code == "bad-message"
    assert sample(calling(content="x", tool_calls=calls)).messages[1].tool_calls == ()


@pytest.mark.parametrize(
    "tools",
    [
        [FUNCTION],
        [{"type": "function", "function": FUNCTION}],
        FUNCTION,
        json.dumps(FUNCTION),
        json.dumps([{"type": "function", "function": FUNCTION}]),
    ],
)
@pytest.mark.parametrize("column", ["tools", "functions"])
def test_every_spelling_of_a_tool_is_the_same(column, tools):
    found = sample(calling(content="x") | {column: tools})
    assert found.tools == ({"type": "function", "function": FUNCTION},)


@pytest.mark.parametrize("tools", [None, [], "", {}])
def test_no_tools_are_none(tools):
    assert sample(calling(content="x") | {"tools": tools}).tools == ()


@pytest.mark.parametrize("tools", ["x", "5", [5], [{}], [{"function": {}}], [{"name": 5}], ["f"], 5, True])
def test_tools_without_names_are_refused(tools):
    assert refusal(calling(content="x") | {"tools": tools}).code == "bad-tools"
