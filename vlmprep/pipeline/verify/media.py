"""The invariants between a pack's placeholders, its grids and its pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmprep.shardformat.members import Array
from vlmprep.shardformat.packinfo import PackInfo

__all__ = ["media_problems"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaKind:
    """How one kind of media stands in a pack."""

    name: str
    type: int
    """Of its placeholders, in mm_token_type_ids."""
    grid: str
    """Field with one row per medium: patches in time, height and width."""
    pixels: str
    """Field with one row per patch."""


IMAGE = MediaKind(name="image", type=1, grid="image_grid_thw", pixels="pixel_values")
VIDEO = MediaKind(name="video", type=2, grid="video_grid_thw", pixels="pixel_values_videos")


def media_problems(
    info: PackInfo,
    fields: Mapping[str, Array],
    numbers: NDArray[np.int64],
    pixel_fields: frozenset[str],
    patches_per_token: int | None,
) -> Iterator[str]:
    """Media that key.json, placeholders, grids and pixels do not agree on.

    Args:
        info: What the pack says about itself.
        fields: Its tensors; sequence fields have their right shapes.
        numbers: [S] document of each token.
        pixel_fields: Fields that hold uint8 pixels.
        patches_per_token: Patches that make one visual token; None takes what this pack has.
    """
    expected = {IMAGE: len(info.images) + (info.fake is not None), VIDEO: len(info.videos)}
    for kind, num_media in expected.items():
        if num_media:
            yield from kind_problems(kind, num_media, fields, numbers, pixel_fields, patches_per_token)
            continue
        if extra := [name for name in (kind.grid, kind.pixels) if name in fields]:
            yield f"it holds {' and '.join(extra)}, but no {kind.name} by key.json"
        if num_tokens := np.count_nonzero(fields["mm_token_type_ids"] == kind.type):
            yield f"it has {num_tokens} {kind.name} placeholders, but no {kind.name} by key.json"


def kind_problems(
    kind: MediaKind,
    num_media: int,
    fields: Mapping[str, Array],
    numbers: NDArray[np.int64],
    pixel_fields: frozenset[str],
    patches_per_token: int | None,
) -> Iterator[str]:
    """The same for one kind of which there are some."""
    if missing := [name for name in (kind.grid, kind.pixels) if name not in fields]:
        yield f"it has {num_media} {kind.name}s by key.json, but no {' and no '.join(missing)}"
        return
    grids, pixels = fields[kind.grid], fields[kind.pixels]
    if grids.shape != (num_media, 3) or grids.dtype.name != "int64" or grids.min() < 1:
        yield f"{kind.grid} is {grids.dtype.name} {list(grids.shape)}, expected int64 [{num_media}, 3] of at least 1"
        return
    patches = grids.prod(axis=1)  # [num_media]
    if len(pixels) != patches.sum():
        yield f"{kind.pixels} holds {len(pixels)} patches, {kind.grid} makes {patches.sum()}"
    if kind.pixels in pixel_fields and (pixels.dtype.name != "uint8" or pixels.ndim != 4):
        yield f"{kind.pixels} is {pixels.dtype.name} {list(pixels.shape)}, expected uint8 [patches, channels, height, width]"
    places = np.flatnonzero(fields["mm_token_type_ids"] == kind.type)
    yield from placeholder_problems(kind, patches, numbers[places], patches_per_token)


def placeholder_problems(
    kind: MediaKind, patches: NDArray[np.int64], documents: NDArray[np.int64], patches_per_token: int | None
) -> Iterator[str]:
    """Placeholders that do not fit the grids.

    Args:
        kind: Which media.
        patches: [num_media] patches of each.
        documents: [num_placeholders] the document of each placeholder, in order.
        patches_per_token: Patches that make one visual token, if known.
    """
    per_token = patches_per_token or max(1, int(patches.sum()) // max(1, len(documents)))
    if (patches % per_token).any() or len(documents) != patches.sum() // per_token:
        yield (
            f"it has {len(documents)} {kind.name} placeholders, {kind.grid} makes {patches.sum() / per_token:g} "
            f"({patches.sum()} patches, {per_token} a token)"
        )
        return
    ends = np.cumsum(patches // per_token)
    torn = documents[ends - 1] != documents[ends - patches // per_token]
    if torn.any():
        yield f"the placeholders of {kind.name} {int(torn.argmax()) + 1} by {kind.grid} lie in two documents"
