"""Random pictures, clips and sounds for the tiny models, as their processors would hand them over, one medium at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tests.tiny_configs import SIDE

__all__ = ["IMAGE", "SOUND", "VIDEO", "Clip", "Placed", "Sound", "make_clip", "make_image", "make_sound"]

IMAGE, VIDEO, SOUND = 1, 2, 3
"""Token types; 0 is text."""
Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A clip by its grid: temporal patches, rows and columns of patches."""

    frames: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A sound by its feature frames."""

    frames: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """One medium in a sequence."""

    ids: list[int]
    kinds: list[int]
    fields: dict[str, Array]
    """The model's inputs, as a pack stores them."""


def make_image(model: Any, rng: np.random.Generator, rows: int, columns: int, *, alone: bool) -> Placed:
    """An image; families that cut squares make as many of them as fit the grid.

    Args:
        model: A tiny model.
        rng: Of the pixels.
        rows: Of patches; even.
        columns: Of patches; even.
        alone: Whether it is the sample's only image.
    """
    config = model.config
    num_tokens, fields = _IMAGES[config.model_type](model, rng, rows, columns, alone)
    if config.model_type == "phi4_multimodal":
        return Placed(ids=[config.vision_config.image_token_id] * num_tokens, kinds=[IMAGE] * num_tokens, fields=fields)
    return _wrapped(config, config.image_token_id, num_tokens, IMAGE, fields)


def make_clip(model: Any, rng: np.random.Generator, clip: Clip) -> Placed:
    """A clip; where every frame stands by itself in the sequence, a token of text stands between."""
    return _CLIPS[model.config.model_type](model.config, rng, clip)


def make_sound(model: Any, rng: np.random.Generator, frames: int) -> Placed:
    """A sound of so many feature frames."""
    return _SOUNDS[model.config.model_type](model, rng, frames)


def _wrapped(config: Any, token: int, num_tokens: int, kind: int, fields: dict[str, Array]) -> Placed:
    """Start, placeholders, end."""
    start, end = (125, 126) if kind == SOUND else (122, 123)
    start = getattr(config, "vision_start_token_id", start) if kind != SOUND else start
    end = getattr(config, "vision_end_token_id", end) if kind != SOUND else end
    return Placed(ids=[start, *[token] * num_tokens, end], kinds=[0, *[kind] * num_tokens, 0], fields=fields)


