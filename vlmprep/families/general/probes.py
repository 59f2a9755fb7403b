"""Noise to try processors on, and the sequence of a whole conversation held against the processor's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from vlmprep.families.general.own_run import SEQUENCE_FIELDS, UnreadableRun
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.schema.conversation import Media, Message, Part, Sample, Text
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import ImageSize, Loader, VideoSize

__all__ = ["noise_clips", "noise_images", "refuse_other_sequences"]

IMAGE_SIZES = ((61, 203), (320, 240), (200, 30))
"""Heights and widths: of small, large and thin images."""
CLIP_SIZES = ((36, 24.0, 32, 48), (48, 30.0, 60, 40))
"""Frames, frames per second, heights and widths."""


def noise_images(loader: Loader, seed: int) -> list[Any]:
    """Images as a loader gives them, of several sizes."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in IMAGE_SIZES]
    if loader == "pil":
        return [Image.fromarray(image) for image in images]
    return [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]


def noise_clips(video_processor: Any, seed: int, *, sampled: bool = True) -> list[Clip]:
    """Clips of several lengths and sizes.

    Args:
        video_processor: Whose sampling of frames is asked for.
        seed: Of the noise.
        sampled: Leave the frames that the processor samples; else all, for it to sample itself.
    """
    rng = np.random.default_rng(seed)
    clips = []
    for num_frames, rate, height, width in CLIP_SIZES:
        size = VideoSize(num_frames=num_frames, frames_per_second=rate, height=height, width=width, num_bytes=0)
        metadata = clip_metadata(size)
        frames = torch.from_numpy(rng.integers(0, 256, (num_frames, 3, height, width), dtype=np.uint8))
        metadata.frames_indices = sampled_frames(video_processor, metadata) if sampled else list(range(num_frames))
        frames = frames[metadata.frames_indices]
        clips.append(Clip(frames=frames, metadata=metadata))
    return clips


def refuse_other_sequences(family: Any, processor: Any) -> None:
    """Hold a conversation with images, as a family encodes it from their sizes, against the processor's own run.

    Args:
        family: Made so far that it encodes.
        processor: Its processor.

    Raises:
        UnreadableRun: They differ.
    """
    images = noise_images(family.loader, seed=0)
    picture = Media(kind="image", content=b"-")
    parts: tuple[Part, ...] = (*[picture] * len(images), Text(text="What is it?\n\n"))
    sample = Sample(
        source="",
        row=0,
        sample_id="",
        messages=(
            Message(role="user", parts=parts),
            Message(role="assistant", parts=(Text(text="Noise, and\nmore."),)),
            Message(role="user", parts=(Text(text="Sure?"),)),
            Message(role="assistant", parts=(Text(text="Yes."),)),
        ),
    )
    try:
        counts = family.measure([ImageSize(height=h, width=w, num_bytes=0) for h, w in IMAGE_SIZES])
        ours = family.encode(sample, counts).expand()
    except RefuseSample as refusal:
        raise UnreadableRun(f"a conversation with images is refused: {refusal.reason}") from refusal
    own = own_sequence(processor, sample, images)
    if own["input_ids"] != ours.input_ids.tolist():
        raise UnreadableRun("a conversation with images becomes other tokens in its own run")
    types = ours.mm_token_type_ids.tolist()
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in own and own[name] != types and any(own[name]):
            raise UnreadableRun(f"its {name} are not the media's places, and a pack has no other")
    if not all(own.get("attention_mask", [1])):
        raise UnreadableRun("it masks tokens of a single sample")


def own_sequence(processor: Any, sample: Sample, images: list[Any]) -> dict[str, list[int]]:
    """The fields of one sequence as the processor itself makes them from a conversation."""
    left = iter(images)
    conversation = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part.text}
                if isinstance(part, Text)
                else {"type": "image", "image": next(left)}
                for part in message.parts
            ],
        }
        for message in sample.messages
    ]
    made = processor.apply_chat_template(
        conversation,
        chat_template=None if processor.chat_template else processor.tokenizer.chat_template,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return {name: made[name][0].tolist() for name in SEQUENCE_FIELDS if name in made}
