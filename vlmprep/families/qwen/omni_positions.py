"""Positions of Qwen3-Omni from its config, without its weights."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.family import Tokens

__all__ = ["OmniPositions"]

INPUTS = {
    "image_grid_thw": "image_grid_thw",
    "video_grid_thw": "video_grid_thw",
    "audio_seqlens": "audio_feature_lengths",
    "second_per_grids": "video_second_per_grid",
}
"""Arguments of the model's method, and the fields that they are."""


class OmniPositions:
    """Positions of one sequence at a time, by the model's own method on a stub that has the config and the helpers.

    Its positions are float32, because the seconds between a clip's steps need not be whole. A pack's are whole numbers; so
    is every position where `position_id_per_seconds` times those seconds is.

    Args:
        model_class: The model of transformers whose `get_rope_index` is called.
        config: The thinker's config.
    """

    def __init__(self, model_class: type, config: Any) -> None:
        stub = types.SimpleNamespace(config=config, spatial_merge_size=config.vision_config.spatial_merge_size)
        methods: Any = model_class
        stub.get_llm_pos_ids_for_vision = functools.partial(methods.get_llm_pos_ids_for_vision, stub)
        self._get_rope_index = functools.partial(methods.get_rope_index, stub)
        self._audio_start = int(config.audio_start_token_id)
        self._vision_start = int(config.vision_start_token_id)
        self._per_second = config.position_id_per_seconds

    def __call__(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """Positions [3, S] of a sequence with its media inputs.

        Raises:
            RefuseSample: They are not whole numbers.
            ValueError, RuntimeError: The placeholders are not those of the media.
        """
        ids = torch.from_numpy(tokens.input_ids.astype(np.int64))[None]
        inputs = {
            argument: torch.from_numpy(np.ascontiguousarray(tensors[field]))
            for argument, field in INPUTS.items()
            if field in tensors
        }
        positions, _ = self._get_rope_index(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            use_audio_in_video=self._hears_a_clip(tokens.input_ids),
            **inputs,
        )
        found = positions[:, 0].numpy()
        whole: NDArray[np.int32] = found.astype(np.int32)
        if not np.array_equal(whole, found):
            raise RefuseSample(
                "fractional-positions",
                f"the steps of its clip are {tensors['video_second_per_grid'].tolist()} seconds apart, at "
                f"{self._per_second} positions a second no whole number, and a pack holds whole positions: "
                "choose another fps",
            )
        return whole

    def _hears_a_clip(self, ids: NDArray[np.int32]) -> bool:
        """Whether a clip's sound is among its frames: it begins with the start of a picture and that of a sound."""
        return bool(np.any((ids[:-1] == self._vision_start) & (ids[1:] == self._audio_start)))
