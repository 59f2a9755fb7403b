"""The media of a batch by microbatch of a pipeline: whose rows they are, layout by layout.

images with a grid          one entry an image, or patches counted by the grid
images without one          one entry an image
full images and crops       crops counted by row (Step3), or by image (Step 3.7 in transformers)
padded images               [B, most images, ...] (Idefics3, SmolVLM)
clips                       as images with a grid
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vlmprep.automodel.batches import MEDIA_NAMES
from vlmprep.runtime.microbatches import GRID, Media, counts_of, items_of, row_slices, split_items
from vlmprep.shardformat.members import PIXEL_FIELDS

__all__ = [
    "MEDIA_KEYS",
    "check_others",
    "chunk_step3_media",
    "chunk_vlm_media",
    "image_chunks",
    "select_image_grid",
    "video_chunks",
]

_GRIDS = ("image_grid_hws", "image_grid_thw", "image_sizes", "image_position_ids")
_PER_IMAGE = (*_GRIDS, "image_grid_hw", "grid_thws")
_CROPS = ("patch_pixel_values", "num_patches", "patch_newline_mask")
_LOCAL_CROPS = ("num_local_patches", "pixel_values_local")
PADDED_AXES = 5
"""Of pixels laid [B, most images, channels, height, width]."""
MEDIA_KEYS = (
    "pixel_values",
    *_CROPS,
    *_PER_IMAGE,
    "n_images_per_sample",
    "pixel_values_videos",
    "video_grid_thw",
    "n_videos_per_sample",
    "second_per_grid_ts",
    *_LOCAL_CROPS,
    "pixel_attention_mask",
    "batch_num_images",
)
"""Fields that leave a batch."""

Chunks: TypeAlias = dict[str, list[Any]]
"""By name, an entry for each microbatch."""


def chunk_vlm_media(
    pixel_values: Tensor,
    image_grid: Tensor,
    batch_size: int,
    n_microbatches: int,
    n_images_per_sample: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Split pixels and their grid by microbatch.

    Args:
        pixel_values: [images, channels, height, width], [images, patches, values], or the patches of all images
            [patches, ...]; a list of images where they differ in size.
        image_grid: [images, ...], what the processor says of each; [images, axes] whose products count patches.
        batch_size: Rows.
        n_microbatches: Of the schedule.
        n_images_per_sample: [B]; None: one each.

    Returns:
        Pixels and grids of each microbatch, views of what was given; empty ones where it has no images.

    Raises:
        ValueError: Pixels, grid and rows do not fit together, or there are fewer rows than microbatches.
    """
    rows = row_slices(batch_size, n_microbatches)
    per_row = counts_of(n_images_per_sample, len(image_grid), batch_size)
    pixels: list[Any] = split_items(pixel_values, _per_row(items_of(pixel_values, image_grid), per_row), rows)
    grids: list[Any] = split_items(image_grid, per_row, rows)
    return pixels, grids


def chunk_step3_media(
    pixel_values: Tensor,
    batch_size: int,
    n_microbatches: int,
    num_patches: Tensor | None = None,
    patch_pixel_values: Tensor | None = None,
    patch_newline_mask: Tensor | None = None,
) -> dict[str, list[Tensor]]:
    """Split a full image of each row and its crops by microbatch.

    Args:
        pixel_values: [B, ...] the full images, or [crops, ...] where the crops are all there is.
        batch_size: Rows.
        n_microbatches: Of the schedule.
        num_patches: [B] crops of each row; None: none.
        patch_pixel_values: [crops, ...] of all rows.
        patch_newline_mask: [crops].

    Returns:
        `pixel_values` and `num_patches` of each microbatch, and those of the others that were given.

    Raises:
        ValueError: They do not fit together, or there are fewer rows than microbatches.
    """
    rows = row_slices(batch_size, n_microbatches)
    if num_patches is None:
        num_patches = torch.zeros(batch_size, dtype=torch.int64, device=pixel_values.device)
    num_patches = num_patches.reshape(-1).long()
    crops: list[int] = num_patches.tolist()
    if len(crops) != batch_size:
        raise ValueError(f"num_patches has {len(crops)} entries for {batch_size} rows")
    crop_fields = {"patch_pixel_values": patch_pixel_values, "patch_newline_mask": patch_newline_mask}
    given = {name: field for name, field in crop_fields.items() if field is not None}
    flat = len(pixel_values) != batch_size
    for name, field in {**given, **({"pixel_values": pixel_values} if flat else {})}.items():
        if len(field) != sum(crops):
            raise ValueError(f"{name} is {list(field.shape)}; {batch_size} rows have {sum(crops)} crops (num_patches)")
    made: dict[str, Any] = {
        "pixel_values": split_items(pixel_values, crops if flat else [1] * batch_size, rows),
        "num_patches": split_items(num_patches, [1] * batch_size, rows),
    }
    return made | {name: split_items(field, crops, rows) for name, field in given.items()}


