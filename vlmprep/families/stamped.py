"""Clips of families that write the time of every picture into the text."""

from __future__ import annotations

from typing import Any

from vlmprep.families.media.clips import clip_metadata, sampled_frames
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import VideoSize

__all__ = ["stamped_metadata"]


def stamped_metadata(video_processor: Any, size: VideoSize) -> Any:
    """What the processor's loader would say of a clip, with the frames that the processor would take.

    Args:
        video_processor: Whose `sample_frames` chooses.
        size: What the container says.

    Returns:
        transformers' VideoMetadata with `frames_indices`.

    Raises:
        RefuseSample: The clip has no rate, so its pictures have no times; or the processor does not sample one of its length.
    """
    if size.frames_per_second is None:
        raise RefuseSample(
            "no-frame-rate",
            "the model reads the time of every picture, and a list of images has none: the processor would take it for "
            "24 pictures per second; give the clip as a video file",
        )
    metadata = clip_metadata(size)
    metadata.frames_indices = sampled_frames(video_processor, metadata)
    return metadata
