"""Which encoders a model has, by the model_type of its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from vlmprep.families.costs import encoders_qwen

__all__ = ["ENCODERS", "EncoderCosts"]

EncoderCosts: TypeAlias = Callable[[Any], Mapping[str, float]]
"""From the whole model's config to fields of CostModel: per_patch, per_patch_pair, per_window_pair, per_visual_token,
per_sound_feature, per_sound_frame, per_sound_pair. Fields that several encoders of a model give are added up."""

ENCODERS: dict[str, tuple[EncoderCosts, ...]] = {
    "qwen2_vl": (encoders_qwen.qwen2_vision,),
    "qwen2_5_vl": (encoders_qwen.qwen25_vision,),
    "qwen3_vl": (encoders_qwen.qwen3_vision,),
    "qwen3_vl_moe": (encoders_qwen.qwen3_vision,),
    "qwen3_5": (encoders_qwen.qwen3_vision,),
    "qwen3_5_moe": (encoders_qwen.qwen3_vision,),
    "qwen3_omni_moe": (encoders_qwen.qwen3_vision, encoders_qwen.qwen3_omni_sound),
    "qwen3_omni_moe_thinker": (encoders_qwen.qwen3_vision, encoders_qwen.qwen3_omni_sound),
}
