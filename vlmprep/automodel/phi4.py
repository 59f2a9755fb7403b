"""Phi-4-multimodal: sounds (and images) with the processor of transformers or with the published remote code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlmprep.automodel.batches import Batch, Call, collate, finished
from vlmprep.automodel.conversations import Conversation, items_of, media_of
from vlmprep.automodel.examples import conversations_of
from vlmprep.automodel.labels import build_labels
from vlmprep.automodel.media import audio_rate, image_of, sound_of
from vlmprep.automodel.templates import rendered
from vlmprep.schema.errors import RefuseSample

__all__ = ["collate_phi4", "with_sounds"]

TAG = re.compile(r"<\|audio_([0-9]+)\|>")
"""Where the published data sets put a sound into a user's text."""
VISUAL, AUDIBLE = ("input_image_embeds", "image_pixel_values"), ("input_audio_embeds", "audio_input_features")
MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
"""(images, sounds) -> `input_mode` of the remote code."""


def collate_phi4(examples: Sequence[Mapping[str, Any]], processor: Any) -> Batch:
    """Examples with their sounds in the conversation or beside it, as `example["audio"]`.

    Raises:
        RefuseSample: A conversation has other numbers of tags and sounds, or a medium cannot be read.
    """
    rows = conversations_of(examples)
    if "audios" in inspect.signature(type(processor).__call__).parameters:
        return _remote(examples, list(rows), processor)
    placed = [with_sounds(conversation, example) for conversation, example in zip(rows, examples, strict=True)]
    return collate(examples, placed, processor, Call(padding_side="right"))


def _sounds(example: Mapping[str, Any]) -> list[Any]:
    """The sounds beside a conversation."""
    beside = example.get("audio")
    if beside is None:
        return []
    return beside if isinstance(beside, list) and beside and isinstance(beside[0], Mapping | tuple) else [beside]


def with_sounds(conversation: Conversation, example: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation with the sounds beside it (`example["audio"]`) in the places of their tags.

    Raises:
        RefuseSample: The text names others than are there.
    """
    sounds = _sounds(example)
    if not sounds:
        return [dict(message) for message in conversation]
    numbers: list[int] = []

    def placed(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        if item.get("type", "text") != "text":
            return [item]
        pieces = TAG.split(str(item.get("text", "")))
        items: list[Mapping[str, Any]] = []
        for text, tag in zip(pieces[0::2], [*pieces[1::2], None], strict=True):
            items += [{"type": "text", "text": text}] if text else []
            if tag is not None:
                numbers.append(int(tag))
                items += [{"type": "audio", "audio": sounds[int(tag) - 1]}] if 0 < int(tag) <= len(sounds) else []
        return items

    messages = [
        {**message, "content": [part for item in items_of(message) for part in placed(item)]}
        if message.get("role") == "user"
        else dict(message)
        for message in conversation
    ]
    if numbers != list(range(1, len(sounds) + 1)):
        raise RefuseSample(
            "tag-mismatch",
            f"the text names the sounds {numbers}, {len(sounds)} are there; <|audio_1|>, <|audio_2|>, ...",
        )
    return messages


def _remote(examples: Sequence[Mapping[str, Any]], conversations: list[Any], processor: Any) -> Batch:
    """The published remote code: `processor(text=..., images=..., audios=[(samples, rate), ...])`."""
    found = [medium for conversation in conversations for medium in media_of(conversation)]
    if any(medium.kind == "video" for medium in found):
        raise RefuseSample("unsupported-media", "phi4_mm_collate_fn takes images and sounds, not video")
    texts = [rendered(conversation, processor) for conversation in conversations]
    rate = audio_rate(processor)
    sounds = [(sound_of(value, rate), rate) for value in _all_sounds(examples, conversations)]
    images = [image_of(medium.value) for medium in found if medium.kind == "image"]
    media = {name: values for name, values in (("images", images), ("audios", sounds)) if values}
    batch: Batch = processor(text=texts, padding=True, return_tensors="pt", **media)
    has_images, has_sounds = (
        any(name in batch and batch[name].numel() > 0 for name in names) for names in (VISUAL, AUDIBLE)
    )
    if "input_mode" not in batch:
        batch["input_mode"] = MODES[has_images, has_sounds]
    if not has_images:  # the remote code fills them with nothing
        for name in ("input_image_embeds", "image_sizes", "image_attention_mask"):
            batch.pop(name, None)
    labels = build_labels(batch["input_ids"], conversations, processor)
    return finished(batch, labels, examples, conversations, processor)


def _all_sounds(examples: Sequence[Mapping[str, Any]], conversations: Sequence[Conversation]) -> list[Any]:
    """The sounds of all conversations in order: those inside, then those beside."""
    return [
        sound
        for example, conversation in zip(examples, conversations, strict=True)
        for sound in [*(m.value for m in media_of(conversation) if m.kind == "audio"), *_sounds(example)]
    ]
