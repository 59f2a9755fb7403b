"""Tool calls and tool definitions of a row, in the spellings of OpenAI, ShareGPT and those who read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlmprep.schema.conversation import ToolCall
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.columns import filled
from vlmprep.sources.records import DuplicateNameError, object_of_unique_names
from vlmprep.sources.wording import kind_of, names, shown

__all__ = ["calls_of_message", "calls_of_text", "tools_of"]

TOOL_COLUMNS = ("tools", "functions")
CALL_NAMES = {"id", "type", "index", "function", "name", "arguments"}
"""What an object that calls a function may hold."""


def tools_of(record: Mapping[str, Any], own: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """The functions that a row's conversation may call, as transformers takes them.

    Args:
        record: The row.
        own: The source's own column names: tools -> name.

    Raises:
        RefuseSample: They are no list of named functions.
    """
    column = next(iter(filled(record, (own["tools"],) if "tools" in own else TOOL_COLUMNS)), None)
    if column is None:
        return ()
    value = record[column]
    found = parsed(value, f"column {column!r}") if isinstance(value, str) else value
    return tuple(_tool(tool, column) for tool in (found if isinstance(found, list) else [found]))


def _tool(tool: Any, column: str) -> Mapping[str, Any]:
    if isinstance(tool, dict):
        inner = tool.get("function")
        function = inner if isinstance(inner, dict) else tool
        if isinstance(name := function.get("name"), str) and name:
            _check_numbers(tool, f"column {column!r}")
            return tool if function is inner else {"type": "function", "function": tool}
    raise RefuseSample("bad-tools", f"column {column!r} holds {shown(tool)}, expected functions with names")


def calls_of_message(at: int, value: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls in OpenAI's `tool_calls`, or its older `function_call`, of a message.

    Raises:
        RefuseSample: They are no functions with names and arguments.
    """
    both = [name for name in ("tool_calls", "function_call") if value.get(name)]
    if not both:
        return ()
    if len(both) > 1:
        raise RefuseSample("bad-tools", f"message {at} has both 'tool_calls' and 'function_call': which is meant?")
    calls = value[both[0]]
    if isinstance(calls, str):
        calls = parsed(calls, f"{both[0]!r} of message {at}")
    return tuple(_call(at, call) for call in (calls if isinstance(calls, list) else [calls]))


def calls_of_text(at: int, text: Any) -> tuple[ToolCall, ...]:
    """The calls that are the whole content of a message of ShareGPT's role `function_call`.

    Raises:
        RefuseSample: The content is no JSON of them.
    """
    where = f"message {at}, a function call,"
    if not isinstance(text, str):
        raise RefuseSample("bad-tools", f"{where} is {kind_of(text)}, expected JSON as text")
    calls = parsed(text, where)
    if not calls:
        raise RefuseSample("bad-tools", f"{where} calls nothing")
    return tuple(_call(at, call) for call in (calls if isinstance(calls, list) else [calls]))


def _call(at: int, call: Any) -> ToolCall:
    where = f"a tool call of message {at}"
    if not isinstance(call, dict):
        raise RefuseSample("bad-tools", f"{where} is {kind_of(call)}, expected an object")
    function = call.get("function", call)
    if call.get("type") not in (None, "function") or not isinstance(function, dict):
        raise RefuseSample("bad-tools", f"{where} is {shown(call)}, expected a function with name and arguments")
    if unknown := (set(call) | set(function)) - CALL_NAMES:
        raise RefuseSample("bad-tools", f"{where} has {names(sorted(unknown))}, which no chat template reads")
    name, call_id = function.get("name"), call.get("id")
    if not isinstance(name, str) or not name:
        raise RefuseSample("bad-tools", f"{where} has the name {shown(name)}, expected that of a function")
    if call_id is not None and not isinstance(call_id, str):
        raise RefuseSample("bad-tools", f"{where} has the id {shown(call_id)}, expected text")
    return ToolCall(name=name, arguments=_arguments(function.get("arguments"), where), call_id=call_id)


def _arguments(arguments: Any, where: str) -> Mapping[str, Any]:
    if isinstance(arguments, str) and arguments.strip():
        arguments = parsed(arguments, f"the arguments of {where}")
    if arguments in (None, "") or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    if not isinstance(arguments, dict):
        raise RefuseSample("bad-tools", f"the arguments of {where} are {kind_of(arguments)}, expected an object")
    _check_numbers(arguments, f"the arguments of {where}")
    return arguments


def parsed(text: str, where: str) -> Any:
    """JSON that a row holds as text.

    Raises:
        RefuseSample: It is none, or gives a name twice.
    """
    try:
        return json.loads(text, object_pairs_hook=object_of_unique_names)
    except DuplicateNameError as error:
        raise RefuseSample("duplicate-name", f"{where} gives {shown(error.name)} twice: which one is meant?") from None
    except (ValueError, RecursionError) as error:
        raise RefuseSample("bad-tools", f"{where} is no JSON: {str(error) or 'nested too deeply'}") from None


def _check_numbers(value: Any, where: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise RefuseSample("bad-tools", f"{where} hold a number that is none, or are nested too deeply") from None
