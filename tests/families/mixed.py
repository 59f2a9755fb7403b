"""Conversations with images, clips and sounds together, against one call of the model's own processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.families.tiled import noise, restored
from tests.families.truth import sample_of
from vlmprep.families.base import BaseFamily
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.schema.conversation import Media, MediaKind
from vlmprep.schema.media import AudioSize, ImageSize, MediaCount, MediaSize, VideoSize

__all__ = ["Clips", "a_clip", "a_sound", "an_image", "check_images", "check_together", "medium", "own_run"]

SEQUENCE_FIELDS = {"input_ids", "attention_mask", "mm_token_type_ids"}
Clips = tuple[NDArray[np.uint8], float]
"""All frames of a clip [T, 3, H, W], and its rate."""


def medium(kind: MediaKind) -> Media:
    """A medium of a kind, whose content does not matter."""
    return Media(kind=kind, content=b"-")


def a_clip(num_frames: int, height: int, width: int, rate: float, seed: int = 0) -> Clips:
    """Noise that moves."""
    rng = np.random.default_rng([num_frames, height, width, seed])
    return rng.integers(0, 256, (num_frames, 3, height, width), dtype=np.uint8), rate


def a_sound(num_samples: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise, loud and soft."""
    rng = np.random.default_rng([num_samples, seed])
    swell = np.abs(np.sin(np.arange(num_samples) / 900))
    return (rng.standard_normal(num_samples) * swell).astype(np.float32)


def own_run(family: BaseFamily, text: str, media: Sequence[Any]) -> dict[str, Any]:
    """One call of the processor with everything that a text names, nothing sampled or decoded beforehand.

    Args:
        family: Holds the processor.
        text: As the chat template writes it.
        media: Images [3, H, W] or PIL, clips and sounds, in the text's order.
    """
    clips = [entry for entry in media if isinstance(entry, tuple)]
    sounds = [entry for entry in media if isinstance(entry, np.ndarray)]
    given: dict[str, Any] = {"images": [entry for entry in media if not isinstance(entry, tuple | np.ndarray)] or None}
    if clips:
        given["videos"] = [torch.from_numpy(frames) for frames, _ in clips]
        given["video_metadata"] = [
            {"total_num_frames": len(frames), "fps": rate, "height": frames.shape[2], "width": frames.shape[3]}
            for frames, rate in clips
        ]
    if sounds:
        given["audio"] = sounds
    return dict(family.processor(text=[text], return_tensors="pt", return_mm_token_type_ids=True, **given))


def check_together(family: BaseFamily, media: Sequence[Any]) -> tuple[list[MediaCount], dict[str, torch.Tensor]]:
    """A conversation with these media in this order: ids, token types and every field of the media, to the bit.

    Returns:
        The counts, and what both made of the media.
    """
    kinds: list[MediaKind] = [kind_of(entry) for entry in media]
    question: list[str | Media] = ["Look:", *(medium(kind) for kind in kinds), "What is this?"]
    sample = sample_of(("user", question), ("assistant", "Noise.\n"))
    counts = family.measure([size_of(entry) for entry in media])
    tokens = family.encode(sample, counts).expand()
    parts = [{"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind} for part in question]
    text = family.processor.apply_chat_template(
        [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "Noise.\n"}]}]
    )
    truth = own_run(family, text, media)
    assert tokens.input_ids.tolist() == truth["input_ids"][0].tolist()
    assert tokens.mm_token_type_ids.tolist() == truth["mm_token_type_ids"][0].tolist()
    tensors = [family.tensors(decoded(family, entry), count) for entry, count in zip(media, counts, strict=True)]
    check_counts(family, tensors, counts)
    found = restored(family, tensors)
    assert found.keys() == truth.keys() - SEQUENCE_FIELDS
    for name, tensor in found.items():
        assert tensor.dtype == truth[name].dtype, name
        assert torch.equal(tensor, truth[name]), name
    return counts, found


def check_images(family: BaseFamily, sizes: Sequence[tuple[int, int]]) -> None:
    """Conversations with one, two and three images of these heights and widths."""
    left, num_images = list(sizes), 1
    assert len(left) >= 3
    while left:
        some, left = left[:num_images], left[num_images:]
        check_together(family, [an_image(family, *size) for size in some])
        num_images = num_images % 3 + 1


def check_counts(family: BaseFamily, tensors: Sequence[dict[str, NDArray[Any]]], counts: Sequence[MediaCount]) -> None:
    """What was counted of every medium is what is stored."""
    large = family.pixel_rules()
    for each, count in zip(tensors, counts, strict=True):
        for name, expected in count.inputs.items():
            assert each[name].dtype == expected.dtype
            assert np.array_equal(each[name], expected), name
        assert sum(array.nbytes for name, array in each.items() if name in large) == count.stored_bytes
        pixels = [array for name, array in each.items() if name.startswith("pixel_values")]
        assert sum(map(len, pixels)) == count.num_patches


def kind_of(entry: Any) -> MediaKind:
    """Which kind of medium stands there."""
    if isinstance(entry, tuple):
        return "video"
    return "audio" if isinstance(entry, np.ndarray) else "image"


def size_of(entry: Any) -> MediaSize:
    """What its header would say."""
    if isinstance(entry, tuple):
        frames, rate = entry
        num_frames, _, height, width = frames.shape
        return VideoSize(num_frames=num_frames, frames_per_second=rate, height=height, width=width, num_bytes=1)
    if isinstance(entry, np.ndarray):
        return AudioSize(num_samples=len(entry), sampling_rate=16_000, num_bytes=1)
    height, width = entry.shape[1:] if isinstance(entry, torch.Tensor) else (entry.height, entry.width)
    return ImageSize(height=height, width=width, num_bytes=1)


def decoded(family: BaseFamily, entry: Any) -> Any:
    """As `family.load` would give it."""
    if not isinstance(entry, tuple):
        return entry
    metadata = clip_metadata(size_of(entry))  # type: ignore[arg-type]
    metadata.frames_indices = sampled_frames(family.processor.video_processor, metadata)
    return Clip(frames=torch.from_numpy(entry[0][metadata.frames_indices]), metadata=metadata)


def an_image(family: BaseFamily, height: int, width: int) -> Any:
    """An image as the family's loader gives it."""
    return noise(family.loader, height, width)
