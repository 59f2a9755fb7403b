"""The sound encoders of Gemma 4, Phi-4-multimodal and Nemotron-Omni: convolutions that halve frames, then conformer layers.

A last frame of fewer features than the others, or a last block of fewer frames, counts as far as it is filled. What a sound
costs whatever its length (keys of distances, the borders of convolutions) is left out: less than the work of one frame.
"""

from __future__ import annotations

import math
from typing import Any

from vlmprep.families.costs.encoders_vit import scores, text_width
from vlmprep.families.costs.words import linear, number, numbers, value
from vlmprep.schema.errors import StopRun

__all__ = ["gemma4_sound", "parakeet", "phi4_sound"]

KERNEL = 3 * 3


def gemma4_sound(config: Any) -> dict[str, float]:
    """Gemma 4: blocks of frames that see a fixed stretch around them, so that attention is linear in frames."""
    if (sound := getattr(config, "audio_config", None)) is None:
        return {}
    hidden, depth, output = (number(sound, name) for name in ("hidden_size", "num_hidden_layers", "output_proj_dims"))
    convolution = (
        linear(hidden, 2 * hidden) + linear(number(sound, "conv_kernel_size"), hidden) + linear(hidden, hidden)
    )
    layer = 4 * linear(hidden, hidden) + 4 * linear(hidden, 4 * hidden) + convolution + _block_attention(sound, hidden)
    return {
        "per_sound_feature": _gemma4_stem(sound, hidden),
        "per_sound_frame": depth * layer + linear(hidden, output) + linear(output, text_width(config)),
    }


def _block_attention(sound: Any, hidden: int) -> float:
    """One frame against all keys of its block's stretch, and against the keys of their distances."""
    around = number(sound, "attention_context_left") - 1 + number(sound, "attention_context_right")
    stretch = number(sound, "attention_chunk_size") + around
    return stretch * scores(hidden) + (stretch // 2 + 1) * linear(hidden, 1)


def _gemma4_stem(sound: Any, hidden: int) -> float:
    """One frame of features through two convolutions of stride 2; the model takes as many bins as the first has channels."""
    first, second = numbers(sound, "subsampling_conv_channels")
    bins = first // 4
    halved = 2 * bins * linear(KERNEL, first)
    quartered = bins * linear(KERNEL * first, second) + linear(bins * second, hidden)
    return halved / 2 + quartered / 4


def phi4_sound(config: Any) -> dict[str, float]:
    """Phi-4-multimodal: the projector counts with the features, since frames are filled up to pieces and cut off again."""
    sound, text = value(config, "audio_config"), number(config, "hidden_size")
    hidden, depth, reduction = (number(sound, name) for name in ("hidden_size", "num_blocks", "time_reduction"))
    bins, channels = number(sound, "input_size"), number(sound, "nemo_conv_channels")
    projector = linear(hidden * number(sound, "downsample_rate"), text) + linear(text, text)
    layer = 4 * linear(hidden, hidden) + 6 * linear(hidden, number(sound, "intermediate_size"))
    return {
        "per_sound_feature": separable_stem(bins, channels, reduction, hidden) + projector / reduction,
        "per_sound_frame": depth * (layer + _phi4_convolution(sound, hidden)),
        "per_sound_pair": depth * scores(hidden),
    }


def _phi4_convolution(sound: Any, hidden: int) -> float:
    """One frame through a conformer layer's convolutions."""
    inner = hidden * number(sound, "depthwise_multiplier")
    outer = number(sound, "ext_pw_out_channel")
    return (
        linear(hidden, 2 * outer)
        + linear(number(sound, "kernel_size"), inner)
        + linear(inner, number(sound, "depthwise_separable_out_channel"))
        + linear(hidden, outer)
    )


def parakeet(config: Any) -> dict[str, float]:
    """Nemotron-Omni's Parakeet: beside its keys, a frame of T sees the keys of 2 T - 1 distances, which are made anew."""
    if (sound := getattr(config, "audio_config", None)) is None:
        return {}
    hidden, depth, factor = (number(sound, name) for name in ("hidden_size", "num_hidden_layers", "subsampling_factor"))
    if number(sound, "subsampling_conv_stride") != 2 or number(sound, "subsampling_conv_kernel_size") ** 2 != KERNEL:
        raise StopRun(
            "the sound encoder's first convolutions are not 3 x 3 of stride 2, so its work cannot be predicted",
            "Plan with --balance vt, which needs no config.",
        )
    inner = number(sound, "projection_hidden_size")
    convolution = 3 * linear(hidden, hidden) + linear(number(sound, "conv_kernel_size"), hidden)
    layer = 4 * linear(hidden, hidden) + 4 * linear(hidden, number(sound, "intermediate_size")) + convolution
    distances = 2 * linear(hidden, hidden) - linear(hidden, 1)
    return {
        "per_sound_feature": separable_stem(
            number(sound, "num_mel_bins"), number(sound, "subsampling_conv_channels"), factor, hidden
        ),
        "per_sound_frame": depth * (layer + distances) + linear(hidden, inner) + linear(inner, text_width(config)),
        "per_sound_pair": depth * (scores(hidden) + 2 * linear(hidden, 1)),
    }


def separable_stem(bins: int, channels: int, factor: int, hidden: int) -> float:
    """One frame of features through convolutions of stride 2 and the matrix behind them.

    The first has one channel to read; the others read each channel by itself, with a matrix across channels behind.

    Args:
        bins: Of a frame; halved like the frames, rounded up.
        channels: Of all convolutions.
        factor: Frames of features that become one.
        hidden: Width of the layers.
    """
    total, left = 0.0, 1.0
    for step in range(int(math.log2(factor))):
        bins, left = (bins + 1) // 2, left / 2
        across = linear(channels, channels) if step else 0.0
        total += left * bins * (linear(KERNEL, channels) + across)
    return total + left * linear(bins * channels, hidden)
