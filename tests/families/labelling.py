"""Tokens and labels of conversations under any chat template, with every medium as the one placeholder that stands for it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.families.chat_templates import processor_with
from vlmprep.families.text.control import control_pattern, refuse_control_text, refuse_joined_control_text
from vlmprep.families.text.encoding import PlaceholderEncoder
from vlmprep.families.text.turns import TurnFinder
from vlmprep.schema.conversation import Media, Message, Sample, Text, ToolCall
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.family import Encoded
from vlmprep.schema.media import MediaCount

__all__ = ["IMAGE", "WEATHER", "Labeller", "call", "labeller", "said", "talk"]

IMAGE = Media(kind="image", content=b"-")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}},
    },
}


def said(role: str, *parts: str | Media, **words: Any) -> Message:
    """One message."""
    return Message(role=role, parts=tuple(Text(text=p) if isinstance(p, str) else p for p in parts), **words)


def talk(*messages: Message, tools: tuple[dict[str, Any], ...] = ()) -> Sample:
    """A sample of these messages."""
    return Sample(source="s", row=0, sample_id="0", messages=messages, tools=tools)


def call(number: int = 0, name: str = "weather", **arguments: Any) -> ToolCall:
    """A call, its id in the form that templates without names need."""
    return ToolCall(name=name, arguments=arguments, call_id=f"functions.{name}:{number}")


class Labeller:
    """Labels under one template; see `processor_with`."""

    def __init__(self, name: str, template: str | None = None, *, keep_control_text: bool = False) -> None:
        self.processor = processor_with(name, template)
        self._keep = keep_control_text
        self._pattern = control_pattern(self.processor)
        self.turns = TurnFinder(self.processor, self._pattern)
        self.encoder = PlaceholderEncoder(self.processor, self._pattern)

    def encode(self, sample: Sample) -> Encoded:
        """Tokens and labels of a sample, or its refusal."""
        if not self._keep:
            refuse_control_text(sample, self._pattern)
        rendered = self.turns.render(sample)
        if not self._keep:
            refuse_joined_control_text(rendered.text, rendered.num_control_tokens, self._pattern)
        kinds = [medium.kind for medium in sample.media()]
        collapsed = self.encoder.collapse(rendered, [self._count(kind) for kind in kinds], kinds)
        (ids,) = self.encoder.tokenize([collapsed.text])
        assert not isinstance(ids, RefuseSample)
        return self.encoder.encode(collapsed, ids)

    def _count(self, kind: Any) -> MediaCount:
        token = getattr(self.processor, f"{kind}_token")
        return MediaCount(
            kind=kind, num_visual_tokens=1, num_patches=4, stored_bytes=1, replacement=token, run_lengths=(1,)
        )

    def runs(self, sample: Sample) -> list[str]:
        """The runs of learned tokens, as text."""
        encoded = self.encode(sample)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], encoded.is_label.astype(int), [0]])))
        return [self.decode(encoded.input_ids[a:b].tolist()) for a, b in zip(edges[::2], edges[1::2], strict=True)]

    def outcome(self, sample: Sample) -> Encoded | str:
        """Tokens and labels of a sample, or the code of its refusal."""
        try:
            return self.encode(sample)
        except RefuseSample as refusal:
            return refusal.code

    def decode(self, ids: list[int]) -> str:
        """Ids as text, control tokens shown."""
        tokenizer = self.processor.tokenizer
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def truth(self, sample: Sample, plain_text: bool = False, **options: Any) -> dict[str, NDArray[np.int32]]:
        """What transformers makes of a sample without media, which it is given as rows spell it."""
        made = self.processor.tokenizer.apply_chat_template(
            [spelled(message, plain_text) for message in sample.messages],
            chat_template=self.processor.chat_template,
            tools=list(sample.tools) or None,
            tokenize=True,
            return_dict=True,
            **options,
        )
        return {name: np.asarray(value, dtype=np.int32) for name, value in made.items()}


def spelled(message: Message, plain_text: bool) -> dict[str, Any]:
    """A message as a row has it."""
    texts = [part.text for part in message.parts if isinstance(part, Text)]
    turn: dict[str, Any] = {"role": message.role}
    turn["content"] = "".join(texts) if plain_text else [{"type": "text", "text": text} for text in texts]
    if message.reasoning is not None:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "id": one.call_id, "function": {"name": one.name, "arguments": dict(one.arguments)}}
            for one in message.tool_calls
        ]
    names = {"name": message.name, "tool_call_id": message.call_id}
    return turn | {key: value for key, value in names.items() if value is not None}


@cache
def labeller(name: str, *, keep_control_text: bool = False) -> Labeller:
    """A labeller, made once."""
    return Labeller(name, keep_control_text=keep_control_text)
