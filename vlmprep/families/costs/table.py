"""Which encoders a model has, by the model_type of its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from vlmprep.families.costs import encoders_grids, encoders_qwen, encoders_sound, encoders_tiles

__all__ = ["ENCODERS", "EncoderCosts"]

EncoderCosts: TypeAlias = Callable[[Any], Mapping[str, float]]
"""From the whole model's config to fields of CostModel: per_picture, per_patch, per_patch_pair, per_window_pair,
per_visual_token, per_sound_feature, per_sound_frame, per_sound_pair. Fields that several encoders of a model give are added."""

ENCODERS: dict[str, tuple[EncoderCosts, ...]] = {
    "aya_vision": (encoders_tiles.shuffled_vision,),
    "cohere2_vision": (encoders_tiles.shuffled_vision,),
    "gemma3": (encoders_tiles.gemma3_vision,),
    "gemma4": (encoders_grids.gemma4_vision, encoders_sound.gemma4_sound),
    "idefics3": (encoders_tiles.idefics3_vision,),
    "internvl": (encoders_tiles.internvl_vision,),
    "kimi_k25": (encoders_grids.moonvit,),
    "kimi_vl": (encoders_grids.moonvit,),
    "llava": (encoders_tiles.llava_vision,),
    "llava_next": (encoders_tiles.llava_vision,),
    "llava_onevision": (encoders_tiles.llava_vision,),
    "nemotron_h_omni": (encoders_grids.radio, encoders_sound.parakeet),
    "phi4_multimodal": (encoders_grids.phi4_vision, encoders_sound.phi4_sound),
    "qwen2_vl": (encoders_qwen.qwen2_vision,),
    "qwen2_5_vl": (encoders_qwen.qwen25_vision,),
    "qwen3_vl": (encoders_qwen.qwen3_vision,),
    "qwen3_vl_moe": (encoders_qwen.qwen3_vision,),
    "qwen3_5": (encoders_qwen.qwen3_vision,),
    "qwen3_5_moe": (encoders_qwen.qwen3_vision,),
    "qwen3_omni_moe": (encoders_qwen.qwen3_vision, encoders_qwen.qwen3_omni_sound),
    "qwen3_omni_moe_thinker": (encoders_qwen.qwen3_vision, encoders_qwen.qwen3_omni_sound),
    "smolvlm": (encoders_tiles.idefics3_vision,),
    "step3p7": (encoders_grids.step3p7_vision,),
}
