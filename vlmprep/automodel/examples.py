"""Examples to their conversations: held against what a conversation is, decoded images in RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from vlmprep.automodel.conversations import Conversation
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.wording import names, shown

__all__ = ["conversation_of", "conversations_of", "ensure_rgb"]


def conversations_of(examples: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """The conversations of a batch, decoded images in RGB.

    Raises:
        RefuseSample: One is none; its row is named.
    """
    found = []
    for row, example in enumerate(examples):
        try:
            found.append(conversation_of(example))
        except RefuseSample as refusal:
            raise RefuseSample(refusal.code, f"conversation {row} of the batch: {refusal.reason}") from refusal
    return ensure_rgb(found)


def conversation_of(example: Any) -> Conversation:
    """The conversation of an example.

    Raises:
        RefuseSample: It has none, or one of other things than messages.
    """
    conversation = example.get("conversation") if isinstance(example, Mapping) else None
    if not isinstance(conversation, Sequence) or isinstance(conversation, str) or not conversation:
        raise RefuseSample("no-messages", "an example has no 'conversation' with messages in it")
    for at, message in enumerate(conversation):
        if not isinstance(message, Mapping):
            raise RefuseSample("bad-message", f"message {at} is {shown(message)}, expected a mapping")
        if not isinstance(message.get("role"), str):
            raise RefuseSample("missing-role", f"message {at} has no 'role' that is text; it has {names(message)}")
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, Sequence) or not all(isinstance(item, str | Mapping) for item in content):
            raise RefuseSample("bad-message", f"message {at} holds {shown(content)}, expected text or items")
    return conversation


def ensure_rgb(conversations: Sequence[Conversation]) -> list[list[dict[str, Any]]]:
    """The same conversations with every PIL image in RGB, frames of clips included, by PIL's own conversion.

    The conversations that came in are left as they are: they may be a data set's own.
    """
    return [[_message_in_rgb(message) for message in conversation] for conversation in conversations]


def _message_in_rgb(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, Sequence) or isinstance(content, str):
        return dict(message)
    return {**message, "content": [_item_in_rgb(item) if isinstance(item, Mapping) else item for item in content]}


def _item_in_rgb(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _in_rgb(value) for key, value in item.items()}


def _in_rgb(value: Any) -> Any:
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if isinstance(value, list) and any(isinstance(frame, Image.Image) for frame in value):
        return [_in_rgb(frame) for frame in value]
    return value
