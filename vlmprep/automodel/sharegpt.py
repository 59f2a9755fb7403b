"""Rows as people spell them to examples: `{"conversation": [...]}`, by the code that reads rows of sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmprep.schema.conversation import Media, Message, Part, Text
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.spec import SourceSpec
from vlmprep.sources.tools import tools_of

__all__ = ["RECORDED", "example_of_row", "row_reader"]

RECORDED = ("mm_inputs_meta", "_text_tokens")
"""What a row may have that was counted before, kept beside its conversation."""


def row_reader(
    columns: Mapping[str, str] | None, tags: Mapping[str, str] | None, media_dir: str | None, name: str = "examples"
) -> RowReader:
    """What converts rows; paths may lie anywhere, as the reference has it, and stay relative where there is no media folder.

    Raises:
        StopRun: Columns or tags are none that are known.
    """
    spec = SourceSpec(name=name, path="", media_dir=media_dir or "", columns=columns or {}, tags=tags or {})
    return RowReader(spec=spec, allow_outside_media=True, allow_remote_media=True)


def example_of_row(row: Mapping[str, Any], rows: RowReader) -> dict[str, Any]:
    """Convert a row.

    Args:
        row: In ShareGPT's or OpenAI's spelling.
        rows: From `row_reader`.

    Returns:
        `conversation`, and where the row has them `tools`, `mm_inputs_meta`, `_text_tokens`.

    Raises:
        RefuseSample: It makes no conversation.
    """
    example: dict[str, Any] = {"conversation": [_message(message) for message in rows.messages(row)]}
    if tools := tools_of(row, rows.spec.columns):
        example["tools"] = list(tools)
    return example | {name: row[name] for name in RECORDED if name in row}


def _message(message: Message) -> dict[str, Any]:
    """A message as chat templates and collate functions read it; what it has beside role and content only where it has it."""
    calls = [
        {
            "type": "function",
            "function": {"name": call.name, "arguments": dict(call.arguments)},
            **({} if call.call_id is None else {"id": call.call_id}),
        }
        for call in message.tool_calls
    ]
    words = {
        "reasoning_content": message.reasoning,
        "tool_calls": calls or None,
        "name": message.name,
        "tool_call_id": message.call_id,
        "learn": None if message.learn else False,
    }
    content = [_item(part) for part in message.parts]
    return {
        "role": message.role,
        "content": content,
        **{name: value for name, value in words.items() if value is not None},
    }


def _item(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": part.kind, part.kind: _value(part)}


def _value(medium: Media) -> Any:
    """A medium as an item holds it: a path or URL, bytes, or the list of a clip's images."""
    if medium.frames is not None:
        return [_value(frame) for frame in medium.frames]
    return medium.place if medium.place is not None else medium.content
