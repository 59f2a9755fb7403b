"""From a clip to the frames that a processor samples, as transformers' PyAV loader would decode them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.families.media.images import load_image
from vlmprep.families.wording import first_line
from vlmprep.mediafiles.containers import opened_container
from vlmprep.mediafiles.opening import open_medium
from vlmprep.mediafiles.remembered import recall
from vlmprep.mediafiles.videos import UNLIMITED, Turn, picture_stream, rgb, turn_of, video_size
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import VideoSize

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

__all__ = ["Clip", "clip_metadata", "load_clip", "refuse_large_clip", "sampled_frames"]

LARGEST_DENOMINATOR = 1 << 22
"""Of a frame rate; above, several ratios round to one float."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """The frames of a clip that the model sees."""

    frames: torch.Tensor  # [T, 3, H, W] uint8, upright
    metadata: VideoMetadata
    """Of the whole clip, with `frames_indices` of those sampled."""


def clip_metadata(size: VideoSize) -> VideoMetadata:
    """What transformers' PyAV loader says about a clip; about a list of images, what the video processor says itself."""
    from transformers.video_utils import VideoMetadata

    rate = size.frames_per_second
    return VideoMetadata(
        total_num_frames=size.num_frames,
        fps=rate,
        duration=None if rate is None else float(size.num_frames / exact_rate(rate)),
        video_backend=None if rate is None else "pyav",
        height=size.height,
        width=size.width,
    )


def exact_rate(rate: float) -> Fraction:
    """The ratio that a container gave for its frame rate: 24000/1001 for 23.976023976023978."""
    simple = Fraction(rate).limit_denominator(LARGEST_DENOMINATOR)
    return simple if float(simple) == rate else Fraction(rate)


def sampled_frames(video_processor: Any, metadata: VideoMetadata) -> list[int]:
    """Which frames of a clip the processor takes, in its own words.

    Args:
        video_processor: The model's own.
        metadata: From `clip_metadata`; a list of images (no fps) is taken whole, as processors take no other.

    Returns:
        Frame numbers from 0; one may stand twice, as in the processor's result.

    Raises:
        RefuseSample: The processor does not sample a clip of this length, or names a frame that is not there.
    """
    if not video_processor.do_sample_frames or metadata.fps is None:
        return list(range(metadata.total_num_frames))
    wanted = {name: getattr(video_processor, name, None) for name in video_processor.valid_kwargs.__annotations__}
    for name in ("input_data_format", "do_convert_rgb", "do_sample_frames", "device", "video_metadata"):
        wanted.pop(name, None)
    try:
        indices = [int(index) for index in video_processor.sample_frames(metadata=metadata, **wanted)]
    except (ValueError, RuntimeError, TypeError, ArithmeticError, LookupError) as error:
        raise RefuseSample(
            "unsampled-clip",
            f"a clip of {metadata.total_num_frames} frames at {metadata.fps:g} a second: {first_line(error)}",
        ) from error
    if not indices or min(indices) < 0 or max(indices) >= metadata.total_num_frames:
        raise RefuseSample(
            "unsampled-clip",
            f"a clip of {metadata.total_num_frames} frames at {metadata.fps:g} a second: "
            f"the processor asks for frame {max(indices, default=None)}",
        )
    return indices


def refuse_large_clip(video_processor: Any, size: VideoSize, max_clip_bytes: int) -> None:
    """Hold a clip's sampled frames against the memory that they may take decoded.

    Raises:
        RefuseSample: They take more, or the processor does not sample a clip of this length.
    """
    num_frames = len(sampled_frames(video_processor, clip_metadata(size)))
    num_bytes = num_frames * size.height * size.width * 3
    if num_bytes > max_clip_bytes:
        raise RefuseSample(
            "clip-too-large",
            f"{num_frames} sampled frames of {size.width} x {size.height} take {num_bytes} bytes decoded, "
            f"above --max-clip-bytes {max_clip_bytes}",
        )


