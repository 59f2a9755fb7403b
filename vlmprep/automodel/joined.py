"""Tokenized samples, laid end to end: the shift, the positions that a model gives, and the joining of their fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmprep.packing.document import Document
from vlmprep.packing.pack import assemble_pack
from vlmprep.runtime.rows import joined_media, media_counts
from vlmprep.schema.packset import MEDIA_FIELDS, SEQUENCE_FIELDS

__all__ = ["MEDIA_KEYS", "RopeOfDocuments", "build_pack", "mrope_positions", "shift_sample"]

MEDIA_KEYS = (
    "pixel_values",
    "image_grid_thw",
    "image_position_ids",
    "pixel_values_videos",
    "video_grid_thw",
    "second_per_grid_ts",
)
"""Media fields that every pack has an entry for, None where it has no such media."""
assert set(MEDIA_KEYS) == set(MEDIA_FIELDS)


def shift_sample(sample: Mapping[str, Any], has_mrope: bool = False) -> dict[str, Any]:
    """Put every token beside the next one's label: token fields lose their last entry, labels their first.

    Args:
        sample: `input_ids`, `attention_mask`, `labels` [S], what else it has for each token, and media fields, which stay.
        has_mrope: Keep `position_ids` [3, S].
    """
    tokens = [
        name for name in SEQUENCE_FIELDS if name not in ("labels", "position_ids") and sample.get(name) is not None
    ]
    shifted: dict[str, Any] = {name: sample[name][..., :-1] for name in tokens}
    shifted["labels"] = sample["labels"][1:]
    if has_mrope and sample.get("position_ids") is not None:
        shifted["position_ids"] = sample["position_ids"][..., :-1]
    media = {name: value for name, value in sample.items() if name not in SEQUENCE_FIELDS and value is not None}
    return {**shifted, **media}


def mrope_positions(sample: Mapping[str, Any], get_rope_index: Callable[..., Any]) -> Tensor | None:
    """Positions that a model gives one sample.

    Args:
        sample: `input_ids` [S], media grids, `mm_token_type_ids` [S].
        get_rope_index: The model's; it is asked as if nothing was hidden, because hidden tokens have their places too.

    Returns:
        [3, S], or None where it takes no `input_ids`.
    """
    try:
        known = inspect.signature(get_rope_index).parameters
    except (TypeError, ValueError):
        return None
    if "input_ids" not in known:
        return None
    ids = torch.as_tensor(sample["input_ids"]).long().reshape(1, -1)
    offered = {"attention_mask": torch.ones_like(ids)}
    offered |= {
        name: torch.as_tensor(value)
        for name, value in sample.items()
        if name not in SEQUENCE_FIELDS and value is not None
    }
    if sample.get("mm_token_type_ids") is not None:
        offered["mm_token_type_ids"] = torch.as_tensor(sample["mm_token_type_ids"]).reshape(1, -1).int()
    with torch.no_grad():
        positions = get_rope_index(input_ids=ids, **{name: value for name, value in offered.items() if name in known})
    positions = positions[0] if isinstance(positions, tuple) else positions
    return positions[:, 0] if positions.ndim == 3 else positions  # type: ignore[no-any-return]


class RopeOfDocuments:
    """Positions of documents as a model's `get_rope_index` gives them."""

    def __init__(self, get_rope_index: Callable[..., Any]) -> None:
        self._get_rope_index = get_rope_index

    def __call__(self, document: Document) -> NDArray[Any]:
        """[3, S], in the smallest type that holds them."""
        media = assemble_pack([document]).fields
        sample = {
            name: values for name, values in media.items() if name not in ("labels", "attention_mask", "position_ids")
        }
        positions = mrope_positions(sample, self._get_rope_index)
        if positions is None:
            return document.position_ids
        found = positions.numpy()
        return found.astype(np.int32) if np.array_equal(found, found.astype(np.int32)) else found.astype(np.float32)


def build_pack(
    samples: Sequence[Mapping[str, Any]], pack_size: int, padding_idx: int, has_mrope: bool = False
) -> dict[str, Any]:
    """Lay shifted samples end to end.

    Args:
        samples: As `shift_sample` gives them.
        pack_size: Tokens that they may have together.
        padding_idx: Token id of padding, of which there is none here.
        has_mrope: Take `position_ids` [3, S] from the samples, instead of counting from 0 in each.

    Returns:
        `input_ids`, `labels`, `attention_mask` (sample number 1..n; 0 where a sample hides a token), `position_ids`,
        `mm_token_type_ids` where samples have it, int64; media fields joined, None where there are none; `n_images`, `n_videos`.

    Raises:
        ValueError: They have more tokens than that.
    """
    total = sum(len(sample["input_ids"]) for sample in samples)
    if total > pack_size:
        raise ValueError(f"samples of {total} tokens do not fit into a pack of {pack_size}")
    if not samples:
        return _nothing()
    fields = assemble_pack([_document(sample, has_mrope) for sample in samples]).fields
    pack: dict[str, Any] = {
        name: torch.from_numpy(values if values.dtype.kind == "f" else values.astype(np.int64))
        for name, values in fields.items()
    }
    if not any(sample.get("mm_token_type_ids") is not None for sample in samples):
        del pack["mm_token_type_ids"]
    media = joined_media(
        [{name: value for name, value in sample.items() if isinstance(value, Tensor)} for sample in samples]
    )
    return {**pack, **dict.fromkeys(MEDIA_KEYS), **media, **_media_numbers(media)}


def _media_numbers(media: Mapping[str, Tensor]) -> dict[str, int]:
    counts = media_counts([media])
    return {
        name: int(counts[f"{name}_per_sample"][0]) if f"{name}_per_sample" in counts else 0
        for name in ("n_images", "n_videos")
    }


def _document(sample: Mapping[str, Any], has_mrope: bool) -> Document:
    """The token fields of a sample as a document; its media are joined beside it, in whatever type they have."""
    ids = np.asarray(sample["input_ids"])
    kinds = sample.get("mm_token_type_ids")
    positions = sample.get("position_ids") if has_mrope else None
    mask = sample.get("attention_mask")
    return Document(
        input_ids=ids.astype(np.int32),
        labels=np.asarray(sample["labels"]).astype(np.int32),
        position_ids=np.arange(len(ids), dtype=np.int32) if positions is None else np.asarray(positions),
        mm_token_type_ids=(np.zeros(len(ids)) if kinds is None else np.asarray(kinds).reshape(-1)).astype(np.uint8),
        media=(),
        num_visual_tokens=0,
        hidden=np.zeros(len(ids), np.bool_) if mask is None else np.asarray(mask) == 0,
    )


def _nothing() -> dict[str, Any]:
    """A pack whose samples all failed."""
    empty = torch.zeros(0, dtype=torch.int64)
    fields = {name: empty.clone() for name in ("input_ids", "labels", "attention_mask", "position_ids")}
    return {**fields, **dict.fromkeys(MEDIA_KEYS), "n_images": 0, "n_videos": 0}
