"""What a medium's header says, and what a family makes of it; the bridge between media files and families."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from vlmprep.schema.conversation import MediaKind

__all__ = ["NO_WORK", "AudioSize", "EncoderWork", "ImageSize", "Loader", "MediaCount", "MediaSize", "VideoSize"]

Loader: TypeAlias = Literal["torchvision", "pil"]
"""Which code of transformers turns an image file into pixels; the two honour different orientation tags and formats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSize:
    """What the header alone says about an image, upright."""

    kind: ClassVar[MediaKind] = "image"
    height: int
    """Pixels, after the orientation tag."""
    width: int
    """Pixels, after the orientation tag."""
    num_bytes: int
    """Size of the encoded file."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSize:
    """What a container says about a clip without decoding a frame; or about a clip given as a list of images."""

    kind: ClassVar[MediaKind] = "video"
    num_frames: int
    """Frames that decoding the first video stream gives."""
    frames_per_second: float | None
    """The stream's average rate; None for a list of images, which has none."""
    height: int
    """Pixels of a frame as it is decoded."""
    width: int
    """Pixels of a frame as it is decoded."""
    num_bytes: int
    """Size of the encoded file; of all images of a list."""
    audio: AudioSize | None = None
    """The first audio stream beside the pictures."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.num_frames, self.height, self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSize:
    """What a header says about a sound."""

    kind: ClassVar[MediaKind] = "audio"
    num_samples: int
    """Samples of one channel, at the file's own rate, that decoding gives."""
    sampling_rate: int
    """Samples per second."""
    num_bytes: int
    """Size of the encoded file."""

    @property
    def shape(self) -> tuple[int, int]:
        """(samples, samples per second)."""
        return self.num_samples, self.sampling_rate


MediaSize: TypeAlias = ImageSize | VideoSize | AudioSize


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderWork:
    """How much a model's encoders have to do for one medium, in counts that the model's config turns into operations.

    What a medium is filled up to beside longer ones of its pack is not counted: packs are made from these counts.
    """

    num_pictures: int = 0
    """Tiles, crops, images, frames or groups of frames that the vision encoder takes one by one."""
    num_encoder_patches: int = 0
    """Patches that the vision encoder's layers see, padding included, over all pictures; 0 where all pictures have one size,
    which only the model's config cuts into patches. Class tokens are no patches: the config says what a picture has."""
    num_patch_pairs: int = 0
    """Sum of the squares of the lengths of the sequences that attend to themselves, in layers of full attention."""
    num_window_pairs: int = 0
    """The same in layers whose attention is cut into windows; 0 where an encoder has none."""
    num_sound_features: int = 0
    """Frames of features that enter the convolutions in front of the sound encoder's layers, padding included."""
    num_sound_frames: int = 0
    """Tokens that the sound encoder's layers see."""
    num_sound_pairs: int = 0
    """Sum of the squares of the lengths of the sequences of these that attend to themselves."""

    def __add__(self, other: EncoderWork) -> EncoderWork:
        """The work for both."""
        names = self.__dataclass_fields__
        return EncoderWork(**{name: getattr(self, name) + getattr(other, name) for name in names})


NO_WORK = EncoderWork()


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaCount:
    """What a family makes of one medium, computed from its size and from what stands beside it in the sample."""

    kind: MediaKind
    num_visual_tokens: int
    """Placeholder tokens that the vision encoder fills; 0 for sound."""
    num_patches: int
    """Rows of the pixel field; 0 for sound."""
    stored_bytes: int
    """Bytes of its tensors in a pack, before compression; of the large ones at least."""
    replacement: str
    """What the family's processor puts where the template left one placeholder, every run of placeholders written once."""
    run_lengths: tuple[int, ...]
    """How long these runs are, in order."""
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    """Small media inputs that depend on the size alone, such as `image_grid_thw` [1, 3] int64."""
    num_alike: int = 1
    """Media of this kind in the sample, itself included: some processors cut an image only where it stands alone."""
    num_framing: int = 0
    """Tokens of the replacement typed as the medium's that no encoder fills: what frames it in some families."""
    work: EncoderWork = NO_WORK
    padded_samples: int = 0
    """Samples that some processors pad this medium's sound to before they look at it: those of the sample's longest."""

    @property
    def num_placeholders(self) -> int:
        """Tokens of its runs."""
        return sum(self.run_lengths)