def select_image_grid(
    image_grid_hws: Tensor | None,
    image_grid_thw: Tensor | None,
    image_sizes: Tensor | None,
    image_position_ids: Tensor | None,
) -> Tensor | None:
    """What a batch says of each image; the first that it has."""
    grids = (image_grid_hws, image_grid_thw, image_sizes, image_position_ids)
    return next((grid for grid in grids if grid is not None), None)


def image_chunks(fields: dict[str, Any], batch_size: int, n_microbatches: int) -> Chunks:
    """Images by microbatch: with a grid, with crops counted by image, or with crops counted by row."""
    pixels = fields.get("pixel_values")
    if pixels is None:
        _refuse(fields, ("patch_pixel_values", "pixel_values_local"), "there is no pixel_values")
        return {}
    grids = {name: fields[name] for name in _PER_IMAGE if name in fields}
    if grids:
        others = (*_CROPS, *_LOCAL_CROPS, "pixel_attention_mask")
        _refuse(fields, others, f"beside {', '.join(grids)}, whose they are is not known")
        return _grid_chunks(fields, grids, batch_size, n_microbatches)
    if "num_local_patches" in fields:
        unknown = (*_CROPS, "pixel_attention_mask", "batch_num_images")
        _refuse(fields, unknown, "beside num_local_patches, whose they are is not known")
        return _local_chunks(fields, batch_size, n_microbatches)
    _refuse(fields, ("pixel_values_local", "batch_num_images"), "there is nothing that counts them")
    counts = fields.get("n_images_per_sample")
    if isinstance(pixels, Tensor) and pixels.ndim == PADDED_AXES and len(pixels) == batch_size:
        return _padded_chunks(fields, batch_size, n_microbatches)
    _refuse(fields, ("pixel_attention_mask",), "its images are not laid by rows")
    one_each = counts is None or bool((counts == 1).all())
    if isinstance(pixels, list) or (not one_each and "num_patches" not in fields):
        _refuse(fields, _CROPS, "beside images without a grid, whose crops they are is not known")
        return {"pixel_values": _split_media(pixels, counts, batch_size, n_microbatches)}
    if not one_each and len(pixels) == batch_size:
        raise ValueError(
            "num_patches counts the crops of rows with one full image each, and n_images_per_sample says otherwise"
        )
    crops = {name: fields.get(name) for name in _CROPS}
    return dict(chunk_step3_media(pixels, batch_size, n_microbatches, **crops))


def _grid_chunks(fields: dict[str, Any], grids: dict[str, Tensor], batch_size: int, n_microbatches: int) -> Chunks:
    """Pixels and grid, and what else the batch says of each image, under its own name."""
    counts = fields.get("n_images_per_sample")
    grid = select_image_grid(*map(fields.get, _GRIDS))
    if grid is None:
        grid = next(iter(grids.values()))
    pixels, chunks = chunk_vlm_media(fields["pixel_values"], grid, batch_size, n_microbatches, counts)
    made: Chunks = {"pixel_values": pixels, GRID: chunks}
    for name, other in grids.items():
        if other is not grid:
            made[name] = _split_media(other, counts, batch_size, n_microbatches)
    if "batch_num_images" in fields:
        per_row = counts_of(counts, len(grid), batch_size)
        made["batch_num_images"] = _split_by_sum(
            fields["batch_num_images"], per_row, row_slices(batch_size, n_microbatches)
        )
    return made


def _split_by_sum(numbers: Tensor, per_row: list[int], rows: list[slice]) -> list[Tensor]:
    """LLaVA-OneVision's images of each conversation that has some, of which a row may hold several, or none."""
    ends = [0, *accumulate(per_row)]
    sums = [0, *accumulate(numbers.flatten().tolist())]
    borders = [ends[0], *(ends[part.stop] for part in rows)]
    if sums[-1] != ends[-1] or not set(borders) <= set(sums):
        raise ValueError(f"batch_num_images is {numbers.flatten().tolist()}, the rows have {per_row} images")
    starts = [sums.index(border) for border in borders]
    return [numbers[start:end] for start, end in pairwise(starts)]


