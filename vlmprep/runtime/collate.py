"""Packs to one batch, in the forms that models take.

`neat`  the layout of NeMo Automodel's `neat_packed_vlm_collater`: rows padded to one length, documents kept apart by
        the attention mask
`hf`    what transformers' own models take for packed input without patching: no mask at all, documents kept apart by
        positions that restart
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vlmprep.runtime.masks import additive, block_causal, positions_within
from vlmprep.runtime.pixels import concatenate
from vlmprep.schema.packset import IGNORE_INDEX, SEQUENCE_FIELDS
from vlmprep.shardformat.members import PIXEL_FIELDS

__all__ = ["BACKENDS", "Collate", "Pack", "attention_mask_for", "check_rows", "hf", "neat"]

Pack: TypeAlias = Mapping[str, Tensor]
"""A pack's tensors by field, as `packs[k]` gives them."""
Collate: TypeAlias = Callable[[list[Pack]], dict[str, Any]]
"""Packs of one rank's step to the model's inputs."""

BACKENDS = ("flash_attention_2", "sdpa", "eager")
"""Attention implementations that `neat` has a mask for."""


def neat(
    batch: Sequence[Pack], padding_idx: int = 0, max_length: int | None = None, attn_implementation: str = "sdpa"
) -> dict[str, Any]:
    """Pad packs to one length and mask documents from each other; labels are shifted already and stay as they are.

    Args:
        batch: Packs.
        padding_idx: Token id of padding.
        max_length: Length of every row; default: the longest pack's.
        attn_implementation: `flash_attention_2` keeps document numbers as `attention_mask` [B, S] (0: padding, fake
            image), for a model whose unpadding reads them; `sdpa` gets [B, 1, S, S] bool; `eager` gets [B, 1, S, S]
            float32 to be added to the scores.

    Returns:
        The sequence fields as [B, S] (`position_ids` [3, B, S] where it has axes), media fields joined over the batch,
        `_packed_seq_ids` [B, S] document numbers, `n_images_per_sample` and `n_videos_per_sample` [B].

    Raises:
        ValueError: A pack is longer than `max_length`, or the backend is none of `BACKENDS`.
    """
    size = _row_length(batch, max_length)
    numbers = _rows(batch, "attention_mask", size, 0)
    return {
        "input_ids": _rows(batch, "input_ids", size, padding_idx),
        "labels": _rows(batch, "labels", size, IGNORE_INDEX),
        "attention_mask": attention_mask_for(numbers, attn_implementation),
        "position_ids": _rows(batch, "position_ids", size, 0),
        **_token_types(batch, size),
        **_media(batch),
        "_packed_seq_ids": numbers,
        "n_images_per_sample": _counts(batch, "image_grid_thw"),
        "n_videos_per_sample": _counts(batch, "video_grid_thw"),
    }


def attention_mask_for(numbers: Tensor, attn_implementation: str) -> Tensor:
    """The mask that an attention backend understands; see `neat`.

    Args:
        numbers: [B, S] document numbers, 0 where nothing is to be seen.
        attn_implementation: One of `BACKENDS`.
    """
    if attn_implementation == "flash_attention_2":
        return numbers
    if attn_implementation == "sdpa":
        return block_causal(numbers)
    if attn_implementation == "eager":
        return additive(block_causal(numbers))
    raise ValueError(f"attn_implementation must be one of {', '.join(BACKENDS)}, got {attn_implementation!r}")


