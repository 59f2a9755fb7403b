"""NeMo Automodel's `datasets.vlm.pp_media`: media under pipeline parallelism.

    collate = wrap_vlm_collate_for_pp(collate, n_microbatches=4)     # or prepare_vlm_media_for_pp on a loader's batch
    ...
    with stage_vlm_media_for_pp(pp, model_parts, batch):
        schedule.step(batch["input_ids"], ...)

Microbatches have the rows that `torch.distributed.pipelining` gives them, also where they do not divide evenly.
docs/automodel.md says where this differs from the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlmprep.automodel.batches import MEDIA_NAMES
from vlmprep.runtime.microbatches import GRID, Media, counts_of, items_of, row_slices, split_items, staged

__all__ = [
    "VLM_PP_MEDIA_KEY",
    "chunk_step3_media",
    "chunk_vlm_media",
    "prepare_vlm_media_for_pp",
    "stage_vlm_media_for_pp",
    "wrap_vlm_collate_for_pp",
]

VLM_PP_MEDIA_KEY = "_vlm_pp_media_chunks"
"""Where a batch carries its media by microbatch."""

_GRIDS = ("image_grid_hws", "image_grid_thw", "image_sizes", "image_position_ids")
_PER_IMAGE = (*_GRIDS, "image_grid_hw", "grid_thws")
_CROPS = ("patch_pixel_values", "num_patches", "patch_newline_mask")
_LOCAL_CROPS = ("num_local_patches", "pixel_values_local")
_VLM_MEDIA_KEYS = (
    "pixel_values",
    *_CROPS,
    *_PER_IMAGE,
    "n_images_per_sample",
    "pixel_values_videos",
    "video_grid_thw",
    "n_videos_per_sample",
    "second_per_grid_ts",
    *_LOCAL_CROPS,
)

Batch = MutableMapping[str, Any]
Chunks = dict[str, list[Any]]


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


def prepare_vlm_media_for_pp(batch: Batch, batch_size: int, n_microbatches: int) -> Batch:
    """Put the media of a batch into `VLM_PP_MEDIA_KEY`, by microbatch; everything else is left for the schedule to split.

    Args:
        batch: Changed in place; as it was where it holds no media.
        batch_size: Rows.
        n_microbatches: Of the schedule.

    Returns:
        The batch.

    Raises:
        ValueError: Media do not fit to rows, there are fewer rows than microbatches, or the batch holds media that cannot be
            split here and that the schedule would split by rows that they do not have. The batch is as it was.
    """
    if n_microbatches < 1:
        raise ValueError(f"n_microbatches must be at least 1, got {n_microbatches}")
    if not any(key in batch for key in _VLM_MEDIA_KEYS):
        return batch
    _check_others(batch, batch_size)
    fields = {key: batch[key] for key in _VLM_MEDIA_KEYS if batch.get(key) is not None}
    chunks = _image_chunks(fields, batch_size, n_microbatches) | _video_chunks(fields, batch_size, n_microbatches)
    for key in _VLM_MEDIA_KEYS:
        batch.pop(key, None)
    if chunks:
        batch[VLM_PP_MEDIA_KEY] = chunks
    return batch


@contextmanager
def stage_vlm_media_for_pp(pp: Any, model_parts: list[torch.nn.Module], batch: Batch) -> Iterator[None]:
    """Lay the media of a prepared batch on stage 0 for one call of the schedule.

    On the module of stage 0, `_vlm_pixel_values_chunks`, `_vlm_image_grid_hws_chunks` and the like hold an entry for each
    microbatch and `_vlm_chunk_idx` the one that runs; afterwards they are None, whatever happened.
    `vlmprep.runtime.microbatches.staged_media` reads them in a forward of one's own.

    Args:
        pp: With `info.has_first_stage` and, so that the microbatch that runs is known whatever the module counts,
            `info.stages`, as Automodel's `AutoPipeline`.
        model_parts: Modules of this rank's stages; the first is stage 0 where `pp` has it.
        batch: `VLM_PP_MEDIA_KEY` is taken out on every rank.
    """
    media = batch.pop(VLM_PP_MEDIA_KEY, None)
    if not media or not getattr(pp.info, "has_first_stage", False):
        yield
        return
    with staged(model_parts[0], media, getattr(pp.info, "stages", None) or ()):
        yield


def wrap_vlm_collate_for_pp(collate_fn: Callable[[Any], Batch], n_microbatches: int) -> Callable[[Any], Batch]:
    """Wrap a collate function so that it prepares its media; can be pickled where `collate_fn` can."""
    return partial(_collate_for_pp, collate_fn, n_microbatches)


def _collate_for_pp(collate_fn: Callable[[Any], Any], n_microbatches: int, examples: Any) -> Any:
    batch = collate_fn(examples)
    if not isinstance(batch, MutableMapping) or not any(key in batch for key in _VLM_MEDIA_KEYS):
        return batch
    if "input_ids" not in batch:
        raise ValueError("a batch with media but without input_ids does not say how many rows it has")
    return prepare_vlm_media_for_pp(batch, len(batch["input_ids"]), n_microbatches)


def _select_image_grid(
    image_grid_hws: Tensor | None,
    image_grid_thw: Tensor | None,
    image_sizes: Tensor | None,
    image_position_ids: Tensor | None,
) -> Tensor | None:
    """What a batch says of each image; the first that it has."""
    grids = (image_grid_hws, image_grid_thw, image_sizes, image_position_ids)
    return next((grid for grid in grids if grid is not None), None)


def _image_chunks(fields: dict[str, Any], batch_size: int, n_microbatches: int) -> Chunks:
    """Images by microbatch: with a grid, with crops counted by image, or with crops counted by row."""
    pixels = fields.get("pixel_values")
    if pixels is None:
        _refuse(fields, ("patch_pixel_values", "pixel_values_local"), "there is no pixel_values")
        return {}
    grids = {name: fields[name] for name in _PER_IMAGE if name in fields}
    if grids:
        _refuse(fields, (*_CROPS, *_LOCAL_CROPS), f"beside {', '.join(grids)}, whose crops they are is not known")
        return _grid_chunks(fields, grids, batch_size, n_microbatches)
    if "num_local_patches" in fields:
        _refuse(fields, _CROPS, "beside num_local_patches, whose crops they are is not known")
        return _local_chunks(fields, batch_size, n_microbatches)
    _refuse(fields, ("pixel_values_local",), "there is no num_local_patches")
    counts = fields.get("n_images_per_sample")
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
    grid = _select_image_grid(*map(fields.get, _GRIDS))
    if grid is None:
        grid = next(iter(grids.values()))
    pixels, chunks = chunk_vlm_media(fields["pixel_values"], grid, batch_size, n_microbatches, counts)
    made: Chunks = {"pixel_values": pixels, GRID: chunks}
    for name, other in grids.items():
        if other is not grid:
            made[name] = _split_media(other, counts, batch_size, n_microbatches)
    return made


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


def _video_chunks(fields: dict[str, Any], batch_size: int, n_microbatches: int) -> Chunks:
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


def _check_others(batch: Batch, batch_size: int) -> None:
    """Refuse media that would be left for the schedule, which splits by rows."""
    others = [name for name in batch if name not in _VLM_MEDIA_KEYS and name.startswith(MEDIA_NAMES)]
    found = [name for name in others if isinstance(batch[name], Tensor | list)]
    found += [name for name in ("batch_num_images",) if name in batch and len(batch[name]) != batch_size]
    if found:
        raise ValueError(
            f"{', '.join(found)}: of which rows these media are is not known here, and the schedule would split them by rows"
        )
