"""Multimodal rotary positions from a model's config, without its weights.

transformers computes them in a method of the model that reads nothing but the config; so it is called on a stub that has the
config and the helpers, and gives what the model would give.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.schema.family import Tokens

__all__ = ["MropePositions"]

IMAGE, VIDEO = 1, 2
"""Token types of placeholders; 0 is text."""
NO_GRIDS = np.zeros((0, 3), dtype=np.int64)


class MropePositions:
    """Positions of one sequence at a time.

    The model's method walks every token in Python; the same walk is made here run by run, with the model's own positions
    inside each image and clip. It is tried against the method before it is trusted.

    Args:
        model_class: The model of transformers whose `get_rope_index` is called.
        config: Its config.
    """

    def __init__(self, model_class: type, config: Any) -> None:
        stub = types.SimpleNamespace(config=config)
        methods: Any = model_class
        stub.get_vision_position_ids = functools.partial(methods.get_vision_position_ids, stub)
        self._get_rope_index = functools.partial(methods.get_rope_index, stub)
        self._in_picture = stub.get_vision_position_ids
        self._merge_size = int(config.vision_config.spatial_merge_size)
        self._tokens_per_second = getattr(config.vision_config, "tokens_per_second", None)
        self._walks_pictures = self._walk_agrees(whole_clips=True)
        self._walks_frames = not self._walks_pictures and self._walk_agrees(whole_clips=False)

    def __call__(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """Positions [3, S] of a sequence with its media inputs.

        Raises:
            ValueError, RuntimeError: Its runs of placeholders are not those of its media.
            StopIteration: It has more of them than media.
        """
        if self._walks_pictures or self._walks_frames:
            return self._walk(tokens.mm_token_type_ids, tensors, whole_clips=self._walks_pictures)
        return self._model_positions(tokens, tensors)

    def _model_positions(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """What the model's own method says."""
        grids = {
            name: torch.from_numpy(np.ascontiguousarray(tensors[name]))
            for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
            if name in tensors
        }
        positions, _ = self._get_rope_index(
            input_ids=torch.from_numpy(tokens.input_ids.astype(np.int64))[None],
            mm_token_type_ids=torch.from_numpy(tokens.mm_token_type_ids.astype(np.int64))[None],
            **grids,
        )
        return np.asarray(positions[:, 0].numpy(), dtype=np.int32)

    def _walk(
        self, token_types: NDArray[np.uint8], tensors: Mapping[str, NDArray[Any]], *, whole_clips: bool
    ) -> NDArray[np.int32]:
        """Text counts on; a picture spreads over three axes and moves the count on by its longer side.

        Args:
            token_types: [S].
            tensors: Grids, and the seconds between a clip's patches.
            whole_clips: A clip is one run of placeholders; else each of its steps is one.
        """
        positions = np.empty((3, len(token_types)), dtype=np.int32)
        starts = np.flatnonzero(np.diff(token_types, prepend=255))
        ends = np.append(starts[1:], len(token_types))
        runs = self._clip_runs(tensors, whole_clips=whole_clips)
        images, count = iter(tensors.get("image_grid_thw", NO_GRIDS)), 0
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if token_types[start]:
                grid, interval = (next(images), 1) if token_types[start] == IMAGE else next(runs)
                placed = self._placed(count, grid, interval)
                if placed.shape[1] != end - start:
                    raise ValueError(f"{end - start} placeholders in a row for a picture of {placed.shape[1]}")
                positions[:, start:end] = placed
                count += int(grid[1:].max()) // self._merge_size
            else:
                positions[:, start:end] = np.arange(count, count + end - start)
                count += end - start
        return positions

    def _placed(self, count: int, grid: NDArray[np.int64], interval: Any) -> NDArray[np.int64]:
        """Positions [3, placeholders] in a picture that begins at `count`; those of a single step are written down here."""
        steps, rows, columns = grid.tolist()
        if steps > 1:
            placed: NDArray[np.int64] = self._in_picture(count, grid, 1, self._merge_size, interval).numpy()
            return placed
        rows, columns = rows // self._merge_size, columns // self._merge_size
        single = np.full((3, rows, columns), count, dtype=np.int64)
        single[1] += np.arange(rows)[:, None]
        single[2] += np.arange(columns)
        return single.reshape(3, -1)

    def _clip_runs(
        self, tensors: Mapping[str, NDArray[Any]], *, whole_clips: bool
    ) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """The grid of each run of a clip's placeholders, and how far its steps lie apart."""
        grids = tensors.get("video_grid_thw", NO_GRIDS)
        if not whole_clips:
            for _, rows, columns in np.repeat(grids, grids[:, 0], axis=0):
                yield np.array([1, rows, columns]), 1
        elif self._tokens_per_second is None:
            yield from ((grid, 1) for grid in grids)
        else:
            seconds = tensors.get("second_per_grid_ts", np.ones(len(grids), dtype=np.float32))
            for grid, between in zip(grids, torch.from_numpy(seconds), strict=True):
                yield grid, self._tokens_per_second * between

    def _walk_agrees(self, *, whole_clips: bool) -> bool:
        """Try the walk against the model on two images and two clips between texts."""
        merge = np.array([1, self._merge_size, self._merge_size])
        images, clips = np.array([[1, 2, 3], [1, 4, 1]]) * merge, np.array([[3, 2, 1], [2, 3, 5]]) * merge
        tensors = {
            "image_grid_thw": images,
            "video_grid_thw": clips,
            "second_per_grid_ts": np.array([0.7, 3.1], dtype=np.float32),
        }
        runs = [(0, 3), (IMAGE, 6), (0, 2)]
        for steps, rows, columns in (clips // merge).tolist():
            run = (VIDEO, rows * columns)
            runs += [(VIDEO, steps * run[1]), (0, 2)] if whole_clips else [run, (0, 1)] * steps
        runs += [(IMAGE, 4), (0, 4)]
        token_types = np.repeat(*np.array(runs, dtype=np.uint8).T)
        tokens = Tokens(input_ids=token_types.astype(np.int32), is_label=token_types > 0, mm_token_type_ids=token_types)
        try:
            expected = self._model_positions(tokens, tensors)
            return np.array_equal(self._walk(token_types, tensors, whole_clips=whole_clips), expected)
        except (ValueError, RuntimeError, StopIteration):
            return False
