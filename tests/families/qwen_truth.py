"""Clips and sounds for the Qwen families, and what their processors make of whole conversations with them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from transformers.video_utils import load_video

from vlmprep.schema.conversation import Media, Sample, Text
from vlmprep.schema.media import VideoSize

__all__ = ["a_video_of", "clip_size", "decoded_video", "moving_noise", "run_processor", "template_text", "write_clip"]

SEQUENCES = ("input_ids", "mm_token_type_ids", "attention_mask")


def moving_noise(num_frames: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """[T, H, W, 3]: no frame like another, all levels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_frames, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width])


def write_clip(path: Path, num_frames: int, rate: Fraction | int, height: int, width: int) -> Media:
    """A video file as a sample names it."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=Fraction(rate))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for image in moving_noise(num_frames, height, width):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return Media(kind="video", location=str(path))


def a_video_of(size: VideoSize) -> tuple[torch.Tensor, dict[str, Any]]:
    """A black clip in as little memory as can be, and what PyAV's loader would say of it."""
    frames = torch.zeros((1, 3, 1, 1), dtype=torch.uint8).expand(size.num_frames, 3, size.height, size.width)
    return frames, {
        "total_num_frames": size.num_frames,
        "fps": size.frames_per_second,
        "duration": size.frames_per_second and size.num_frames / size.frames_per_second,
        "height": size.height,
        "width": size.width,
        "frames_indices": list(range(size.num_frames)),
    }


def clip_size(num_frames: int, rate: float | None, height: int, width: int) -> VideoSize:
    """A clip without a sound."""
    return VideoSize(num_frames=num_frames, frames_per_second=rate, height=height, width=width, num_bytes=1)


def decoded_video(medium: Media) -> tuple[NDArray[np.uint8], Any]:
    """All frames [T, H, W, 3] and metadata of a file, by transformers' own PyAV loader."""
    location: Any = medium.location  # a file; annotated without
    frames, metadata = load_video(location, backend="pyav")
    return frames, metadata


def template_text(processor: Any, sample: Sample) -> str:
    """A conversation as its chat template writes it."""
    conversation = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": part.kind}
                for part in message.parts
            ],
        }
        for message in sample.messages
    ]
    text: str = processor.apply_chat_template(conversation, tokenize=False)
    return text


def run_processor(
    processor: Any, sample: Sample, videos: list[tuple[Any, Any]] | None = None, **media: Any
) -> dict[str, NDArray[Any]]:
    """Everything that a processor returns for a conversation, sequences without the batch's axis.

    Args:
        processor: The model's own.
        sample: The conversation.
        videos: Frames and metadata of its clips; lists of image files have no metadata.
        media: Its images and sounds, and further arguments.
    """
    if videos:
        media["videos"] = [frames for frames, _ in videos]
        if metadata := [metadata for _, metadata in videos if metadata is not None]:
            media["video_metadata"] = metadata
    made = processor(text=[template_text(processor, sample)], return_tensors="pt", **media)
    return {name: np.asarray(value[0] if name in SEQUENCES else value) for name, value in made.items()}
