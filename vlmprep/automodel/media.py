"""Media of conversations as a processor takes them.

Images go in as the processor's own loader decodes them. Clips are decoded through PyAV, only the frames that the
processor's own sampling asks for, and go in as frames with their metadata. Sounds go in as arrays at the processor's rate.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.image_processing_base import ImageProcessingMixin
from transformers.video_utils import VideoMetadata

from vlmprep.automodel.conversations import Conversation, Medium, media_of
from vlmprep.automodel.given import given_medium, is_encoded
from vlmprep.automodel.templates import is_nemotron_omni, is_smolvlm
from vlmprep.families.media.images import image_loader, load_image
from vlmprep.mediafiles.opening import is_remote
from vlmprep.mediafiles.sounds import resampled
from vlmprep.pipeline.encoded import in_memory
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.media import MediaReader

__all__ = ["BatchMedia", "audio_rate", "image_of", "load_media", "sound_of"]

DEFAULT_RATE = 16_000
"""Samples per second where a processor does not say, as transformers has it."""
PILLOW = ImageProcessingMixin()  # type: ignore[no-untyped-call]
"""Decodes for processors without a loader of their own: upright, in RGB."""
HEADERS = MediaReader()


@dataclass(slots=True, kw_only=True)
class BatchMedia:
    """What the media of a batch are to a processor."""

    images: list[list[Any]] = field(default_factory=list)
    """Of each conversation."""
    videos: list[Any] = field(default_factory=list)
    """Frames [T, 3, H, W] uint8 of all conversations, in order."""
    metadata: list[VideoMetadata] = field(default_factory=list)
    """Of each video."""
    sounds: list[NDArray[np.float32]] = field(default_factory=list)
    """Samples of all conversations, in order; the tracks of videos among them."""
    sound_videos: list[int | None] = field(default_factory=list)
    """Of each sound: the number of the video that it belongs to."""

    def arguments(self, processor: Any) -> dict[str, Any]:
        """Arguments of the processor's call."""
        found: dict[str, Any] = {}
        if any(self.images):
            found["images"] = self.images
        if self.videos:
            found |= {"videos": self.videos, "video_metadata": self.metadata, "do_sample_frames": False}
        if self.videos and is_nemotron_omni(processor):
            found["video_metadata"] = self._only_metadata()
        if self.sounds:
            found |= {"audio": self.sounds, "sampling_rate": audio_rate(processor)}
        return found

    def _only_metadata(self) -> VideoMetadata:
        if len(self.images) > 1 or len(self.videos) > 1:
            raise RefuseSample(
                "several-clips", "Nemotron-Omni's processor takes one conversation with one clip a call; batch it alone"
            )
        return self.metadata[0]


def load_media(
    conversations: Sequence[Conversation], processor: Any, *, use_audio_in_video: bool = False, by_pillow: bool = False
) -> BatchMedia:
    """Load what the conversations name.

    Args:
        conversations: Their media are encoded (`given.given_medium`), PIL images, frames or arrays.
        processor: Whose loader, sampling of frames and rate of sound hold.
        use_audio_in_video: Load the sound of every clip that has one, too.
        by_pillow: Decode images to PIL images, whatever loader the processor has.

    Raises:
        RefuseSample: A medium cannot be read.
    """
    media = BatchMedia()
    loader = PILLOW if by_pillow else getattr(processor, "image_processor", PILLOW)
    for conversation in conversations:
        found = media_of(conversation)
        media.images.append([image_of(medium.value, loader) for medium in found if medium.kind == "image"])
        for medium in found:
            if medium.kind == "video":
                _add_video(media, medium, processor, use_audio_in_video)
            elif medium.kind == "audio":
                media.sounds.append(sound_of(medium.value, audio_rate(processor)))
                media.sound_videos.append(None)
    return media


def audio_rate(processor: Any) -> int:
    """Samples per second that the processor's sounds have."""
    part = getattr(processor, "audio_processor", None) or getattr(processor, "feature_extractor", None)
    return int(getattr(part, "sampling_rate", DEFAULT_RATE))


def sound_of(value: Any, sampling_rate: int) -> NDArray[np.float32]:
    """A sound at a rate.

    Args:
        value: Encoded (`given.given_medium`); samples [n] at that very rate; or samples with their own rate, as
            (samples, rate) or as a mapping with `array` and `sampling_rate`.
        sampling_rate: Samples per second.

    Raises:
        RefuseSample: It is none of these, has several channels, or does not decode.
    """
    if is_encoded(value):
        return _loaded_sound(given_medium("audio", value), sampling_rate)
    samples, rate = _samples_and_rate(value, sampling_rate)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise RefuseSample(
            "audio-shape", f"a sound is {samples.dtype} {list(samples.shape)}; one channel of floats is expected"
        )
    return resampled(samples.astype(np.float32, copy=False), rate, sampling_rate)


