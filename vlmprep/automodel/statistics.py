"""What a list of examples holds, counted at a glance: media exactly, tokens as recorded or else guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vlmprep.automodel.conversations import items_of, kind_of
from vlmprep.automodel.estimates import TOKENS_PER_MEDIUM, guessed_text_tokens, image_tokens, video_tokens

__all__ = ["RECORDED_TOKENS", "STATS", "ExamplesWithStats", "sample_stats"]

STATS = ("n_images", "n_videos", "n_text_only", "n_text_tokens", "n_media_tokens")
MISSING = ("n_missing_text_tokens", "n_missing_mm_inputs_meta")
RECORDED_TOKENS = {"images_meta": "images_tokens", "videos_meta": "videos_tokens"}
"""Where `vlmprep estimate --annotate` puts the exact tokens of each medium, beside the sizes that the reference reads."""
QWEN_IMAGES: dict[str, int] = {
    "patch_size": 14,
    "merge_size": 2,
    "factor": 28,
    "min_pixels": 56 * 56,
    "max_pixels": 14 * 14 * 4 * 1280,
}
QWEN_VIDEOS: dict[str, Any] = {
    **QWEN_IMAGES,
    "fps": 2,
    "min_frames": 4,
    "max_frames": 768,
    "temporal_patch_size": 2,
    "min_pixels": 128 * 28 * 28,
    "max_pixels": 28 * 28 * 768 * 128,
}
"""What sizes are taken for where nobody says which processor it is."""


class ExamplesWithStats(list[dict[str, Any]]):
    """Examples with what was counted of them when they were loaded, in `stats`."""

    __slots__ = ("stats",)

    stats: dict[str, int]


def sample_stats(examples: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count images, videos, examples with neither, and tokens as far as they are known without a processor.

    Args:
        examples: Conversations; `_text_tokens` and `mm_inputs_meta` are read where they are there and are counts.

    Returns:
        n_images, n_videos, n_text_only, n_text_tokens, n_media_tokens, and how many examples lack what was to be read:
        n_missing_text_tokens, n_missing_mm_inputs_meta (of those with media).
    """
    stats = Counter(dict.fromkeys((*STATS, *MISSING), 0))
    for example in examples:
        kinds = [kind_of(item) for message in example.get("conversation", ()) for item in items_of(message)]
        num_images, num_videos = kinds.count("image"), kinds.count("video")
        text, media = _read(int, example.get("_text_tokens")), _read(_recorded, example.get("mm_inputs_meta"))
        stats.update(
            n_images=num_images,
            n_videos=num_videos,
            n_text_only=not num_images + num_videos,
            n_text_tokens=guessed_text_tokens(example) if text is None else text,
            n_media_tokens=TOKENS_PER_MEDIUM * (num_images + num_videos) if media is None else media,
            n_missing_text_tokens=text is None,
            n_missing_mm_inputs_meta=media is None and bool(num_images + num_videos),
        )
    return dict(stats)


def _read(read: Callable[[Any], int], value: Any) -> int | None:
    """What was recorded; None where nothing was, or something else than a count."""
    try:
        return None if value is None else read(value)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _recorded(meta: Mapping[str, Any]) -> int:
    """Tokens of an example's media: counted ones where they were written down, else what Qwen makes of their sizes."""
    total = 0
    for name, count, config in (("images_meta", image_tokens, QWEN_IMAGES), ("videos_meta", video_tokens, QWEN_VIDEOS)):
        sizes: Sequence[Any] = meta.get(name) or ()
        exact: Sequence[Any] = meta.get(RECORDED_TOKENS[name]) or [None] * len(sizes)
        for size, tokens in zip(sizes, exact, strict=False):
            if tokens is not None:
                total += int(tokens)
            elif isinstance(size, Mapping):
                total += int(size.get("n_tokens", TOKENS_PER_MEDIUM))
            elif size is not None:
                total += count(size, config)
    return total
