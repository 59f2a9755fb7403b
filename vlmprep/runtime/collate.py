"""Packs to one batch, in the forms that models take.

`neat`       the layout of NeMo Automodel's `neat_packed_vlm_collater`: rows padded to one length, documents kept apart by the
             attention mask
`hf`         what transformers' own models take for packed input without patching: no mask where none is needed, documents
             kept apart by positions that restart
`documents`  every document a row of its own, padded: right under every backend and for every kind of layer
`flat`, `thd`  documents end to end, with where each begins: joined.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vlmprep.runtime.forms import SLIDING, ModelForm
from vlmprep.runtime.masks import additive, block_causal, image_runs
from vlmprep.runtime.offers import BACKENDS, check_hf, check_neat, check_together
from vlmprep.runtime.positions import going_on, hidden_tokens, restarting, sequence_borders
from vlmprep.runtime.rows import (
    Pack,
    joined_media,
    labels_as_rows,
    media_counts,
    row_length,
    rows_of,
    split_documents,
    token_types,
)

__all__ = [
    "BACKENDS",
    "Collate",
    "Pack",
    "attention_mask_for",
    "documents",
    "hf",
    "hf_numbered",
    "neat",
    "neat_numbered",
]

Collate: TypeAlias = Callable[[list[Pack]], dict[str, Any]]
"""Packs of one rank's step to the model's inputs."""

PLAIN = ModelForm()
"""A model of full attention alone."""


def neat(
    batch: Sequence[Pack],
    padding_idx: int = 0,
    max_length: int | None = None,
    attn_implementation: str = "sdpa",
    form: ModelForm = PLAIN,
) -> dict[str, Any]:
    """Pad packs to one length and mask documents from each other; labels are shifted already and stay as they are.

    Args:
        batch: Packs.
        padding_idx: Token id of padding.
        max_length: Length of every row; default: the longest pack's.
        attn_implementation: `flash_attention_2` keeps document numbers as `attention_mask` [B, S] (0: padding, fake
            image), for a model whose unpadding reads them; `sdpa` gets [B, 1, S, S] bool; `eager` gets [B, 1, S, S]
            float32 to be added to the scores.
        form: What the model's layers look at; with full and sliding ones, `attention_mask` is a mask of each by name.

    Returns:
        The sequence fields as [B, S] (`position_ids` [3, B, S] where it has axes), media fields joined over the batch,
        `_packed_seq_ids` [B, S] document numbers, `n_images_per_sample` and `n_videos_per_sample` [B] where packs say so.

    Raises:
        ValueError: A pack is longer than `max_length`, the backend is none of `BACKENDS`, or no mask keeps documents
            apart in such a model.
    """
    check_neat(form, attn_implementation)
    made = neat_numbered(batch, padding_idx, max_length, form)
    numbers, kinds = made["attention_mask"], made.get("mm_token_type_ids")
    return {**made, "attention_mask": attention_mask_for(numbers, attn_implementation, form, kinds)}


def neat_numbered(
    batch: Sequence[Pack], padding_idx: int = 0, max_length: int | None = None, form: ModelForm = PLAIN
) -> dict[str, Any]:
    """`neat` with document numbers [B, S] as `attention_mask`, small to hand over; `attention_mask_for` spells them out."""
    check_together(batch, form)
    size = row_length(batch, max_length)
    numbers = rows_of(batch, "attention_mask", size, 0)
    return {
        "input_ids": rows_of(batch, "input_ids", size, padding_idx),
        "labels": labels_as_rows(batch, size),
        "attention_mask": numbers,
        "position_ids": rows_of(batch, "position_ids", size, 0),
        **token_types(batch, size, form),
        **joined_media(batch),
        "_packed_seq_ids": numbers,
        **media_counts(batch),
    }


def attention_mask_for(
    numbers: Tensor, attn_implementation: str, form: ModelForm = PLAIN, kinds: Tensor | None = None
) -> Tensor | dict[str, Tensor]:
    """The mask that an attention backend understands; see `neat`.

    Args:
        numbers: [B, S] document numbers, 0 where nothing is to be seen.
        attn_implementation: One of `BACKENDS`.
        form: What the model's layers look at.
        kinds: [B, S] kinds of tokens, where images see themselves whole.

    Returns:
        The numbers for flash attention; else [B, 1, S, S], bool for sdpa, float32 to be added for eager: one, or one of each kind
        of layer by its name.

    Raises:
        ValueError: The backend is none of `BACKENDS`.
    """
    if attn_implementation == "flash_attention_2":
        return numbers
    if attn_implementation not in BACKENDS:
        raise ValueError(f"attn_implementation must be one of {', '.join(BACKENDS)}, got {attn_implementation!r}")
    masks = {}
    for kind in form.layers:
        sliding = kind == SLIDING
        whole = image_runs(kinds) if sliding and form.image_blocks and kinds is not None else None
        visible = block_causal(numbers, form.window if sliding else None, whole)
        masks[kind] = visible if attn_implementation == "sdpa" else additive(visible)
    return masks if len(masks) > 1 else masks[form.layers[0]]


def hf(
    batch: Sequence[Pack],
    padding_idx: int = 0,
    max_length: int | None = None,
    attn_implementation: str = "sdpa",
    form: ModelForm = PLAIN,
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
        form: What the model's forward takes. Layers with a state get `cu_seq_lens_q`, `cu_seq_lens_k` [documents + 1] and
            `seq_idx` [1, S] int32, which their CUDA kernels honour and transformers' own arithmetic refuses.

    Returns:
        The sequence fields as [B, S], `position_ids` as [4, B, S] (place in the document, then the three mRoPE axes) or
        [B, S], `shift_labels`, `use_cache=False`, media fields joined over the batch; no `attention_mask`, but where
        images see themselves whole a dict of 4-D masks, because transformers takes their places from the first document.

    Raises:
        ValueError: A pack is longer than `max_length`; it masks tokens inside a document, which this form cannot say;
            or the backend would not keep documents apart.
    """
    check_hf(len(batch), attn_implementation, form)
    made = hf_numbered(batch, padding_idx, max_length, form)
    if "attention_mask" in made:
        numbers, kinds = made["attention_mask"], made["mm_token_type_ids"]
        made["attention_mask"] = attention_mask_for(numbers, attn_implementation, form, kinds)
    return made


