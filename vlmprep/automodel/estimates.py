"""The reference's guesses of lengths, under their names; vlmprep plans with exact counts and asks none of these.

Text is `_text_tokens` where an example has it, else a third of its characters. Media are what Qwen's arithmetic makes of their
sizes where `mm_inputs_meta` has them, else 500 tokens each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as resized_image
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as resized_clip

from vlmprep.automodel.conversations import items_of, kind_of

__all__ = ["TOKENS_PER_MEDIUM", "guessed_text_tokens", "image_tokens", "sample_length", "video_tokens"]

CHARACTERS_PER_TOKEN = 3
TOKENS_PER_MEDIUM = 500


def image_tokens(img_meta: Sequence[float], image_cfg: Mapping[str, int]) -> int:
    """Tokens of an image by Qwen's arithmetic.

    Args:
        img_meta: [height, width] in pixels.
        image_cfg: factor, min_pixels, max_pixels, patch_size, merge_size, as `_extract_image_config` gives them.
    """
    height, width = resized_image(
        int(img_meta[0]),
        int(img_meta[1]),
        factor=image_cfg["factor"],
        min_pixels=image_cfg["min_pixels"],
        max_pixels=image_cfg["max_pixels"],
    )
    return _merged(height, width, image_cfg)


def video_tokens(vid_meta: Sequence[float], video_cfg: Mapping[str, Any]) -> int:
    """Tokens of a clip by Qwen's arithmetic.

    Args:
        vid_meta: [frames, height, width, frames per second, seconds]; frames may be 0 where the other two are known.
        video_cfg: As an image's, with fps, min_frames, max_frames and temporal_patch_size.
    """
    num_frames, height, width = (int(value) for value in vid_meta[:3])
    rate, seconds = float(vid_meta[3]), float(vid_meta[4])
    if num_frames == 0 and rate > 0:
        num_frames = int(seconds * rate)
    wanted = int((num_frames / rate if rate > 0 else seconds) * video_cfg["fps"])
    taken = max(video_cfg["min_frames"], min(num_frames, video_cfg["max_frames"], max(1, wanted)))
    group = video_cfg["temporal_patch_size"]
    groups = -(-taken // group)
    tall, wide = resized_clip(
        groups * group,
        height,
        width,
        temporal_factor=group,
        factor=video_cfg["factor"],
        min_pixels=video_cfg["min_pixels"],
        max_pixels=video_cfg["max_pixels"],
    )
    return int(groups * _merged(tall, wide, video_cfg))


def _merged(height: int, width: int, config: Mapping[str, int]) -> int:
    """Tokens of a resized picture: patches over the squares that are merged."""
    return (height // config["patch_size"]) * (width // config["patch_size"]) // config["merge_size"] ** 2


def guessed_text_tokens(example: Mapping[str, Any]) -> int:
    """A third of the characters of an example's texts."""
    texts = (item.get("text", "") for message in example.get("conversation", ()) for item in items_of(message))
    return sum(len(text) for text in texts if isinstance(text, str)) // CHARACTERS_PER_TOKEN


def sample_length(
    example: Mapping[str, Any],
    image_cfg: Mapping[str, int] | None = None,
    video_cfg: Mapping[str, Any] | None = None,
    return_media_tokens: bool = False,
) -> int | tuple[int, int]:
    """A guess of an example's tokens, without tokenizing it.

    Args:
        example: A conversation, with `_text_tokens` and `mm_inputs_meta` where they were written into its row.
        image_cfg: Of the processor's images; None: not known.
        video_cfg: Of its clips.
        return_media_tokens: Give (all tokens, tokens of media).
    """
    recorded = example.get("mm_inputs_meta")
    if recorded is not None and not (image_cfg is None and video_cfg is None):
        sizes = ((image_cfg, "images_meta", image_tokens), (video_cfg, "videos_meta", video_tokens))
        of_media = sum(
            count(size, config)
            for config, name, count in sizes
            if config is not None
            for size in recorded.get(name) or ()
            if size is not None
        )
    else:
        kinds = [kind_of(item) for message in example.get("conversation", ()) for item in items_of(message)]
        of_media = TOKENS_PER_MEDIUM * (kinds.count("image") + kinds.count("video"))
    recorded_text = example.get("_text_tokens")
    total = (guessed_text_tokens(example) if recorded_text is None else int(recorded_text)) + of_media
    return (total, of_media) if return_media_tokens else total
