"""Samples that were tokenized before, and packs: padding, stacking, joining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlmprep.automodel.batches import Batch, counted, pad_id, shifted
from vlmprep.runtime.collate import neat
from vlmprep.schema.packset import IGNORE_INDEX, SEQUENCE_FIELDS

__all__ = ["collate_packs", "collate_padded"]

PACK_COUNTS = {"n_images": "n_images_per_sample", "n_videos": "n_videos_per_sample"}
"""What packs may say of their media, and what the batch calls it."""
MEDIA_FILLS = {"image_attention_mask": 1}
"""What fills the shorter media of a field; 0 elsewhere."""


def collate_padded(examples: Sequence[Mapping[str, Any]], processor: Any, max_length: int | None) -> Batch:
    """Tokenized samples to a shifted batch.

    Args:
        examples: Each with `input_ids`, `attention_mask` and `labels` [S_i], not shifted, and media fields whose first
            axis counts media or patches.
        processor: Whose padding token fills rows.
        max_length: Length of every row before the shift; default: the longest sample's.

    Returns:
        Token fields [B, S - 1], media fields joined along the first axis (pixels as bfloat16), counts of media.

    Raises:
        ValueError: A sample is longer than `max_length`.
    """
    longest = max(len(example["input_ids"]) for example in examples)
    if max_length is not None and longest > max_length:
        raise ValueError(f"a sample of {longest} tokens does not fit into max_length={max_length}")
    fills = {"input_ids": pad_id(processor), "labels": IGNORE_INDEX}
    batch: Batch = {}
    for name in dict.fromkeys(name for example in examples for name in example):
        values = [example[name] for example in examples if isinstance(example.get(name), Tensor)]
        if name in SEQUENCE_FIELDS:
            rows = [_to_length(value, max_length or longest, fills.get(name, 0)) for value in values]
            batch[name] = torch.stack(rows, dim=-2)
        elif values:
            batch[name] = _joined(values, MEDIA_FILLS.get(name, 0))
            if name.startswith("pixel_values"):
                batch[name] = batch[name].to(torch.bfloat16)
    batch = shifted(batch, batch["labels"])
    return counted(batch, _media_of(examples, "image_grid_thw"), _media_of(examples, "video_grid_thw"))


def collate_packs(
    batch: Sequence[Mapping[str, Any]], padding_idx: int, max_length: int | None, attn_implementation: str
) -> dict[str, Any]:
    """Packs through `vlmprep.runtime.collate.neat`; media are counted as the packs say (`n_images`, `n_videos`)."""
    if not batch:
        return {}
    packs = [
        {name: torch.as_tensor(value) for name, value in pack.items() if value is not None and name not in PACK_COUNTS}
        for pack in batch
    ]
    made = neat(packs, padding_idx, max_length, attn_implementation)
    for own, name in PACK_COUNTS.items():
        if any(own in pack for pack in batch):
            made[name] = torch.tensor([int(pack.get(own) or 0) for pack in batch])
    return made


def _to_length(row: Tensor, length: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(row, (0, length - row.shape[-1]), value=fill)


def _joined(values: Sequence[Tensor], fill: int) -> Tensor:
    """Fields of several samples along the first axis; on the others the smaller ones are filled up, as processors do."""
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    grown = []
    for value in values:
        margins = [m for size, wanted in zip(value.shape[:0:-1], shape[::-1], strict=True) for m in (0, wanted - size)]
        grown.append(torch.nn.functional.pad(value, margins, value=fill))
    return torch.cat(grown)


def _media_of(examples: Sequence[Mapping[str, Any]], grid: str) -> list[int]:
    return [len(example[grid]) if example.get(grid) is not None else 0 for example in examples]