def hf_numbered(
    batch: Sequence[Pack], padding_idx: int = 0, max_length: int | None = None, form: ModelForm = PLAIN
) -> dict[str, Any]:
    """`hf` with document numbers in the place of a mask, where it has one; `attention_mask_for` spells them out."""
    check_together(batch, form)
    size = row_length(batch, max_length)
    labels = labels_as_rows(batch, size)
    positions = torch.stack([restarting(pack, size) for pack in batch], dim=-2)
    return {
        "input_ids": rows_of(batch, "input_ids", size, padding_idx),
        "labels": labels,
        "shift_labels": labels,
        "position_ids": positions,
        "use_cache": False,
        **({"attention_mask": rows_of(batch, "attention_mask", size, 0)} if form.image_blocks else {}),
        **(sequence_borders(positions) if form.recurrent else {}),
        **token_types(batch, size, form),
        **joined_media(batch),
    }


def documents(
    batch: Sequence[Pack], padding_idx: int = 0, max_length: int | None = None, form: ModelForm = PLAIN
) -> dict[str, Any]:
    """Give every document of every pack a row of its own, padded behind.

    Nothing is packed, so nothing can leak, under any backend and whatever layers a model has; it costs the padding. A fake
    image is a row too. Labels are as in `hf`.

    Args:
        batch: Packs.
        padding_idx: Token id of padding.
        max_length: Length of every row; default: the longest document's.
        form: What the model's forward takes.

    Returns:
        As `hf`, with as many rows as there are documents; `attention_mask` [rows, S] only where a pack hides tokens inside
        a document: 0 on those.

    Raises:
        ValueError: A document is longer than `max_length`.
    """
    check_together(batch, form)
    split = [document for pack in batch for document in split_documents(pack)]
    size = row_length(split, max_length)
    labels = labels_as_rows(split, size)
    whole = [{**document, "attention_mask": torch.ones_like(document["attention_mask"])} for document in split]
    return {
        "input_ids": rows_of(split, "input_ids", size, padding_idx),
        "labels": labels,
        "shift_labels": labels,
        "position_ids": torch.stack([going_on(document, size) for document in whole], dim=-2),
        "use_cache": False,
        **hidden_tokens(split, size),
        **token_types(split, size, form),
        **joined_media(batch),
    }
