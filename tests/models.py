"""Tiny random vision-language models: the real classes of transformers, a few thousand weights, CPU, float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from tests.tiny_configs import CONFIGS, TinyTokens

__all__ = ["FAMILIES", "AnyFamily", "Family", "tiny_model"]

Family: TypeAlias = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
"""Those that neat packing was made for."""
AnyFamily: TypeAlias = Literal[
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "qwen3_omni_moe",
    "kimi_k25",
    "gemma4",
    "gemma4_bidirectional",
    "phi4_multimodal",
    "nemotron_h_omni",
    "llava_onevision",
    "internvl",
    "idefics3",
    "smolvlm",
    "step3p7",
]
FAMILIES: tuple[AnyFamily, ...] = get_args(AnyFamily)

_CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "kimi_k25": "Kimi_K25ForConditionalGeneration",
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_bidirectional": "Gemma4ForConditionalGeneration",
    "phi4_multimodal": "Phi4MultimodalForCausalLM",
    "nemotron_h_omni": "NemotronH_Omni_Reasoning_V3",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
    "step3p7": "Step3p7ForConditionalGeneration",
}


def tiny_model(
    family: AnyFamily,
    *,
    vocab_size: int = 128,
    image_token_id: int = 120,
    video_token_id: int = 121,
    vision_start_token_id: int = 122,
    vision_end_token_id: int = 123,
    audio_token_id: int = 124,
    audio_start_token_id: int = 125,
    audio_end_token_id: int = 126,
    patch_size: int = 14,
    attn_implementation: str = "sdpa",
    seed: int = 0,
    fit: Callable[[Any], None] | None = None,
) -> Any:
    """A randomly initialized model for conditional generation, in training mode without dropout.

    Args:
        family: Which model class.
        vocab_size: Rows of the embedding; every token id must be smaller.
        image_token_id: Placeholder of an image's visual tokens.
        video_token_id: Placeholder of a video's.
        vision_start_token_id: Token before an image or a video.
        vision_end_token_id: Token behind it.
        audio_token_id: Placeholder of a sound's tokens, where the model hears.
        audio_start_token_id: Token before a sound.
        audio_end_token_id: Token behind it.
        patch_size: Of the vision encoder, in pixels; merge size and temporal patch size are 2.
        attn_implementation: Attention backend of text and vision.
        seed: Of the weights.
        fit: Changes the config before the model is made.

    Returns:
        The model; its weights are large enough for one token to change every logit that may see it.
    """
    import transformers

    torch.set_num_threads(1)  # threads would wait for each other longer than these matrices take
    torch.manual_seed(seed)
    tokens = TinyTokens(
        vocab_size=vocab_size,
        image=image_token_id,
        video=video_token_id,
        vision_start=vision_start_token_id,
        vision_end=vision_end_token_id,
        audio=audio_token_id,
        audio_start=audio_start_token_id,
        audio_end=audio_end_token_id,
    )
    model_class: Any = getattr(transformers, _CLASSES[family])
    backends = {"": attn_implementation, **dict.fromkeys(("text_config", "vision_config"), attn_implementation)}
    if family.startswith("gemma4"):
        backends["audio_config"] = "eager"  # the only one that its sound encoder has
    config = CONFIGS[family](tokens, patch_size)
    if fit is not None:
        fit(config)
    model = model_class._from_config(config, attn_implementation=backends)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    return model.train()
