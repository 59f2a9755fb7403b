"""A batch's media by microbatch of a pipeline, and a microbatch's media where the first stage runs.

`torch.distributed.pipelining` splits every tensor of a batch into rows. Media are not laid by rows: a row has no, one or several
images, an image any number of patches. So they are split here, beside the schedule, and lie on the first stage's module while it
runs (`staged`), which asks for its own (`staged_media`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

from torch import Tensor, nn

__all__ = [
    "CURSOR",
    "GRID",
    "STAGED",
    "Media",
    "counts_of",
    "items_of",
    "row_slices",
    "split_items",
    "staged",
    "staged_media",
]

Media: TypeAlias = "Tensor | list[Tensor]"
"""Entries along the first axis, or a list of them where they differ in size."""

STAGED = (
    "pixel_values",
    "image_grid_hws",
    "image_grid_thw",
    "image_grid_hw",
    "image_sizes",
    "image_position_ids",
    "grid_thws",
    "batch_num_images",
    "pixel_attention_mask",
    "patch_pixel_values",
    "num_patches",
    "patch_newline_mask",
    "pixel_values_local",
    "num_local_patches",
    "pixel_values_videos",
    "video_grid_thw",
    "second_per_grid_ts",
)
"""Names of what lies on the first stage, each as `_vlm_<name>_chunks`. The grid of images is `image_grid_hws`, whatever it
counts; what else is said of each image has its own name."""

GRID = "image_grid_hws"
"""The grid of images, whatever the model calls it."""
CURSOR = "_vlm_chunk_idx"
"""Attribute of the first stage: the microbatch that runs."""


def row_slices(batch_size: int, n_microbatches: int) -> list[slice]:
    """The rows of each microbatch, as the schedules of `torch.distributed.pipelining` split them.

    5 rows in 3 microbatches: 0-1, 2-3, 4; in 4: 0-1, 2, 3, 4.

    Raises:
        ValueError: There are more microbatches than rows, or none.
    """
    if not 1 <= n_microbatches <= batch_size:
        raise ValueError(
            f"a batch of {batch_size} rows cannot be split into n_microbatches={n_microbatches}: every microbatch has at "
            "least one row. Use more packs per rank, or fewer microbatches."
        )
    each, more = divmod(batch_size, n_microbatches)
    ends = [0, *accumulate(each + (microbatch < more) for microbatch in range(n_microbatches))]
    return [slice(start, end) for start, end in pairwise(ends)]


def counts_of(counts: Tensor | None, num_media: int, batch_size: int) -> list[int]:
    """How many media each row has.

    Args:
        counts: [B] as the batch says; None: one each.
        num_media: All of them.
        batch_size: Rows.

    Raises:
        ValueError: They do not add up.
    """
    if counts is None:
        if num_media != batch_size:
            raise ValueError(
                f"{num_media} media in {batch_size} rows: which row has which is not known. Give n_images_per_sample "
                "(n_videos_per_sample), as the collate functions and Loader(collate='neat') do."
            )
        return [1] * batch_size
    per_row = [int(count) for count in counts.flatten().tolist()]
    if len(per_row) != batch_size or sum(per_row) != num_media or min(per_row) < 0:
        raise ValueError(f"media per row are {per_row}; {batch_size} rows with {num_media} media in all are expected")
    return per_row


def items_of(values: Media, grid: Tensor) -> list[int]:
    """How many entries of `values` each medium has: one, or the product of its grid.

    Args:
        values: [media, ...], or [items of all media, ...].
        grid: [media, ...]; [media, axes] where it counts items.

    Raises:
        ValueError: `values` has neither an entry for each medium nor one for each item.
    """
    if len(values) == len(grid):
        return [1] * len(grid)
    items: list[int] = grid.prod(dim=1).tolist() if grid.ndim == 2 else []
    if not items or sum(items) != len(values):
        shape = list(values.shape) if isinstance(values, Tensor) else f"a list of {len(values)}"
        raise ValueError(
            f"pixels are {shape}, their grid is {list(grid.shape)} and counts {sum(items)} patches: they have neither one entry "
            f"for each of {len(grid)} media nor one for each patch"
        )
    return items


def split_items(values: Media, sizes: Iterable[int], slices: Sequence[slice]) -> list[Media]:
    """Entries by microbatch, without a copy.

    Args:
        values: Entries of all rows, one row behind the other.
        sizes: How many each row has.
        slices: The rows of each microbatch.
    """
    starts = [0, *accumulate(sizes)]
    return [values[starts[rows.start] : starts[rows.stop]] for rows in slices]


@contextmanager
def staged(first: nn.Module, media: Mapping[str, Sequence[Media]], stages: Iterable[Any] = ()) -> Iterator[None]:
    """Lay media on the first stage's module for one call of the schedule.

    Args:
        first: The module of stage 0.
        media: By a name of `STAGED`, an entry for each microbatch.
        stages: This rank's `PipelineStage`s. The first of them says which microbatch runs, in whatever order the schedule
            wants and whether or not it runs one before to see what shapes come out. Without it the module counts for itself.
    """
    unknown = set(media) - set(STAGED)
    if unknown:
        raise ValueError(f"media that no stage takes: {', '.join(sorted(unknown))}")
    with ExitStack() as cleanup:
        cleanup.callback(_lay, first, {}, None)
        _lay(first, media, 0)
        for stage in stages:
            if getattr(stage, "is_first", False):
                cleanup.enter_context(_pointing(stage, first))
        yield


def staged_media(first: nn.Module, grid: str = "image_grid_thw") -> dict[str, Media]:
    """The media of the microbatch that runs, by the names that a model's forward takes; without those that it has none of.

    Args:
        first: The module of stage 0, in its forward; on any other, or outside of a staged call, it has none.
        grid: What the model calls the grid of its images.
    """
    microbatch = getattr(first, CURSOR, None)
    if microbatch is None:
        return {}
    found: dict[str, Media] = {}
    for name in STAGED:
        chunks = getattr(first, _attribute(name), None)
        if chunks is not None and len(chunks[microbatch]):
            found[grid if name == GRID else name] = chunks[microbatch]
    return found


def _lay(first: nn.Module, media: Mapping[str, Sequence[Media]], cursor: int | None) -> None:
    for name in STAGED:
        setattr(first, _attribute(name), media.get(name))
    setattr(first, CURSOR, cursor)


def _attribute(name: str) -> str:
    return f"_vlm_{name}_chunks"


@contextmanager
def _pointing(stage: Any, first: nn.Module) -> Iterator[None]:
    """Let a stage point at the microbatch before it runs one."""
    stage.forward_one_chunk = partial(_forward_one, type(stage).forward_one_chunk, stage, first)
    try:
        yield
    finally:
        del stage.forward_one_chunk


def _forward_one(
    forward: Callable[..., Any], stage: Any, first: nn.Module, microbatch: int, *args: Any, **more: Any
) -> Any:
    setattr(first, CURSOR, microbatch)
    return forward(stage, microbatch, *args, **more)