def hf(
    batch: Sequence[Pack], padding_idx: int = 0, max_length: int | None = None, attn_implementation: str = "sdpa"
) -> dict[str, Any]:
    """Lay packs out for transformers' own packed input: `model(**batch)` needs nothing else.

    A fake image is a document like any other, and so is padding; neither has labels. `shift_labels` keeps the model's
    loss from shifting labels that are shifted already; `labels` are the same tensor, so that who counts them counts
    right.

    Args:
        batch: Packs.
        padding_idx: Token id of padding.
        max_length: Length of every row; default: the longest pack's.
        attn_implementation: The model's. The flash ones look for documents only where the batch has one row.

    Returns:
        The sequence fields as [B, S] without `attention_mask`, `position_ids` as [4, B, S] (place in the document,
        then the three mRoPE axes) or [B, S], `shift_labels`, `use_cache=False`, media fields joined over the batch.

    Raises:
        ValueError: A pack is longer than `max_length`; it masks tokens inside a document, which this form cannot say;
            or a flash backend would see several rows.
    """
    size = _row_length(batch, max_length)
    check_rows(len(batch), attn_implementation)
    labels = _rows(batch, "labels", size, IGNORE_INDEX)
    return {
        "input_ids": _rows(batch, "input_ids", size, padding_idx),
        "labels": labels,
        "shift_labels": labels,
        "position_ids": torch.stack([_hf_positions(pack, size) for pack in batch], dim=-2),
        "use_cache": False,
        **_token_types(batch, size),
        **_media(batch),
    }


def check_rows(num_rows: int, attn_implementation: str) -> None:
    """Refuse what `hf` cannot offer.

    Raises:
        ValueError: A flash backend would see several rows.
    """
    if "flash" in attn_implementation and num_rows > 1:
        raise ValueError(
            f"collate='hf' with {attn_implementation} takes one pack per rank and step, got {num_rows}: transformers "
            "looks for documents only where the batch has one row, and would let them see each other. "
            "Use packs_per_rank=1, or sdpa."
        )


def _hf_positions(pack: Pack, size: int) -> Tensor:
    """[4, size] int64 for mRoPE, [size] otherwise; padding restarts at 0 on every axis."""
    numbers, positions = pack["attention_mask"], pack["position_ids"].long()
    _check_only_last_masked(numbers)
    if positions.ndim == 2:
        positions = torch.cat([positions_within(numbers)[None], positions])
    padding = torch.arange(size - positions.shape[-1]).expand(*positions.shape[:-1], -1)
    return torch.cat([positions, padding], dim=-1)


def _check_only_last_masked(numbers: Tensor) -> None:
    masked = numbers == 0
    if bool((masked[:-1] & ~masked[1:]).any()):
        raise ValueError(
            "collate='hf' cannot hide tokens inside a document, as --fake-image sample makes them: without a mask the "
            "document would see them. Use collate='neat', or pack with --fake-image pack."
        )


def _row_length(batch: Sequence[Pack], max_length: int | None) -> int:
    longest = max(len(pack["input_ids"]) for pack in batch)
    if max_length is not None and longest > max_length:
        raise ValueError(f"a pack of {longest} tokens does not fit into max_length={max_length}")
    return max_length or longest


def _rows(batch: Sequence[Pack], field: str, size: int, padding: int) -> Tensor:
    """[..., size] of every pack as one int64 [..., B, size]."""
    first = batch[0][field]
    rows = torch.full((*first.shape[:-1], len(batch), size), padding, dtype=torch.int64)
    for row, pack in enumerate(batch):
        rows[..., row, : pack[field].shape[-1]] = pack[field]
    return rows


def _token_types(batch: Sequence[Pack], size: int) -> dict[str, Tensor]:
    field = "mm_token_type_ids"
    return {field: _rows(batch, field, size, 0)} if field in batch[0] else {}


def _media(batch: Sequence[Pack]) -> dict[str, Tensor]:
    """Every other field, joined over the packs that have it."""
    fields = dict.fromkeys(field for pack in batch for field in pack if field not in SEQUENCE_FIELDS)
    joined = {}
    for field in fields:
        parts = [pack[field] for pack in batch if field in pack]
        joined[field] = concatenate(parts) if field in PIXEL_FIELDS else torch.cat(parts)
    return joined


def _counts(batch: Sequence[Pack], grid: str) -> Tensor:
    """[B] int64: media of each pack, by their rows in a grid field."""
    return torch.tensor([len(pack[grid]) if grid in pack else 0 for pack in batch])
