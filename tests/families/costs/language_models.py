"""Tiny language models of every kind that a formula is known for, and what torch counts of them otherwise."""

from __future__ import annotations

from typing import Any

import torch

from tests.families.costs.flops import Flops, count_flops
from tests.tiny_configs import MROPE, text
from vlmprep.families.costs.recurrent import DELTA_CHUNK
from vlmprep.schema.cost import CostModel

__all__ = ["VARIANTS", "counted", "otherwise", "variant", "with_every_pair", "without_rotary"]

HEAD = 8
LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_conv_kernel_dim": 3,
}
LATENT = {"kv_lora_rank": 12, "qk_rope_head_dim": 8, "qk_nope_head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 2}
SPARSE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "n_group": 1, "topk_group": 1}
GEMMA = {
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "num_hidden_layers": 6,
    "sliding_window": 5,
    "head_dim": HEAD,
    "global_head_dim": 2 * HEAD,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 128,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "head_dim": 24},
    "mistral, windows": {"model_type": "mistral", "sliding_window": 5},
    "mistral, none": {"model_type": "mistral", "sliding_window": None, "head_dim": HEAD},
    "qwen2, some windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "num_hidden_layers": 3,
    },
    "qwen2, windows off": {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 6},
    "qwen3": {"model_type": "qwen3", "head_dim": 24},
    "qwen3_moe": {"model_type": "qwen3_moe", "head_dim": 24, "mlp_only_layers": [0], "num_hidden_layers": 3, **SPARSE},
    "qwen3_vl_moe": {
        "model_type": "qwen3_vl_moe_text",
        "decoder_sparse_step": 2,
        "num_hidden_layers": 3,
        "head_dim": 16,
        **SPARSE,
    },
    "qwen3_5": {"model_type": "qwen3_5_text", "head_dim": HEAD, "num_hidden_layers": 4, **LINEAR},
    "qwen3_5_moe": {
        "model_type": "qwen3_5_moe_text",
        "head_dim": HEAD,
        "num_hidden_layers": 4,
        "shared_expert_intermediate_size": 12,
        **LINEAR,
        **SPARSE,
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "q_lora_rank": 10,
        "first_k_dense_replace": 1,
        "n_shared_experts": 2,
        "num_hidden_layers": 3,
        **LATENT,
        **ROUTED,
    },
    "deepseek_v3, whole queries": {
        "model_type": "deepseek_v3",
        "q_lora_rank": None,
        "first_k_dense_replace": 0,
        **LATENT,
        **ROUTED,
    },
    "gemma4": {"model_type": "gemma4_text", **GEMMA},
    "gemma4, keys are values": {"model_type": "gemma4_text", "attention_k_eq_v": True, **GEMMA},
    "gemma4, keys of others": {
        "model_type": "gemma4_text",
        "num_kv_shared_layers": 3,
        "use_double_wide_mlp": True,
        **GEMMA,
    },
    "gemma4, experts": {
        "model_type": "gemma4_text",
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 12,
        **GEMMA,
        "hidden_size_per_layer_input": 0,
    },
    "nemotron_h": {
        "model_type": "nemotron_h",
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention", "moe"],
        "head_dim": HEAD,
        "ssm_state_size": 4,
        "mamba_num_heads": 4,
        "mamba_head_dim": 6,
        "n_groups": 2,
        "chunk_size": 16,
        "moe_shared_expert_intermediate_size": 24,
        **ROUTED,
    },
    "nemotron_h, latent experts": {
        "model_type": "nemotron_h",
        "layers_block_type": ["moe", "full_attention"],
        "head_dim": HEAD,
        "moe_latent_size": 12,
        "moe_shared_expert_intermediate_size": 24,
        **ROUTED,
    },
}
"""Settings of text configs, beside the usual ones."""
MANY_AXES = ("qwen3_vl_moe_text",)
OWN_ROTARY = ("gemma4_text", "nemotron_h")
"""They have settings of their own for rotary positions, or none."""


def variant(settings: dict[str, Any]) -> Any:
    """A tiny text config."""
    from transformers import AutoConfig

    merged = text(128, MROPE, **settings) if settings["model_type"] in MANY_AXES else text(128, **settings)
    if settings["model_type"] in OWN_ROTARY:
        del merged["rope_parameters"]
    if "layers_block_type" in settings:
        del merged["num_hidden_layers"]
    return AutoConfig.for_model(**merged)


def counted(model: Any, num_tokens: int) -> Flops:
    """What torch counts when a model reads some text, each expert by itself."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    tokens = torch.randint(1, 100, (1, num_tokens))
    flops = count_flops(model, lambda: model(input_ids=tokens))
    assert flops.total > 0
    return flops


def without_rotary(flops: Flops) -> int:
    """All of it but the angles of rotary positions."""
    return flops.of("", but=[name for name in flops.by_module if name.endswith("rotary_emb")])


def with_every_pair(cost: CostModel, num_tokens: int) -> float:
    """What is predicted if every query met every key, as with eager attention it does."""
    each = cost.per_token_pair + sum(layers.per_token_pair for layers in cost.windows)
    return cost.per_token * num_tokens + each * num_tokens**2


def otherwise(config: Any, num_tokens: int) -> int:
    """What torch counts beyond the prediction in layers that carry a state, and what it does not count there (negative)."""
    kinds = getattr(config, "layer_types", None) or []
    each = {"nemotron_h": mamba_otherwise}.get(config.model_type, delta_otherwise)
    return kinds.count("linear_attention") * each(config, num_tokens) if "linear_attention" in kinds else 0


def delta_otherwise(config: Any, num_tokens: int) -> int:
    """Solving triangular systems is not counted; the padding of the last chunk and of the convolution is."""
    keys, values = int(config.linear_key_head_dim), int(config.linear_value_head_dim)
    heads, kernel = int(config.linear_num_value_heads), int(config.linear_conv_kernel_dim)
    solved = heads * DELTA_CHUNK * (keys + values) * num_tokens
    in_chunks = 4 * DELTA_CHUNK * keys + 2 * DELTA_CHUNK * values + 6 * keys * values
    mixed = 2 * int(config.linear_num_key_heads) * keys + heads * values
    return heads * in_chunks * (-num_tokens % DELTA_CHUNK) + 2 * mixed * kernel * (kernel - 1) - solved


def mamba_otherwise(config: Any, num_tokens: int) -> int:
    """The padding of the last chunk and of the convolution, and every chunk's state brought to every chunk."""
    heads, head, state = int(config.mamba_num_heads), int(config.mamba_head_dim), int(config.ssm_state_size)
    chunk, kernel = int(config.chunk_size), int(config.conv_kernel)
    mixed = heads * head + 2 * int(config.n_groups) * state
    padding = heads * (2 * chunk * (state + head) + 4 * state * head) * (-num_tokens % chunk)
    states = 2 * heads * head * state * (-(-num_tokens // chunk) + 1) ** 2
    return padding + states + 2 * mixed * kernel * (kernel - 1)