def load_clip(video_processor: Any, medium: Media) -> Clip:
    """Decode the frames of a clip that a processor samples, and no frame behind the last of them.

    Args:
        video_processor: The model's own.
        medium: The clip; its header was read and accepted before.

    Raises:
        RefuseSample: It does not decode, or not to what its header says.
    """
    if medium.frames is not None:
        return clip_of_images(video_processor, medium.frames)
    try:
        with open_medium(medium) as file:
            return decoded_clip(video_processor, file, medium.where)
    except (RefuseSample, StopRun):
        raise
    except Exception as error:  # each file system behind a URL has errors of its own
        raise RefuseSample("unreadable-media", f"{medium.where} cannot be read: {first_line(error)}") from error


def decoded_clip(video_processor: Any, file: IO[bytes], name: str) -> Clip:
    """Read a file's header, sample, and decode."""
    size = recall(file) or whole_size(file, name)
    metadata = clip_metadata(size)
    indices = sampled_frames(video_processor, metadata)
    frames = np.empty((len(indices), 3, size.height, size.width), dtype=np.uint8)
    decode_frames(file, name, size, indices, frames)
    metadata.frames_indices = indices
    return Clip(frames=torch.from_numpy(frames), metadata=metadata)


def whole_size(file: IO[bytes], name: str) -> VideoSize:
    """What decoding a file gives, where nobody has found out yet."""
    num_bytes = file.seek(0, os.SEEK_END)
    with opened_container(file, name) as container:
        return video_size(container, num_bytes, name, UNLIMITED)


def decode_frames(file: IO[bytes], name: str, size: VideoSize, indices: Sequence[int], out: NDArray[np.uint8]) -> None:
    """Decode some frames of a file.

    Args:
        file: The encoded clip.
        name: What a person calls it.
        size: What its header says.
        indices: Frame numbers, in the order in which they are wanted.
        out: [len(indices), 3, H, W] uint8; written in place.

    Raises:
        RefuseSample: A frame is missing, or of another size than the header says.
    """
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(index, []).append(place)
    last = max(places)
    with opened_container(file, name) as container:
        picture_stream(container, name, size.height * size.width)
        turn: Turn | None = None
        for number, frame in enumerate(container.decode(video=0)):
            turn = turn or turn_of(frame, name)
            for place in places.pop(number, ()):
                if turn_of(frame, name) != turn:
                    raise RefuseSample("unread-orientation", f"{name} is turned anew at frame {number}")
                upright = turn.upright(rgb(frame))
                if upright.shape[:2] != (size.height, size.width):
                    raise lying_clip(name, f"frame {number} is {upright.shape[1]} x {upright.shape[0]}", size)
                np.copyto(out[place], upright.transpose(2, 0, 1))
            if number >= last:
                return
    raise lying_clip(name, f"frame {min(places)} is not there", size)


def lying_clip(name: str, found: str, size: VideoSize) -> RefuseSample:
    """The refusal of a clip whose header does not hold."""
    return RefuseSample(
        "lying-header", f"{name}: {found}, its header promised {size.num_frames} of {size.width} x {size.height}"
    )


def clip_of_images(video_processor: Any, images: Sequence[Media]) -> Clip:
    """A clip from a list of images, as the video processor makes one: all of them, without a rate.

    Raises:
        RefuseSample: One does not decode, or they are not all of one size.
    """
    frames = [video_processor.process_image(load_image(video_processor, image)) for image in images]
    shapes = {tuple(frame.shape) for frame in frames}
    if len(shapes) != 1:
        raise RefuseSample("changing-size", f"a clip of {len(images)} images of {len(shapes)} sizes; it needs one size")
    stacked = torch.stack(frames)
    num_frames, _, height, width = stacked.shape
    size = VideoSize(num_frames=num_frames, frames_per_second=None, height=height, width=width, num_bytes=0)
    metadata = clip_metadata(size)
    metadata.frames_indices = list(range(num_frames))
    return Clip(frames=stacked, metadata=metadata)
