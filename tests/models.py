"""Tiny random vision-language models: the real classes of transformers, a few thousand weights, CPU, float32."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import nn

__all__ = ["Family", "tiny_model"]

Family: TypeAlias = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]

_HIDDEN = 32
_HEADS = 2
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
"""Head size 16: the sections add up to half of it."""


def tiny_model(
    family: Family,
    *,
    vocab_size: int = 128,
    image_token_id: int = 120,
    video_token_id: int = 121,
    vision_start_token_id: int = 122,
    vision_end_token_id: int = 123,
    patch_size: int = 14,
    attn_implementation: str = "sdpa",
    seed: int = 0,
) -> Any:
    """A randomly initialized model for conditional generation, in training mode without dropout.

    Args:
        family: Which model class.
        vocab_size: Rows of the embedding; every token id must be smaller.
        image_token_id: Placeholder of an image's visual tokens.
        video_token_id: Placeholder of a video's.
        vision_start_token_id: Token before an image or a video.
        vision_end_token_id: Token behind it.
        patch_size: Of the vision encoder, in pixels; merge size and temporal patch size are 2.
        attn_implementation: Attention backend of text and vision.
        seed: Of the weights.

    Returns:
        The model; its weights are large enough for one token to change every logit that may see it.
    """
    torch.manual_seed(seed)
    tokens: dict[str, Any] = {
        "image_token_id": image_token_id,
        "video_token_id": video_token_id,
        "vision_start_token_id": vision_start_token_id,
        "vision_end_token_id": vision_end_token_id,
    }
    config = _CONFIGS[family](vocab_size, patch_size, tokens)
    model = _model_class(family)._from_config(config, attn_implementation=attn_implementation)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    return model.train()


def _text(vocab_size: int, rope: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": _HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _qwen2_vl(vocab_size: int, patch_size: int, tokens: dict[str, Any]) -> Any:
    from transformers import Qwen2VLConfig

    vision = {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "hidden_size": _HIDDEN,
        "patch_size": patch_size,
    }
    return Qwen2VLConfig(text_config=_text(vocab_size, dict(_ROPE)), vision_config=vision, **tokens)


def _qwen2_5_vl(vocab_size: int, patch_size: int, tokens: dict[str, Any]) -> Any:
    from transformers import Qwen2_5_VLConfig

    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": _HIDDEN,
        "patch_size": patch_size,
        "window_size": 4 * patch_size,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLConfig(text_config=_text(vocab_size, dict(_ROPE)), vision_config=vision, **tokens)


def _qwen3_vl(vocab_size: int, patch_size: int, tokens: dict[str, Any]) -> Any:
    from transformers import Qwen3VLConfig

    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": _HIDDEN,
        "patch_size": patch_size,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    text = {**_text(vocab_size, {**_ROPE, "mrope_interleaved": True}), "head_dim": _HIDDEN // _HEADS}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)


_CONFIGS = {"qwen2_vl": _qwen2_vl, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}


def _model_class(family: Family) -> Any:
    import transformers

    names = {
        "qwen2_vl": "Qwen2VLForConditionalGeneration",
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
    }
    return getattr(transformers, names[family])
