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
from typing import Any, TypeAlias

import torch

from vlmprep.automodel.pp_chunks import MEDIA_KEYS as _VLM_MEDIA_KEYS
from vlmprep.automodel.pp_chunks import check_others, chunk_step3_media, chunk_vlm_media, image_chunks, video_chunks
from vlmprep.automodel.pp_chunks import select_image_grid as _select_image_grid
from vlmprep.runtime.microbatches import staged

__all__ = [
    "VLM_PP_MEDIA_KEY",
    "_VLM_MEDIA_KEYS",
    "_select_image_grid",
    "chunk_step3_media",
    "chunk_vlm_media",
    "prepare_vlm_media_for_pp",
    "stage_vlm_media_for_pp",
    "wrap_vlm_collate_for_pp",
]

VLM_PP_MEDIA_KEY = "_vlm_pp_media_chunks"
"""Where a batch carries its media by microbatch."""

Batch: TypeAlias = MutableMapping[str, Any]


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
    check_others(batch)
    fields = {key: batch[key] for key in _VLM_MEDIA_KEYS if batch.get(key) is not None}
    chunks = image_chunks(fields, batch_size, n_microbatches) | video_chunks(fields, batch_size, n_microbatches)
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
