"""Configs of tiny models of every family: a few thousand weights, the real architecture with every kind of layer it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["CONFIGS", "HIDDEN", "TinyTokens"]

HIDDEN = 32
HEADS = 2
SIDE = 28
"""Pixels of a square picture where a family cuts squares: 2 x 2 patches."""
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
"""Head size 16: the sections add up to half of it."""
PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}
WINDOW = 8
"""Tokens that sliding layers see, much less than a document has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyTokens:
    """Token ids of a tiny model; text is below all of them."""

    vocab_size: int
    image: int
    video: int
    vision_start: int
    vision_end: int
    audio: int
    audio_start: int
    audio_end: int


def text(vocab_size: int, rope: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A text model of two layers."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rope_parameters": dict(rope or PLAIN),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
        **more,
    }


def qwen_tokens(tokens: TinyTokens) -> dict[str, Any]:
    return {
        "image_token_id": tokens.image,
        "video_token_id": tokens.video,
        "vision_start_token_id": tokens.vision_start,
        "vision_end_token_id": tokens.vision_end,
    }


def qwen3_vision(patch_size: int, **more: Any) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "patch_size": patch_size,
        "num_position_embeddings": 64,
        **more,
    }


def qwen2_vl(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import Qwen2VLConfig

    vision = {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "hidden_size": HIDDEN,
        "patch_size": patch_size,
    }
    return Qwen2VLConfig(text_config=text(tokens.vocab_size, MROPE), vision_config=vision, **qwen_tokens(tokens))


def qwen2_5_vl(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import Qwen2_5_VLConfig

    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "patch_size": patch_size,
        "window_size": 4 * patch_size,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLConfig(text_config=text(tokens.vocab_size, MROPE), vision_config=vision, **qwen_tokens(tokens))


def qwen3_vl(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import Qwen3VLConfig

    vision = qwen3_vision(patch_size, deepstack_visual_indexes=[0])
    language = text(tokens.vocab_size, {**MROPE, "mrope_interleaved": True}, head_dim=HIDDEN // HEADS)
    return Qwen3VLConfig(text_config=language, vision_config=vision, **qwen_tokens(tokens))


def qwen3_5(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import Qwen3_5Config

    language = text(
        tokens.vocab_size,
        {**MROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
        head_dim=HIDDEN // HEADS,
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    )
    return Qwen3_5Config(text_config=language, vision_config=qwen3_vision(patch_size), **qwen_tokens(tokens))


def qwen3_omni_moe(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

    audio = {
        "num_mel_bins": 16,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "d_model": 32,
        "output_dim": HIDDEN,
        "downsample_hidden_size": 4,
    }
    language = text(
        tokens.vocab_size,
        {**MROPE, "mrope_interleaved": True},
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        head_dim=HIDDEN // HEADS,
    )
    vision = qwen3_vision(patch_size, deepstack_visual_indexes=[0])
    special = {"audio_token_id": tokens.audio, "audio_start_token_id": tokens.audio_start, **qwen_tokens(tokens)}
    return Qwen3OmniMoeThinkerConfig(text_config=language, vision_config=vision, audio_config=audio, **special)


def kimi_k25(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers.models.kimi_k25.configuration_kimi_k25 import Kimi_K25Config

    vision = {
        "patch_size": patch_size,
        "pos_emb_height": 8,
        "pos_emb_width": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
    }
    language = text(
        tokens.vocab_size,
        model_type="deepseek_v3",
        num_key_value_heads=HEADS,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
    )
    special = qwen_tokens(tokens)
    return Kimi_K25Config(text_config=language, vision_config=vision, projection_hidden_size=32, **special)


def gemma4(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import Gemma4Config

    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "pooling_kernel_size": 2,
        "patch_size": patch_size,
        "position_embedding_size": 64,
    }
    audio = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [128, 4],
        "output_proj_dims": 32,
    }
    language = text(
        tokens.vocab_size,
        head_dim=16,
        global_head_dim=16,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=WINDOW,
        hidden_size_per_layer_input=4,
        vocab_size_per_layer_input=tokens.vocab_size,
    )
    del language["rope_parameters"]
    special: dict[str, Any] = {
        "image_token_id": tokens.image,
        "video_token_id": tokens.video,
        "audio_token_id": tokens.audio,
    }
    return Gemma4Config(text_config=language, vision_config=vision, audio_config=audio, **special)


def gemma4_bidirectional(tokens: TinyTokens, patch_size: int) -> Any:
    """Gemma4 as its larger models are: images see themselves whole."""
    config = gemma4(tokens, patch_size)
    config.text_config.use_bidirectional_attention = "vision"
    return config


def phi4_multimodal(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import Phi4MultimodalConfig

    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 4 * patch_size,
        "crop_size": 4 * patch_size,
        "patch_size": patch_size,
        "image_token_id": tokens.image,
    }
    audio = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_blocks": 2,
        "num_attention_heads": 2,
        "ext_pw_out_channel": 32,
        "depthwise_separable_out_channel": 32,
        "nemo_conv_channels": 4,
        "input_size": 16,
        "audio_token_id": tokens.audio,
    }
    return Phi4MultimodalConfig(**text(tokens.vocab_size), vision_config=vision, audio_config=audio)


def nemotron_h_omni(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config

    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 1.0,
        "patch_size": patch_size,
        "image_size": 8 * patch_size,
        "max_img_size": 16 * patch_size,
        "num_cls_tokens": 1,
        "num_registers": 1,
        "video_temporal_patch_size": 2,
        "summary_idxs": [0],
    }
    audio = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "subsampling_conv_channels": 4,
        "num_mel_bins": 16,
        "dropout": 0.0,
        "layerdrop": 0.0,
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "projection_hidden_size": 32,
        "projection_bias": False,
    }
    language = text(
        tokens.vocab_size,
        layers_block_type=["linear_attention", "moe", "full_attention", "mlp"],
        head_dim=16,
        ssm_state_size=8,
        mamba_num_heads=4,
        mamba_head_dim=8,
        n_groups=2,
        chunk_size=16,
        n_routed_experts=4,
        moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16,
    )
    del language["num_hidden_layers"], language["rope_parameters"]
    return NemotronH_Omni_Reasoning_V3_Config(
        text_config=language,
        vision_config=vision,
        audio_config=audio,
        projector_hidden_size=32,
        vision_hidden_size=32,
        image_token_id=tokens.image,
        video_token_id=tokens.video,
        audio_token_id=tokens.audio,
    )


def siglip(patch_size: int) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": patch_size,
    }


def llava_onevision(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import LlavaOnevisionConfig

    return LlavaOnevisionConfig(
        text_config=text(tokens.vocab_size, model_type="qwen2"),
        vision_config={**siglip(patch_size), "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokens.image,
        video_token_index=tokens.video,
        image_grid_pinpoints=[[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]],
    )


def internvl(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import InternVLConfig

    vision = {**siglip(patch_size), "image_size": [SIDE, SIDE], "patch_size": [patch_size, patch_size]}
    return InternVLConfig(
        text_config=text(tokens.vocab_size, model_type="qwen2"),
        vision_config={**vision, "projection_dropout": 0.0},
        image_token_id=tokens.image,
    )


def idefics3(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import Idefics3Config

    language = text(tokens.vocab_size, model_type="llama")
    return Idefics3Config(text_config=language, vision_config=siglip(patch_size), image_token_id=tokens.image)


def smolvlm(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers import SmolVLMConfig

    language = text(tokens.vocab_size, model_type="llama")
    return SmolVLMConfig(text_config=language, vision_config=siglip(patch_size), image_token_id=tokens.image)


def step3p7(tokens: TinyTokens, patch_size: int) -> Any:
    from transformers.models.step3p7.configuration_step3p7 import Step3p7Config

    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "mlp_ratio": 2.0,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 4 * patch_size,
        "patch_size": patch_size,
        "max_position_embeddings": 16,
    }
    language = text(
        tokens.vocab_size,
        head_dim=16,
        layer_types=["sliding_attention", "full_attention"],
        mlp_layer_types=["dense", "sparse"],
        sliding_window=WINDOW,
        n_routed_experts=4,
        num_local_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        share_expert_dim=16,
    )
    del language["rope_parameters"]
    return Step3p7Config(text_config=language, vision_config=vision, image_token_id=tokens.image)


CONFIGS: dict[str, Callable[[TinyTokens, int], Any]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5": qwen3_5,
    "qwen3_omni_moe": qwen3_omni_moe,
    "kimi_k25": kimi_k25,
    "gemma4": gemma4,
    "gemma4_bidirectional": gemma4_bidirectional,
    "phi4_multimodal": phi4_multimodal,
    "nemotron_h_omni": nemotron_h_omni,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "step3p7": step3p7,
}
"""By family; each makes a config from token ids and the patch size in pixels."""