def _padded_chunks(fields: dict[str, Any], batch_size: int, n_microbatches: int) -> Chunks:
    """Rows of as many images as the fullest has, and which pixels of them are any."""
    _refuse(fields, _CROPS, "beside images padded by rows, whose crops they are is not known")
    rows, one_each = row_slices(batch_size, n_microbatches), [1] * batch_size
    names = [name for name in ("pixel_values", "pixel_attention_mask") if name in fields]
    for name in names:
        if len(fields[name]) != batch_size:
            raise ValueError(f"{name} is {list(fields[name].shape)}, for {batch_size} rows")
    return {name: split_items(fields[name], one_each, rows) for name in names}


def _local_chunks(fields: dict[str, Any], batch_size: int, n_microbatches: int) -> Chunks:
    """Step 3.7 as transformers has it: `num_local_patches` [images] crops of each image, a row with any number of images."""
    counts, local = fields.get("n_images_per_sample"), fields.get("pixel_values_local")
    per_image = torch.as_tensor(fields["num_local_patches"]).reshape(-1)
    crops: list[int] = per_image.tolist()
    pixels, counted = chunk_vlm_media(fields["pixel_values"], per_image, batch_size, n_microbatches, counts)
    made: Chunks = {"pixel_values": pixels, "num_local_patches": counted}
    if (0 if local is None else len(local)) != sum(crops):
        raise ValueError(f"num_local_patches counts {sum(crops)} crops, pixel_values_local has another number")
    if local is not None:
        sizes = _per_row(crops, counts_of(counts, len(crops), batch_size))
        made["pixel_values_local"] = split_items(local, sizes, row_slices(batch_size, n_microbatches))
    return made


def video_chunks(fields: dict[str, Any], batch_size: int, n_microbatches: int) -> Chunks:
    """Clips by microbatch."""
    pixels, counts = fields.get("pixel_values_videos"), fields.get("n_videos_per_sample")
    grid, seconds = fields.get("video_grid_thw"), fields.get("second_per_grid_ts")
    if pixels is None:
        return {}
    made: Chunks = {}
    if grid is not None:
        made["pixel_values_videos"], made["video_grid_thw"] = chunk_vlm_media(
            pixels, grid, batch_size, n_microbatches, counts
        )
    elif isinstance(pixels, list):
        made["pixel_values_videos"] = _split_media(pixels, counts, batch_size, n_microbatches)
    else:
        raise ValueError("pixel_values_videos without video_grid_thw: whose patches they are is not known")
    if seconds is not None:
        made["second_per_grid_ts"] = _split_media(seconds, counts, batch_size, n_microbatches)
    return made


def _split_media(values: Media, counts: Tensor | None, batch_size: int, n_microbatches: int) -> list[Media]:
    """What has one entry for each image or clip."""
    per_row = counts_of(counts, len(values), batch_size)
    return split_items(values, per_row, row_slices(batch_size, n_microbatches))


def _per_row(per_medium: list[int], media_of_rows: list[int]) -> list[int]:
    """Sums of what each medium has over the media of each row."""
    media = iter(per_medium)
    return [sum(next(media) for _ in range(count)) for count in media_of_rows]


def _refuse(fields: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    found = [name for name in names if name in fields]
    if found:
        raise ValueError(f"{', '.join(found)}: {why}")


def check_others(batch: Mapping[str, Any]) -> None:
    """Refuse media that would be left for the schedule, which splits by rows, and pixels that are not the model's yet."""
    others = [name for name in batch if name not in MEDIA_KEYS and name.startswith(MEDIA_NAMES)]
    found = [name for name in others if isinstance(batch[name], Tensor | list)]
    stored = [
        name for name in PIXEL_FIELDS if isinstance(value := batch.get(name), Tensor) and value.dtype == torch.uint8
    ]
    if stored:
        raise ValueError(
            f"{', '.join(stored)}: pixels as a pack stores them, which nothing turns into the model's once they are split. "
            "Prepare the batches that a Loader yields, not those of its collate."
        )
    if found:
        raise ValueError(
            f"{', '.join(found)}: of which rows these media are is not known here, and the schedule would split them by rows"
        )
