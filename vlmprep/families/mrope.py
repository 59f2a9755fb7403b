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


class MropePositions:
    """Positions of one sequence at a time.

    Args:
        model_class: The model of transformers whose `get_rope_index` is called.
        config: Its config.
    """

    def __init__(self, model_class: type, config: Any) -> None:
        stub = types.SimpleNamespace(config=config)
        methods: Any = model_class
        stub.get_vision_position_ids = functools.partial(methods.get_vision_position_ids, stub)
        self._get_rope_index = functools.partial(methods.get_rope_index, stub)

    def __call__(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """Positions [3, S] of a sequence with its media inputs."""
        size = len(tokens.input_ids)
        if not tokens.mm_token_type_ids.any():
            return np.broadcast_to(np.arange(size, dtype=np.int32), (3, size))
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
