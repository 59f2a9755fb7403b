"""The invariants between what key.json says of a pack's media, its placeholders, its grids and its pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.packset import SEQUENCE_FIELDS
from vlmprep.shardformat.members import ENCODED, Array
from vlmprep.shardformat.packinfo import MediumInfo, PackInfo

__all__ = ["media_problems"]

GRIDS = {"image_grid_thw": "pixel_values", "video_grid_thw": "pixel_values_videos"}
"""Fields with one row per medium, its patches in time, height and width, and the fields that hold these patches."""


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
        patches_per_token: Patches that make one visual token, where every medium of the family has as many.
    """
    yield from placeholder_problems(info, fields["mm_token_type_ids"], numbers)
    for name in sorted(pixel_fields & fields.keys()):
        if (array := fields[name]).dtype.name != "uint8" or array.ndim != 4:
            yield f"{name} is {array.dtype.name} {list(array.shape)}, expected uint8 [items, channels, height, width]"
    if found := list(row_problems(info, fields)):
        yield from found
        return
    for grid, pixels in GRIDS.items():
        if grid in fields:
            yield from grid_problems(info.media, fields[grid], grid, pixels, patches_per_token)


def placeholder_problems(info: PackInfo, types: Array, numbers: NDArray[np.int64]) -> Iterator[str]:
    """Documents with other placeholders than their media fill."""
    expected: Counter[int] = Counter()
    for medium in info.media:
        expected[medium.document] += medium.num_tokens + medium.num_framing
    documents, counts = np.unique(numbers[types != 0], return_counts=True)
    found = dict(zip(documents.tolist(), counts.tolist(), strict=True))
    for document in sorted(expected.keys() | found.keys()):
        if expected[document] != found.get(document, 0):
            name = f"document {document}" if document else "the fake image's document"
            yield f"{name} has {found.get(document, 0)} placeholders, its media by key.json fill {expected[document]}"


def row_problems(info: PackInfo, fields: Mapping[str, Array]) -> Iterator[str]:
    """Media fields with other rows than the media own together."""
    expected: Counter[str] = Counter()
    for medium in info.media:
        expected.update(medium.rows)
    names = fields.keys() - set(SEQUENCE_FIELDS)
    for name in sorted(names | expected.keys()):
        if name not in fields:
            yield f"its media have {expected[name]} rows of {name} by key.json, but there is no {name}"
        elif len(fields[name]) != expected[name]:
            yield f"{name} has {len(fields[name])} rows, its media by key.json have {expected[name]}"
    for number, medium in enumerate(info.media, start=1):
        if sum(medium.files) != medium.rows.get(ENCODED, 0):
            yield f"medium {number} has {medium.rows.get(ENCODED, 0)} bytes of files, its files {sum(medium.files)}"


def grid_problems(
    media: tuple[MediumInfo, ...], grids: Array, grid: str, pixels: str, patches_per_token: int | None
) -> Iterator[str]:
    """Media whose grids make other patches or placeholders than they have."""
    if grids.ndim != 2 or grids.shape[1] != 3 or grids.dtype.name != "int64" or grids.min(initial=1) < 1:
        yield f"{grid} is {grids.dtype.name} {list(grids.shape)}, expected int64 [media, 3] of at least 1"
        return
    at = 0
    for number, medium in enumerate(media, start=1):
        rows = medium.rows.get(grid, 0)
        patches = int(grids[at : at + rows].prod(axis=1).sum())
        at += rows
        found = medium.decoded[pixels].rows if pixels in medium.decoded else medium.rows.get(pixels, 0)
        if patches != found:
            yield f"medium {number} has {found} patches, {grid} makes {patches}"
        elif rows and patches_per_token and patches != medium.num_tokens * patches_per_token:
            yield f"medium {number} has {medium.num_tokens} placeholders, {grid} makes {patches / patches_per_token:g}"
