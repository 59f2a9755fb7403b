"""The encoders of the Qwen families.

A patch is `temporal_patch_size x patch_size x patch_size` pixels; a frame (two, in one step of a clip) attends to itself;
`spatial_merge_size` squared patches become one visual token.
"""

from __future__ import annotations

from typing import Any

from vlmprep.families.costs.words import area, layer_linear, linear, number, numbers, value

__all__ = ["qwen2_vision", "qwen3_omni_sound", "qwen3_vision", "qwen25_vision"]

DOWNSAMPLINGS = 3
"""Convolutions of stride 2 in front of the sound encoder."""
KERNEL = 3 * 3


def qwen2_vision(config: Any) -> dict[str, float]:
    """Qwen2-VL: every layer sees a whole frame."""
    vision = value(config, "vision_config")
    hidden, depth = number(vision, "embed_dim"), number(vision, "depth")
    inner = int(hidden * value(vision, "mlp_ratio"))
    return {
        "per_patch": depth * layer_linear(hidden, inner, gated=False) + _embedding(vision, hidden),
        "per_patch_pair": depth * _scores(hidden),
        "per_visual_token": _merger(vision, hidden, number(vision, "hidden_size")),
    }


def qwen25_vision(config: Any) -> dict[str, float]:
    """Qwen2.5-VL: the layers of `fullatt_block_indexes` see a whole frame, the others windows of it."""
    vision = value(config, "vision_config")
    hidden, depth = number(vision, "hidden_size"), number(vision, "depth")
    whole = len({index for index in numbers(vision, "fullatt_block_indexes") if 0 <= index < depth})
    inner = number(vision, "intermediate_size")
    return {
        "per_patch": depth * layer_linear(hidden, inner, gated=True) + _embedding(vision, hidden),
        "per_patch_pair": whole * _scores(hidden),
        "per_window_pair": (depth - whole) * _scores(hidden),
        "per_visual_token": _merger(vision, hidden, number(vision, "out_hidden_size")),
    }


def qwen3_vision(config: Any) -> dict[str, float]:
    """Qwen3-VL, Qwen3.5 and Qwen3-Omni: every layer sees a whole frame; mergers between layers too (deepstack)."""
    vision = value(getattr(config, "thinker_config", config), "vision_config")
    hidden, depth = number(vision, "hidden_size"), number(vision, "depth")
    inner = number(vision, "intermediate_size")
    deep = len({index for index in getattr(vision, "deepstack_visual_indexes", ()) if 0 <= index < depth})
    return {
        "per_patch": depth * layer_linear(hidden, inner, gated=False) + _embedding(vision, hidden),
        "per_patch_pair": depth * _scores(hidden),
        "per_visual_token": (1 + deep) * _merger(vision, hidden, number(vision, "out_hidden_size")),
    }


def qwen3_omni_sound(config: Any) -> dict[str, float]:
    """Qwen3-Omni's sound encoder: three convolutions over chunks of `2 n_window` frames, then layers that see windows."""
    sound = value(getattr(config, "thinker_config", config), "audio_config")
    hidden, depth = number(sound, "d_model"), number(sound, "encoder_layers")
    chunk = 2 * number(sound, "n_window")
    inner, output = number(sound, "encoder_ffn_dim"), number(sound, "output_dim")
    return {
        "per_sound_feature": _chunk(sound, chunk, hidden) / chunk,
        "per_sound_frame": depth * layer_linear(hidden, inner, gated=False)
        + linear(hidden, hidden)
        + linear(hidden, output),
        "per_sound_pair": depth * _scores(hidden),
    }


def _chunk(sound: Any, frames: int, hidden: int) -> float:
    """Operations of the convolutions over one chunk and of the matrix behind them, on all that comes out of it.

    Each convolution halves frames and bins, rounded up: 100 x 128 becomes 50 x 64, 25 x 32, 13 x 16.
    """
    bins, channels = number(sound, "num_mel_bins"), number(sound, "downsample_hidden_size")
    total, inputs = 0.0, 1
    for _ in range(DOWNSAMPLINGS):
        frames, bins = (frames + 1) // 2, (bins + 1) // 2
        total += frames * bins * linear(inputs * KERNEL, channels)
        inputs = channels
    return total + frames * linear(channels * bins, hidden)


def _scores(hidden: int) -> float:
    """One query against one key, and its share of one value: all heads together are as wide as the layer."""
    return linear(hidden, 1) * 2


def _embedding(vision: Any, hidden: int) -> float:
    """One patch through the convolution that is as large as the patch."""
    pixels = area(vision, "patch_size") * number(vision, "temporal_patch_size")
    return linear(number(vision, "in_channels") * pixels, hidden)


def _merger(vision: Any, hidden: int, output: int) -> float:
    """The patches of one visual token, side by side through two matrices."""
    merged = hidden * number(vision, "spatial_merge_size") ** 2
    return linear(merged, merged) + linear(merged, output)