def _samples_and_rate(value: Any, sampling_rate: int) -> tuple[NDArray[Any], int]:
    if isinstance(value, Mapping) and value.get("array") is not None:
        return np.asarray(value["array"]), int(value["sampling_rate"])
    if isinstance(value, tuple | list) and len(value) == 2 and np.ndim(value[0]) > 0:
        return np.asarray(value[0]), int(value[1])
    if isinstance(value, np.ndarray | torch.Tensor):
        return np.asarray(value), sampling_rate
    raise RefuseSample("audio-shape", f"a sound is given as {type(value).__name__}, which is no path and no samples")


def image_of(value: Any, loader: Any = PILLOW) -> Any:
    """An image, decoded where it is not.

    Args:
        value: Encoded (`given.given_medium`), or a PIL image or array, which stay as they are.
        loader: The image processor whose loader decodes.

    Raises:
        RefuseSample: It is none of these, cannot be read, or does not decode.
    """
    if isinstance(value, Image.Image | np.ndarray | torch.Tensor):
        return value
    medium = given_medium("image", value)
    if medium.location is not None and is_remote(medium.location):  # fetched once, for header and pixels
        medium = in_memory(medium)
    HEADERS.size(medium, image_loader(loader))
    return load_image(loader, medium)


def _add_video(media: BatchMedia, medium: Medium, processor: Any, use_audio_in_video: bool) -> None:
    value = medium.value
    if is_encoded(value):
        encoded = given_medium("video", value)
        clip = _loaded_clip(processor, encoded)
        frames, metadata = clip.frames, clip.metadata
        if use_audio_in_video and (sound := _track(encoded, audio_rate(processor))) is not None:
            media.sounds.append(sound)
            media.sound_videos.append(len(media.videos))
    else:
        frames = _frames(value, processor)
        metadata = _metadata_of_frames(frames, medium.item)
    media.videos.append(frames)
    media.metadata.append(metadata)


def _track(video: Media, sampling_rate: int) -> NDArray[np.float32] | None:
    """The sound of a clip; None where it is silent."""
    try:
        return _loaded_sound(video, sampling_rate)
    except RefuseSample as refusal:
        if refusal.code == "no-sound":
            return None
        raise


def _frames(value: Any, processor: Any) -> Any:
    """Frames that were sampled already: [T, 3, H, W]."""
    if isinstance(value, torch.Tensor | np.ndarray):
        if value.ndim != 4:
            raise RefuseSample(
                "video-shape", f"a clip is {list(value.shape)}; [frames, channels, height, width] is expected"
            )
        return value
    if isinstance(value, list | tuple) and value and all(map(is_encoded, value)):
        return _loaded_clip(processor, given_medium("video", value)).frames
    if isinstance(value, list | tuple) and value and all(isinstance(frame, Image.Image) for frame in value):
        if len({frame.size for frame in value}) > 1:
            raise RefuseSample("video-shape", "the frames of a clip differ in size")
        stacked = np.stack([np.asarray(frame.convert("RGB")) for frame in value])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)
    raise RefuseSample("video-shape", f"a clip is given as {type(value).__name__}, which is no path and no frames")


def _metadata_of_frames(frames: Any, item: Mapping[str, Any]) -> VideoMetadata:
    """Metadata of frames that were sampled already, at the rate that the item says (`fps`, `sample_fps`), if it does."""
    rate = item.get("sample_fps", item.get("fps"))
    return VideoMetadata(
        total_num_frames=len(frames),
        fps=None if rate is None else float(rate),
        duration=None if rate is None else len(frames) / float(rate),
        frames_indices=list(range(len(frames))),
    )


def _loaded_clip(processor: Any, video: Media) -> Any:
    from vlmprep.families.media.clips import load_clip  # PyAV, only where there are clips

    sampler = processor.video_processor
    if is_smolvlm(processor) and video.frames is None:
        sampler = copy.copy(sampler)
        sampler.do_sample_frames = True
    return load_clip(sampler, video)


def _loaded_sound(medium: Media, sampling_rate: int) -> NDArray[np.float32]:
    from vlmprep.families.media.sounds import load_sound  # libsndfile, only where there are sounds

    return np.asarray(load_sound(medium, sampling_rate))
