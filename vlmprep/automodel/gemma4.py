"""Gemma4's empty thinking channel before every answer.

The instruction-tuned 31B and 26B-A4B models always open one; where training sequences lack it, the model's first token is wrong
at every answer. Its tokens are seen and not learned.
"""

from __future__ import annotations

import itertools
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from vlmprep.automodel.batches import token_fields
from vlmprep.schema.packset import IGNORE_INDEX

__all__ = ["MODEL_TURN", "THINKING_PREFIX", "inject_thinking_prefix_tokens"]

MODEL_TURN = "<|turn>model\n"
THINKING_PREFIX = "<|channel>thought\n<channel|>"


def inject_thinking_prefix_tokens(batch: MutableMapping[str, Any], tokenizer: Any) -> MutableMapping[str, Any]:
    r"""Insert the prefix behind every `<|turn>model\n` that it does not follow already.

    By token ids, so where an answer's leading newlines share a token with the marker's nothing is found;
    `gemma4_prefix_collate_fn` therefore writes the prefix into the text, by construction.

    Args:
        batch: `input_ids` [B, S] and whatever has an entry per token; changed.
        tokenizer: Gemma4's.

    Returns:
        The same mapping, rows as long as the longest has become: behind inserted tokens `attention_mask` is 1, `labels`
        -100, all else 0; rows that gained less are padded where they were padded before.
    """
    marker = tokenizer.encode(MODEL_TURN, add_special_tokens=False)
    prefix = tokenizer.encode(THINKING_PREFIX, add_special_tokens=False)
    places = [_places(row, marker, prefix) for row in batch["input_ids"].tolist()]
    gained = [len(found) * len(prefix) for found in places]
    if not marker or not prefix or not any(gained):
        return batch
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    inserted = {"input_ids": prefix, "attention_mask": [1] * len(prefix), "labels": [IGNORE_INDEX] * len(prefix)}
    fills = {"input_ids": pad, "labels": IGNORE_INDEX}
    on_the_left = _padded_left(batch)
    for name in token_fields(batch):
        if batch[name].ndim != 2:
            raise ValueError(f"{name} has shape {list(batch[name].shape)}; positions are for the model to compute here")
        block = inserted.get(name, [0] * len(prefix))
        rows = [_inserted(row, found, block) for row, found in zip(batch[name], places, strict=True)]
        batch[name] = _stacked(rows, fills.get(name, 0), on_the_left)
    return batch


def _places(row: list[int], marker: list[int], prefix: list[int]) -> list[int]:
    """Behind which tokens the prefix goes."""
    ends = [at + len(marker) for at in range(len(row) - len(marker) + 1) if row[at : at + len(marker)] == marker]
    return [end for end in ends if row[end : end + len(prefix)] != prefix]


def _inserted(row: Tensor, places: list[int], block: list[int]) -> Tensor:
    extra = torch.tensor(block, dtype=row.dtype, device=row.device)
    edges = [0, *places, len(row)]
    pieces = [row[start:end] for start, end in itertools.pairwise(edges)]
    return torch.cat([part for piece in pieces[:-1] for part in (piece, extra)] + pieces[-1:])


def _stacked(rows: list[Tensor], fill: int, on_the_left: bool) -> Tensor:
    size = max(map(len, rows))
    margins = [(size - len(row), 0) if on_the_left else (0, size - len(row)) for row in rows]
    return torch.stack([torch.nn.functional.pad(row, m, value=fill) for row, m in zip(rows, margins, strict=True)])


def _padded_left(batch: MutableMapping[str, Any]) -> bool:
    mask = batch.get("attention_mask")
    return mask is not None and bool((mask[:, 0] == 0).any())
