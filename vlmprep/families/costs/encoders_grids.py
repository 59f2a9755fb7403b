"""The vision encoders of families whose pictures become grids of patches that their processors know the size of."""

from __future__ import annotations

from typing import Any

from vlmprep.families.costs.encoders_vit import embedding, plain_layers, pooling_head, scores, text_width
from vlmprep.families.costs.words import area, linear, number, value

__all__ = ["gemma4_vision", "moonvit", "phi4_vision", "radio", "step3p7_vision"]

KERNEL = 3 * 3


def gemma4_vision(config: Any) -> dict[str, float]:
    """Gemma 4: padded to a budget, and all of it seen; the pooler multiplies weights of [soft tokens, patches] with the patches.

    Its soft tokens before those of padding are dropped are patches / k^2 of one picture, so pooling is work of pairs.
    """
    if (vision := getattr(config, "vision_config", None)) is None:
        return {}
    hidden, depth, head = (number(vision, name) for name in ("hidden_size", "num_hidden_layers", "head_dim"))
    queries, keys = (number(vision, f"num_{what}_heads") * head for what in ("attention", "key_value"))
    feed_forward = 3 * linear(hidden, number(vision, "intermediate_size"))
    layer = 2 * linear(hidden, queries) + 2 * linear(hidden, keys) + feed_forward
    pooled = number(vision, "pooling_kernel_size") ** 2
    pooling = linear(hidden, 1) / pooled if pooled > 1 else 0.0
    return {
        "per_patch": embedding(vision) + depth * layer,
        "per_patch_pair": depth * scores(queries) + pooling,
        "per_visual_token": linear(hidden, text_width(config)),
    }


def moonvit(config: Any) -> dict[str, float]:
    """Kimi-K2.5 and Kimi-VL: an image or a chunk of frames sees itself; merged patches side by side through two matrices."""
    vision = value(config, "vision_config")
    per_patch, per_pair = plain_layers(vision)
    merged = number(vision, "hidden_size") * area(vision, "merge_kernel_size")
    return {
        "per_patch": embedding(vision) + per_patch,
        "per_patch_pair": per_pair,
        "per_visual_token": linear(merged, merged) + linear(merged, text_width(config)),
    }


def phi4_vision(config: Any) -> dict[str, float]:
    """Phi-4-multimodal: SigLIP with its head; all that stands in the text goes through two matrices, separators too."""
    vision, text = value(config, "vision_config"), number(config, "hidden_size")
    per_patch, per_pair = plain_layers(vision)
    head_patch, head_query = pooling_head(vision)
    return {
        "per_picture": head_query,
        "per_patch": embedding(vision) + per_patch + head_patch,
        "per_patch_pair": per_pair,
        "per_visual_token": linear(number(vision, "hidden_size"), text) + linear(text, text),
    }


def step3p7_vision(config: Any) -> dict[str, float]:
    """Step 3.7: behind the layers two convolutions of stride 2, of twice and four times the width, and one matrix."""
    vision = value(config, "vision_config")
    hidden = number(vision, "hidden_size")
    per_patch, per_pair = plain_layers(vision)
    halvings = linear(KERNEL * hidden, 2 * hidden) / 4 + linear(KERNEL * 2 * hidden, 4 * hidden) / 16
    return {
        "per_patch": embedding(vision) + per_patch + halvings,
        "per_patch_pair": per_pair,
        "per_visual_token": linear(4 * hidden, text_width(config)),
    }


def radio(config: Any) -> dict[str, float]:
    """Nemotron-Omni's RADIO: class and register tokens beside the patches of an image or a pair of frames.

    With p such tokens, a picture of n patches has (n + p)^2 = n^2 + 2 p n + p^2 pairs. A clip's patch is that of two frames,
    whose other half of the embedding's matrix is left out: 1 or 2 thousandths of the encoder.
    """
    vision = value(config, "vision_config")
    hidden, depth = number(vision, "hidden_size"), number(vision, "num_hidden_layers")
    width = getattr(vision, "head_dim", None)
    queries = hidden if width is None else number(vision, "num_attention_heads") * int(width)
    layer = 4 * linear(hidden, queries) + _radio_feed_forward(vision, hidden)
    beside = number(vision, "num_cls_tokens") + number(vision, "num_registers")
    per_token, per_pair = depth * layer, depth * scores(queries)
    return {
        "per_picture": beside * per_token + beside**2 * per_pair,
        "per_patch": embedding(vision) + per_token + 2 * beside * per_pair,
        "per_patch_pair": per_pair,
        "per_visual_token": _nemotron_projector(config),
    }


def _radio_feed_forward(vision: Any, hidden: int) -> float:
    """One token through the matrices behind attention."""
    inner = int(hidden * float(value(vision, "mlp_ratio")))
    if getattr(vision, "use_swiglu_ffn", False):
        return 3 * linear(hidden, (int(inner * 2 / 3) + 7) // 8 * 8)  # rounded as the model rounds
    return 2 * linear(hidden, inner)


def _nemotron_projector(config: Any) -> float:
    """Neighbouring patches side by side through two matrices."""
    merged = number(config, "vision_hidden_size") * int(1 / float(value(config, "downsample_ratio"))) ** 2
    inner = number(config, "projector_hidden_size")
    return linear(merged, inner) + linear(inner, text_width(config))