def _noise(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def _grid_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    side = model.config.vision_config.patch_size
    fields = {
        "pixel_values": rng.integers(0, 256, (rows * columns, 3, side, side), dtype=np.uint8),
        "image_grid_thw": np.array([[1, rows, columns]], np.int64),
    }
    return rows * columns // 4, fields


def _kimi_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    side = model.config.vision_config.patch_size
    grid = np.array([[1, rows, columns]], np.int64)
    return rows * columns // 4, {"pixel_values": _noise(rng, rows * columns, 3, side, side), "image_grid_thw": grid}


def _gemma_patches(config: Any, rng: np.random.Generator, rows: int, columns: int) -> tuple[Array, Array]:
    """[1, most, values], [1, most, 2]: padded to 64 patches, positions as (x, y)."""
    most, values = 64, 3 * config.vision_config.patch_size**2
    pixels, places = np.zeros((1, most, values), np.float32), np.full((1, most, 2), -1, np.int64)
    pixels[0, : rows * columns] = rng.random((rows * columns, values), dtype=np.float32)
    places[0, : rows * columns, 0] = np.tile(np.arange(columns), rows)
    places[0, : rows * columns, 1] = np.repeat(np.arange(rows), columns)
    return pixels, places


def _gemma_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    pixels, places = _gemma_patches(model.config, rng, rows, columns)
    return rows * columns // 4, {"pixel_values": pixels, "image_position_ids": places}


def _phi_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    """A global view and crops of 4 x 4 patches; the last row of patches is padding."""
    crop = model.config.vision_config.crop_size
    down, across = -(-rows // 4), -(-columns // 4)
    lined = np.zeros((4 * down, 4 * across), np.float32)
    lined[:rows, :columns] = 1
    mask = lined.reshape(down, 4, across, 4).transpose(0, 2, 1, 3).reshape(-1, 4, 4)
    fields = {
        "image_pixel_values": _noise(rng, 1 + down * across, 3, crop, crop),
        "image_attention_mask": np.concatenate([np.ones((1, 4, 4), np.float32), mask]),
        "image_sizes": np.array([[down * crop, across * crop]], np.int64),
        "num_crops": np.array([1 + down * across], np.int64),
    }
    return 2 * 3 + 1 + (rows // 2) * (columns // 2 + 1), fields


def _nemotron_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    values = 3 * model.config.vision_config.patch_size**2
    grid = np.array([[rows, columns]], np.int64)
    return rows * columns // 4, {"pixel_values": _noise(rng, rows * columns, values), "image_grid_hw": grid}


def _llava_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    """The whole image and, where it stands alone, its tiles; tokens as many as the model itself makes of it."""
    size = np.array([[min(rows, 4) * SIDE // 4 + 12, min(columns, 4) * SIDE // 4 + 12]], np.int64)
    tiles = 1 + int(np.prod(-(-size // SIDE))) if alone else 1
    pixels = _noise(rng, tiles, 3, SIDE, SIDE)
    with torch.no_grad():
        features = model.get_image_features(
            torch.from_numpy(pixels)[None], torch.from_numpy(size), batch_num_images=torch.tensor([1 if alone else 2])
        ).pooler_output
    fields = {"pixel_values": pixels, "image_sizes": size, "num_crops": np.array([tiles], np.int64)}
    return len(features[0]), fields


def _tile_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    """Squares of 2 x 2 patches, each a token."""
    tiles = max(1, rows * columns // 8)
    return tiles, {"pixel_values": _noise(rng, tiles, 3, SIDE, SIDE)}


def _masked_tile_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    """The same, the last square padded below."""
    tiles, fields = _tile_image(model, rng, rows, columns, alone)
    mask = np.ones((tiles, SIDE, SIDE), np.int64)
    mask[-1, SIDE // 2 :] = 0
    fields["pixel_values"][-1, :, SIDE // 2 :] = 0
    return tiles, {**fields, "pixel_attention_mask": mask}


def _step_image(model: Any, rng: np.random.Generator, rows: int, columns: int, alone: bool) -> Any:
    """A global view, and where the image is wide, local ones; tokens as many as the model itself makes of it."""
    side, tiles = model.config.vision_config.image_size, max(0, rows * columns // 8 - 1)
    fields = {
        "pixel_values": _noise(rng, 1, 3, side, side),
        "num_local_patches": np.array([tiles], np.int64),
        **({"pixel_values_local": _noise(rng, tiles, 3, side, side)} if tiles else {}),
    }
    with torch.no_grad():
        features = model.get_image_features(**{name: torch.from_numpy(value) for name, value in fields.items()})
    return len(features.pooler_output[0]), fields


_IMAGES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_omni_moe_thinker"), _grid_image),
    "kimi_k25": _kimi_image,
    "gemma4": _gemma_image,
    "phi4_multimodal": _phi_image,
    "nemotron_h_omni": _nemotron_image,
    "llava_onevision": _llava_image,
    "internvl": _tile_image,
    "idefics3": _masked_tile_image,
    "smolvlm": _masked_tile_image,
    "step3p7": _step_image,
}


def _grid_fields(config: Any, rng: np.random.Generator, clip: Clip) -> dict[str, Array]:
    values = 2 * 3 * config.vision_config.patch_size**2
    return {
        "pixel_values_videos": _noise(rng, clip.frames * clip.rows * clip.columns, values),
        "video_grid_thw": np.array([[clip.frames, clip.rows, clip.columns]], np.int64),
    }


def _one_run_clip(config: Any, rng: np.random.Generator, clip: Clip, seconds: str | None = None) -> Placed:
    """All frames in one run of placeholders."""
    fields = _grid_fields(config, rng, clip)
    if seconds is not None:
        fields[seconds] = np.array([0.4], np.float32)
    return _wrapped(config, config.video_token_id, clip.frames * clip.rows * clip.columns // 4, VIDEO, fields)


def _frame_by_frame(config: Any, clip: Clip, fields: dict[str, Array]) -> Placed:
    """Every frame in a run of its own, behind a time stamp."""
    frame = _wrapped(config, config.video_token_id, clip.rows * clip.columns // 4, VIDEO, {})
    ids = [token for number in range(clip.frames) for token in (7 + number, *frame.ids)]
    return Placed(ids=ids, kinds=[0, *frame.kinds] * clip.frames, fields=fields)


def _stamped_clip(config: Any, rng: np.random.Generator, clip: Clip) -> Placed:
    return _frame_by_frame(config, clip, _grid_fields(config, rng, clip))


def _gemma_clip(config: Any, rng: np.random.Generator, clip: Clip) -> Placed:
    frames = [_gemma_patches(config, rng, clip.rows, clip.columns) for _ in range(clip.frames)]
    fields = {
        "pixel_values_videos": np.concatenate([pixels for pixels, _ in frames]),
        "video_position_ids": np.concatenate([places for _, places in frames]),
        "num_frames_per_video": np.array([clip.frames], np.int64),
    }
    return _frame_by_frame(config, clip, fields)


_CLIPS: dict[str, Callable[..., Placed]] = {
    "qwen2_vl": _one_run_clip,
    "qwen2_5_vl": functools.partial(_one_run_clip, seconds="second_per_grid_ts"),
    "qwen3_vl": _stamped_clip,
    "qwen3_5": _stamped_clip,
    "qwen3_omni_moe_thinker": functools.partial(_one_run_clip, seconds="video_second_per_grid"),
    "gemma4": _gemma_clip,
}


def _omni_sound(model: Any, rng: np.random.Generator, frames: int) -> Placed:
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

    config = model.config
    most = 256
    features, mask = np.zeros((1, config.audio_config.num_mel_bins, most), np.float32), np.zeros((1, most), np.int32)
    features[..., :frames], mask[:, :frames] = _noise(rng, config.audio_config.num_mel_bins, frames), 1
    num_tokens = int(_get_feat_extract_output_lengths(torch.tensor(frames), config.audio_config.n_window))
    fields = {"input_features": features, "feature_attention_mask": mask}
    return _wrapped(config, config.audio_token_id, num_tokens, SOUND, fields)


def _frames_sound(
    model: Any, rng: np.random.Generator, frames: int, *, features: str, mask: str, bins: int
) -> dict[str, Array]:
    return {
        features: _noise(rng, frames, bins),
        mask: np.ones(frames, np.bool_),
        "num_sound_frames": np.array([frames], np.int64),
    }


def _gemma_sound(model: Any, rng: np.random.Generator, frames: int) -> Placed:
    fields = _frames_sound(model, rng, frames, features="input_features", mask="input_features_mask", bins=128)
    return _wrapped(model.config, model.config.audio_token_id, -(-frames // 4), SOUND, fields)


def _nemotron_sound(model: Any, rng: np.random.Generator, frames: int) -> Placed:
    bins = model.config.audio_config.num_mel_bins
    fields = _frames_sound(model, rng, frames, features="input_features", mask="input_features_mask", bins=bins)
    num_tokens = int(model.audio_tower._get_subsampling_output_length(torch.tensor([frames + 1]))[0])
    return _wrapped(model.config, model.config.audio_token_id, num_tokens, SOUND, fields)


def _phi_sound(model: Any, rng: np.random.Generator, frames: int) -> Placed:
    audio = model.config.audio_config
    names = {"features": "audio_input_features", "mask": "audio_attention_mask"}
    fields = _frames_sound(model, rng, frames, bins=audio.input_size, **names)
    num_tokens = -(-frames // audio.time_reduction)
    fields["audio_embed_sizes"] = np.array([num_tokens], np.int64)
    return Placed(ids=[audio.audio_token_id] * num_tokens, kinds=[SOUND] * num_tokens, fields=fields)


_SOUNDS: dict[str, Callable[..., Placed]] = {
    "qwen3_omni_moe_thinker": _omni_sound,
    "gemma4": _gemma_sound,
    "nemotron_h_omni": _nemotron_sound,
    "phi4_multimodal": _phi_sound,
}
