"""Sequences of packs as the rows of a batch, and their media joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from vlmprep.runtime.forms import ModelForm
from vlmprep.runtime.pixels import concatenate
from vlmprep.schema.packset import IGNORE_INDEX, SEQUENCE_FIELDS
from vlmprep.shardformat.members import PIXEL_FIELDS

__all__ = [
    "Pack",
    "joined_media",
    "labels_as_rows",
    "media_counts",
    "row_length",
    "rows_of",
    "split_documents",
    "token_types",
]

Pack: TypeAlias = Mapping[str, Tensor]
"""A pack's tensors by field, as `packs[k]` gives them."""

_ONE_PER_IMAGE = (
    "image_grid_thw",
    "image_grid_hw",
    "image_grid_hws",
    "image_sizes",
    "image_position_ids",
    "num_local_patches",
)
_ONE_PER_VIDEO = ("video_grid_thw", "num_frames_per_video")


def row_length(batch: Sequence[Pack], max_length: int | None) -> int:
    """Tokens of every row: `max_length`, or the longest.

    Raises:
        ValueError: A pack is longer than `max_length`.
    """
    longest = max(len(pack["input_ids"]) for pack in batch)
    if max_length is not None and longest > max_length:
        raise ValueError(
            f"a pack of {longest} tokens does not fit into max_length={max_length}. Leave it out, or give the longest that there "
            "can be: packs.manifest.pack_size (collate='flat': times packs_per_rank)."
        )
    return max_length or longest


def rows_of(batch: Sequence[Pack], field: str, size: int, padding: int) -> Tensor:
    """[..., size] of every pack as one [..., B, size]: int64, or float32 for positions between whole numbers."""
    first = batch[0][field]
    dtype = torch.float32 if any(pack[field].is_floating_point() for pack in batch) else torch.int64
    rows = torch.full((*first.shape[:-1], len(batch), size), padding, dtype=dtype)
    for row, pack in enumerate(batch):
        rows[..., row, : pack[field].shape[-1]] = pack[field]
    return rows


def labels_as_rows(batch: Sequence[Pack], size: int) -> Tensor:
    """[B, size] int64 labels."""
    return rows_of(batch, "labels", size, IGNORE_INDEX)


def token_types(batch: Sequence[Pack], size: int, form: ModelForm) -> dict[str, Tensor]:
    """[B, size] kinds of tokens under the name that the model's forward has for them; nothing where it takes none."""
    field = "mm_token_type_ids"
    return {form.token_types_name: rows_of(batch, field, size, 0)} if form.token_types and field in batch[0] else {}


def joined_media(batch: Sequence[Pack]) -> dict[str, Tensor]:
    """Every field that is none of the sequence's, joined over the packs that have it."""
    fields = dict.fromkeys(field for pack in batch for field in pack if field not in SEQUENCE_FIELDS)
    joined = {}
    for field in fields:
        parts = [pack[field] for pack in batch if field in pack]
        joined[field] = concatenate(parts) if field in PIXEL_FIELDS else torch.cat(parts)
    return joined


def media_counts(batch: Sequence[Pack]) -> dict[str, Tensor]:
    """[B] int64 images and videos of each pack, where the packs hold a field with an entry for each, or no pixels."""
    counts = {}
    for name, fields, pixels in (
        ("n_images_per_sample", _ONE_PER_IMAGE, "pixel_values"),
        ("n_videos_per_sample", _ONE_PER_VIDEO, "pixel_values_videos"),
    ):
        counted = [next((len(pack[field]) for field in fields if field in pack), None) for pack in batch]
        if all(count is not None or pixels not in pack for count, pack in zip(counted, batch, strict=True)):
            counts[name] = torch.tensor([count or 0 for count in counted])
    return counts


def split_documents(pack: Pack) -> list[dict[str, Tensor]]:
    """The sequence fields of each document of a pack; a fake image behind the others is one too.

    Tokens that are hidden inside a document (number 0) belong to it.
    """
    numbers = pack["attention_mask"]
    owners = numbers.cummax(0).values.clone()
    shown = (numbers != 0).nonzero()
    owners[int(shown[-1]) + 1 if len(shown) else 0 :] = -1
    lengths = torch.unique_consecutive(owners, return_counts=True)[1].tolist()
    fields = [field for field in SEQUENCE_FIELDS if field in pack]
    parts = {field: torch.split(pack[field], lengths, dim=-1) for field in fields}
    return [{field: parts[field][document] for field in fields} for document in range(len(lengths))]
