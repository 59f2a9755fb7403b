"""Hand-built documents with images and text for the tiny models, and packs of them; NumPy and a model's own positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tests.packsets import WrittenPack

__all__ = ["Document", "Recipe", "fake_document", "lay_pack", "make_document"]

Recipe: TypeAlias = Sequence[int | tuple[int, int]]
"""Runs of text by their number of tokens, and images by their grid of patches (rows, columns), in order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Document:
    """A document after the shift, as one sample gives it."""

    fields: dict[str, NDArray[Any]]
    """Like a pack's, without attention_mask."""

    def __len__(self) -> int:
        return len(self.fields["input_ids"])

    def changed(self, token: int, value: int) -> Document:
        """The same document with another token at one place."""
        ids = self.fields["input_ids"].copy()
        assert ids[token] != value
        ids[token] = value
        return Document(fields={**self.fields, "input_ids": ids})


def make_document(model: Any, recipe: Recipe, *, seed: int, labelled: bool = True) -> Document:
    """Random text and images with the model's own positions.

    Args:
        model: A tiny model.
        recipe: What the document is made of; it must not end with an image.
        seed: Of tokens and pixels.
        labelled: Whether every second text token is learned.
    """
    rng = np.random.default_rng(seed)
    ids, kinds, grids = _tokens(model.config, recipe, rng)
    labels = np.where((kinds[1:] == 0) & (np.arange(len(ids) - 1) % 2 == 0) & labelled, ids[1:], -100)
    fields: dict[str, NDArray[Any]] = {
        "input_ids": ids[:-1].astype(np.int32),
        "labels": labels.astype(np.int32),
        "position_ids": _positions(model, ids, kinds, grids)[:, :-1].astype(np.int32),
        "mm_token_type_ids": kinds[:-1].astype(np.uint8),
    }
    if grids:
        patch = model.config.vision_config.patch_size
        num_patches = sum(height * width for _, height, width in grids)
        fields["pixel_values"] = rng.integers(0, 256, (num_patches, 3, patch, patch), dtype=np.uint8)
        fields["image_grid_thw"] = np.array(grids, np.int64)
    return Document(fields=fields)


def fake_document(model: Any) -> Document:
    """One white image of 4 x 4 patches between two tokens of text, without labels."""
    document = make_document(model, [1, (4, 4), 2], seed=0, labelled=False)
    document.fields["pixel_values"][:] = 255
    return document


def lay_pack(documents: Sequence[Document], fake: Document | None = None) -> WrittenPack:
    """Documents end to end, the fake image behind them with `attention_mask` 0."""
    laid = [*documents, *([fake] if fake else [])]
    numbers = [*range(1, len(documents) + 1), *([0] if fake else [])]
    fields: dict[str, NDArray[Any]] = {
        name: np.concatenate([document.fields[name] for document in laid], axis=-1)
        for name in ("input_ids", "labels", "position_ids", "mm_token_type_ids")
    }
    fields["attention_mask"] = np.repeat(np.array(numbers, np.uint16), [len(document) for document in laid])
    for name in ("pixel_values", "image_grid_thw"):
        parts = [document.fields[name] for document in laid if name in document.fields]
        if parts:
            fields[name] = np.concatenate(parts)
    return WrittenPack(
        fields=fields,
        document_lengths=[len(document) for document in documents],
        fake={"kind": "pack", "length": len(fake), "height": 56, "width": 56} if fake else None,
    )


def _tokens(
    config: Any, recipe: Recipe, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[int, int, int]]]:
    """Token ids, their kinds (1: image) and the images' grids."""
    ids: list[int] = []
    kinds: list[int] = []
    grids = []
    for part in recipe:
        if isinstance(part, int):
            ids += rng.integers(0, 100, part).tolist()
            kinds += [0] * part
        else:
            visual = part[0] * part[1] // 4
            ids += [config.vision_start_token_id, *[config.image_token_id] * visual, config.vision_end_token_id]
            kinds += [0, *[1] * visual, 0]
            grids.append((1, *part))
    return np.array(ids), np.array(kinds), grids


def _positions(model: Any, ids: Any, kinds: Any, grids: list[tuple[int, int, int]]) -> NDArray[np.int64]:
    """[3, S]: what the model's own `get_rope_index` gives for the document alone."""
    positions, _ = model.model.get_rope_index(
        torch.from_numpy(ids)[None],
        mm_token_type_ids=torch.from_numpy(kinds)[None].int(),
        image_grid_thw=torch.tensor(grids) if grids else None,
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
    )
    result: NDArray[np.int64] = positions[:, 0].numpy()
    return result
