"""Multimodal rotary positions from a model's config, without its weights.

transformers computes them in a method of the model that reads nothing but the config; so it is called on a stub that has the
config and the helpers, and gives what the model would give.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.schema.family import Tokens

__all__ = ["MropePositions"]

IMAGE = 1
"""Token type of an image's placeholders; 0 is text."""


class MropePositions:
    """Positions of one sequence at a time.

    The model's method walks every token in Python; where a sequence holds images alone, the same walk is made here run by
    run, with the model's own positions inside each image. It is tried against the method before it is trusted.

    Args:
        model_class: The model of transformers whose `get_rope_index` is called.
        config: Its config.
    """

    def __init__(self, model_class: type, config: Any) -> None:
        stub = types.SimpleNamespace(config=config)
        methods: Any = model_class
        stub.get_vision_position_ids = functools.partial(methods.get_vision_position_ids, stub)
        self._get_rope_index = functools.partial(methods.get_rope_index, stub)
        self._in_image = stub.get_vision_position_ids
        self._merge_size = int(config.vision_config.spatial_merge_size)
        self._walks_runs = self._walk_agrees()

    def __call__(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """Positions [3, S] of a sequence with its media inputs."""
        if self._walks_runs and tokens.mm_token_type_ids.max(initial=0) <= IMAGE:
            return self._walk(tokens.mm_token_type_ids, tensors.get("image_grid_thw", np.zeros((0, 3), np.int64)))
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

    def _walk(self, token_types: NDArray[np.uint8], grids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Text counts on; an image spreads over three axes and moves the count on by its longer side."""
        positions = np.empty((3, len(token_types)), dtype=np.int32)
        starts = np.flatnonzero(np.diff(token_types, prepend=2))
        ends = np.append(starts[1:], len(token_types))
        images, count = iter(grids), 0
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            if token_types[start] == IMAGE:
                grid = next(images)
                positions[:, start:end] = self._in_image(count, grid, 1, self._merge_size).numpy()
                count += int(grid[1:].max()) // self._merge_size
            else:
                positions[:, start:end] = np.arange(count, count + end - start)
                count += end - start
        return positions

    def _walk_agrees(self) -> bool:
        """Try the walk against the model on two images between texts."""
        grids = np.array([[1, 4, 6], [1, 8, 2]], dtype=np.int64)
        grids[:, 1:] *= self._merge_size
        runs = [3, int(grids[0].prod()) // self._merge_size**2, 2, int(grids[1].prod()) // self._merge_size**2, 4]
        token_types = np.repeat(np.array([0, 1, 0, 1, 0], dtype=np.uint8), runs)
        tokens = Tokens(input_ids=token_types.astype(np.int32), is_label=token_types > 0, mm_token_type_ids=token_types)
        return np.array_equal(self._walk(token_types, grids), self._model_positions(tokens, {"image_grid_thw": grids}))
