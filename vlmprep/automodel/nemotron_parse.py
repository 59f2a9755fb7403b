"""Nemotron-Parse: an encoder that reads one page, a decoder that writes what stands on it; no chat template.

decoder's text    task prompt + target
labels            target, and what the tokenizer ends it with
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlmprep.automodel.batches import Batch, counted, shifted
from vlmprep.automodel.conversations import Conversation, assistant_text, media_of
from vlmprep.automodel.examples import conversations_of
from vlmprep.automodel.labels import tokens_behind
from vlmprep.automodel.media import image_of
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.packset import IGNORE_INDEX

__all__ = ["TASK_PROMPT", "collate_nemotron_parse"]

TASK_PROMPT = "</s><s><predict_bbox><predict_classes><output_markdown>"


def collate_nemotron_parse(examples: Sequence[Mapping[str, Any]], processor: Any, task_prompt: str) -> Batch:
    """Pages and their targets to a batch of an encoder-decoder.

    Args:
        examples: Conversations of one image and one answer each.
        processor: `processor(images=..., text=..., padding=True, return_tensors="pt")`.
        task_prompt: What the decoder begins with; not learned.

    Returns:
        What the processor returns, tokens shifted; pixel_values bfloat16; `decoder_input_ids` and `decoder_attention_mask`
        [B, S - 1], the tokens that the decoder reads, beside `labels` [B, S - 1], those that it writes.

    Raises:
        RefuseSample: Not one image and one answer, or tokens that are not the text's.
    """
    pages = [_page(conversation, row) for row, conversation in enumerate(conversations_of(examples))]
    texts = [task_prompt + target for _, target in pages]
    batch: Batch = processor(images=[image for image, _ in pages], text=texts, padding=True, return_tensors="pt")
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
    mask = batch["attention_mask"]
    labels = [_labels(*row, task_prompt, processor) for row in zip(batch["input_ids"], mask, texts, strict=True)]
    batch = shifted(batch, torch.stack(labels))
    batch["decoder_input_ids"] = batch["input_ids"]
    batch["decoder_attention_mask"] = batch["attention_mask"]
    return counted(batch, [1] * len(pages), [])


def _page(conversation: Conversation, row: int) -> tuple[Any, str]:
    media = media_of(conversation)
    answers = [assistant_text(message) for message in conversation if message.get("role") == "assistant"]
    if [medium.kind for medium in media] != ["image"] or len(answers) != 1 or not answers[0]:
        raise RefuseSample(
            "not-a-page",
            f"conversation {row} of the batch has {len(media)} media and {len(answers)} answers; "
            "Nemotron-Parse reads one page and writes one text",
        )
    return image_of(media[0].value), answers[0]


def _labels(ids: Tensor, mask: Tensor, text: str, task_prompt: str, processor: Any) -> Tensor:
    first = tokens_behind(ids, mask, text, len(task_prompt), processor)
    is_target = torch.arange(len(ids), device=ids.device) >= first
    return torch.where(is_target & mask.bool(), ids, IGNORE_INDEX)
