"""Kimi K2.5: placeholders written out before the model sees them, so that sequences keep their length in a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlmprep.automodel.batches import Batch, Call, collate, finished, pad_id, padded, too_long
from vlmprep.automodel.conversations import Conversation, media_of
from vlmprep.automodel.examples import conversations_of
from vlmprep.automodel.labels import build_labels
from vlmprep.automodel.media import image_of
from vlmprep.automodel.templates import rendered
from vlmprep.schema.errors import RefuseSample

__all__ = ["collate_kimi_k25", "expand_image_tokens"]

PLACEHOLDER = "<|media_pad|>"


def expand_image_tokens(
    input_ids: Tensor,
    attention_mask: Tensor,
    grid_thws: Tensor,
    media_token_id: int,
    merge_kernel_size: tuple[int, int] = (2, 2),
) -> tuple[Tensor, Tensor]:
    """Write every image's placeholder as often as the model fills it: (h // merge_h) * (w // merge_w) times.

    Args:
        input_ids: [S] with one placeholder per image.
        attention_mask: [S].
        grid_thws: [images, 3] rows of (t, h, w) patches; time is pooled.
        media_token_id: The placeholder.
        merge_kernel_size: Patches that make one token, by height and width.

    Returns:
        Both, expanded; as they came where no placeholder is there.

    Raises:
        RefuseSample: There are other numbers of placeholders and images.
    """
    repeats = torch.ones_like(input_ids, dtype=torch.int64)
    is_placeholder = input_ids == media_token_id
    if not bool(is_placeholder.any()):
        return input_ids, attention_mask
    merge_height, merge_width = merge_kernel_size
    sizes = (grid_thws[:, 1] // merge_height) * (grid_thws[:, 2] // merge_width)
    if int(is_placeholder.sum()) != len(sizes):
        raise RefuseSample("tag-mismatch", f"{int(is_placeholder.sum())} placeholders for {len(sizes)} images")
    repeats[is_placeholder] = sizes.to(repeats)
    return input_ids.repeat_interleave(repeats), attention_mask.repeat_interleave(repeats)


def collate_kimi_k25(examples: Sequence[Mapping[str, Any]], processor: Any, max_length: int | None) -> Batch:
    """Collate for the processor of transformers, which expands by itself, or for the published remote code, which does not."""
    conversations: list[Conversation] = list(conversations_of(examples))
    if "medias" not in inspect.signature(type(processor).__call__).parameters:
        return collate(examples, conversations, processor, Call(max_length=max_length, padding_side="right"))
    samples = [_expanded(conversation, processor) for conversation in conversations]
    kept = too_long([len(sample["input_ids"]) for sample in samples], max_length)
    samples, conversations = [samples[row] for row in kept], [conversations[row] for row in kept]
    examples = [examples[row] for row in kept]
    batch: Batch = {
        "input_ids": _stacked([sample["input_ids"] for sample in samples], pad_id(processor)),
        "attention_mask": _stacked([sample["attention_mask"] for sample in samples], 0),
    }
    for name in ("pixel_values", "grid_thws"):
        if found := [sample[name] for sample in samples if sample.get(name) is not None]:
            batch[name] = torch.cat(found)
    if "grid_thws" in batch:
        batch["image_grid_hws"] = batch["grid_thws"][:, 1:]
    batch = padded(batch, processor, max_length, "right")
    labels = build_labels(batch["input_ids"], conversations, processor)
    return finished(batch, labels, examples, conversations, processor)


def _expanded(conversation: Conversation, processor: Any) -> dict[str, Any]:
    """One conversation through the remote processor, expanded: fields of one row."""
    media = media_of(conversation)
    if other := [medium.kind for medium in media if medium.kind != "image"]:
        raise RefuseSample("unsupported-media", f"kimi_k25_vl_collate_fn takes images, not {other[0]}")
    medias = {"medias": [{"type": "image", "image": image_of(medium.value)} for medium in media]} if media else {}
    made = processor(text=rendered(conversation, processor), return_tensors="pt", **medias)
    sample = {**made, "input_ids": made["input_ids"][0], "attention_mask": made["attention_mask"][0]}
    if sample.get("grid_thws") is not None:
        kernel = getattr(getattr(processor, "image_processor", None), "merge_kernel_size", (2, 2))
        sample["input_ids"], sample["attention_mask"] = expand_image_tokens(
            sample["input_ids"],
            sample["attention_mask"],
            sample["grid_thws"],
            _placeholder_id(processor),
            tuple(kernel),
        )
    return sample


def _placeholder_id(processor: Any) -> int:
    own = getattr(processor, "media_placeholder_token_id", None)
    return int(processor.tokenizer.convert_tokens_to_ids(PLACEHOLDER) if own is None else own)


def _stacked(rows: Sequence[Tensor], fill: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)
