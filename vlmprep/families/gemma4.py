"""Gemma 4: images and frames of any shape within a budget of patches, sound as mel frames; one axis of positions.

Its processor pads every image and frame with zeros to the budget (2,520 and 630 patches), and all sounds to the longest. A
pack holds no padding: `image_grid_hw`, `video_grid_hw` and `num_feature_frames` say what each medium has, and the rules fill up.

    pixel_values        [P, 3, 16, 16] uint8   ->  [images, 2520, 768]
    image_position_ids  [P, 2] int64           ->  [images, 2520, 2], -1 behind
    pixel_values_videos, video_position_ids        likewise by frames, [frames, 630, ...]
    input_features      [F, 128] float32       ->  [sounds, F of the longest, 128]
    input_features_mask [F] bool               ->  [sounds, F of the longest]
"""

from __future__ import annotations

import functools
import sys
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.families.base import BaseFamily, Expected
from vlmprep.families.gemma4_sound import MelFrames
from vlmprep.families.media.arithmetic import PLAIN, arithmetic_rule, as_levels, is_decoded_rgb, require
from vlmprep.families.media.clips import Clip
from vlmprep.families.media.patches import patches_of
from vlmprep.families.media.sounds import samples_at
from vlmprep.families.media.work import halved, heard, seen
from vlmprep.families.stamped import stamped_metadata
from vlmprep.families.text.thinking import require_thinking_tokens, with_thinking_prefix
from vlmprep.families.text.turns import Rendered
from vlmprep.families.wording import first_line
from vlmprep.schema.conversation import Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import AudioSize, ImageSize, MediaCount, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["Gemma4"]

POSITION_BYTES = 16
"""Of one patch: two int64."""
SOUND_HALVINGS = 2
"""Convolutions of stride 2 in front of the sound encoder's layers, by the model's code."""
SMALL_STRIP = 320
"""Pixels of the longest strip that is tried as the smallest image."""


class Gemma4(BaseFamily):
    """Gemma 4, all sizes.

    Args:
        processor: The model's own processor.
        config: Not needed.
        keep_control_text: Let text through that holds the model's control tokens.
        thinking_prefix: Put the empty thinking channel in front of every answer.
    """

    name: ClassVar[str] = "gemma4"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video", "audio"})
    position_axes: ClassVar[int] = 1

    def __init__(
        self, processor: Any, config: Any = None, *, keep_control_text: bool = False, thinking_prefix: bool = False
    ) -> None:
        self._images, self._videos = processor.image_processor, processor.video_processor
        self._thinking_prefix = thinking_prefix
        if thinking_prefix:
            require_thinking_tokens(processor.tokenizer)
        require(self._images, "image", "do_resize", "do_rescale")
        require(self._videos, "video", "do_resize", "do_rescale")
        super().__init__(processor, keep_control_text=keep_control_text)
        self.config = config
        self._sound = MelFrames(processor.feature_extractor)
        self.fake_image_size = self._smallest_image()

    def _rendered(self, sample: Sample) -> Rendered:
        rendered = super()._rendered(sample)
        return with_thinking_prefix(rendered) if self._thinking_prefix else rendered

    def _grid(self, part: Any, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches that the image or video processor makes of a picture.

        Raises:
            RefuseSample: It does not take a picture of this shape.
        """
        resize = sys.modules[type(part).__module__].get_aspect_ratio_preserving_size
        try:
            resized = resize(height, width, part.patch_size, budget(part), part.pooling_kernel_size)
        except ValueError as error:
            raise RefuseSample("image-shape", f"a {width} x {height} picture: {first_line(error)}") from error
        return resized[0] // part.patch_size, resized[1] // part.patch_size

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        rows, columns = self._grid(self._images, size.height, size.width)
        return Expected(
            inputs={"image_grid_hw": np.array([[rows, columns]], dtype=np.int64)},
            num_patches=rows * columns,
            stored_bytes=rows * columns * patch_bytes(self._images),
            work=seen((1, budget(self._images))),
            hints={"num_soft_tokens_per_image": [rows * columns // self._images.pooling_kernel_size**2]},
        )

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        metadata = stamped_metadata(self._videos, size)
        rows, columns = self._grid(self._videos, size.height, size.width)
        num_frames = len(metadata.frames_indices)
        num_patches = num_frames * rows * columns
        return Expected(
            inputs={
                "num_frames_per_video": np.array([num_frames], dtype=np.int64),
                "video_grid_hw": np.tile(np.array([rows, columns], dtype=np.int64), (num_frames, 1)),
            },
            num_patches=num_patches,
            stored_bytes=num_patches * patch_bytes(self._videos),
            work=seen((num_frames, budget(self._videos))),
            hints={
                "num_soft_tokens_per_video": [rows * columns // self._videos.pooling_kernel_size**2],
                "video_metadata": [metadata],
            },
        )

    def _audio_inputs(self, size: AudioSize, num_alike: int) -> Expected:
        if self.processor.audio_token is None:
            raise RefuseSample("unsupported-media", "this model's tokenizer has no token for sound")
        mask = self._sound.mask(samples_at(size, self._sound.sampling_rate))
        return Expected(
            inputs={"num_feature_frames": np.array([len(mask)], dtype=np.int64)},
            stored_bytes=len(mask) * (4 * self._sound.num_bins + 1),
            work=heard(len(mask), halved(len(mask), SOUND_HALVINGS)),
            hints={"input_features_mask": mask[None]},
        )

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded medium in its stored form; see above.

        Raises:
            RefuseSample: The processor does not take it.
        """
        if count.kind == "audio":
            return self._sound.tensors(decoded)
        try:
            return self._video(decoded) if isinstance(decoded, Clip) else self._image(decoded)
        except ValueError as error:
            raise RefuseSample(
                "image-shape", f"the {count.kind} does not fit the processor: {first_line(error)}"
            ) from error

    def _image(self, decoded: Any) -> dict[str, NDArray[Any]]:
        short = is_decoded_rgb(decoded) and self._resizes_alone
        levels, grid = self._resized(self._images, decoded[None]) if short else self._processed_image(decoded)
        return {
            "pixel_values": levels,
            "image_position_ids": positions_of(grid),
            "image_grid_hw": np.array([grid], dtype=np.int64),
        }

    def _video(self, clip: Clip) -> dict[str, NDArray[Any]]:
        num_frames = len(clip.frames)
        short = is_decoded_rgb(clip.frames) and self._resizes_alone
        levels, grid = self._resized(self._videos, clip.frames) if short else self._processed_video(clip.frames)
        return {
            "pixel_values_videos": levels,
            "video_position_ids": np.tile(positions_of(grid), (num_frames, 1)),
            "video_grid_hw": np.tile(np.array(grid, dtype=np.int64), (num_frames, 1)),
            "num_frames_per_video": np.array([num_frames], dtype=np.int64),
        }

    def _resized(self, part: Any, frames: torch.Tensor) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Through the processor's resize alone, in the memory order that the decoder left: the same levels, sooner."""
        side = part.patch_size
        resized = part.aspect_ratio_preserving_resize(
            frames, side, budget(part), part.pooling_kernel_size, part.resample
        )
        tall = resized.permute(0, 2, 3, 1).reshape(-1, resized.shape[3], 3)  # [T * H, W, 3]: frames one below the other
        return patches_of(tall.numpy(), side, 1), (resized.shape[2] // side, resized.shape[3] // side)

    def _processed_image(self, decoded: Any) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Through the whole image processor, less its arithmetic."""
        made = self._images(images=[decoded], **PLAIN)
        return unpadded(made["pixel_values"], made["image_position_ids"], self._images.patch_size)

    def _processed_video(self, frames: torch.Tensor) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Through the whole video processor, less its arithmetic and its choice of frames, which is made."""
        made = self._videos(videos=[frames], do_sample_frames=False, **PLAIN)
        return unpadded(made["pixel_values_videos"], made["video_position_ids"], self._videos.patch_size)

    @functools.cached_property
    def _resizes_alone(self) -> bool:
        """Try the short way against the whole processors, on a picture to enlarge and one to shrink."""
        if self.loader != "torchvision":
            return False
        noise = np.random.default_rng(0).integers(0, 256, (2, 1_100, 1_303, 3), dtype=np.uint8)
        for frames in (noise[:, :97, :203], noise):
            decoded = torch.from_numpy(frames).permute(0, 3, 1, 2)
            tried = [
                (self._resized(self._images, decoded[:1]), self._processed_image(decoded[0])),
                (self._resized(self._videos, decoded), self._processed_video(decoded)),
            ]
            if not all(np.array_equal(short[0], whole[0]) and short[1] == whole[1] for short, whole in tried):
                return False
        return True

    def _smallest_image(self) -> tuple[int, int]:
        """Height and width of the image of fewest tokens: a strip, since a square one is enlarged to the whole budget."""
        sizes = {(1, width): self._tokens_of(1, width) for width in range(1, SMALL_STRIP + 1)}
        return min(sizes, key=lambda size: sizes[size])

    def _tokens_of(self, height: int, width: int) -> int:
        rows, columns = self._grid(self._images, height, width)
        return rows * columns

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels, positions and sounds become the processor's."""
        images: dict[str, Any] = {
            "per_medium": "image_grid_hw",
            "most": budget(self._images),
            "drops": ("image_grid_hw",),
        }
        videos: dict[str, Any] = {
            "per_medium": "video_grid_hw",
            "most": budget(self._videos),
            "drops": ("video_grid_hw",),
        }
        as_stored: dict[str, Any] = {"arithmetic": "stored", "layout": "stored"}
        return {
            "pixel_values": arithmetic_rule(self._images, self.loader, layout="rows_channels_last", **images),
            "image_position_ids": PixelRule(fill=-1, **as_stored, **images),
            "pixel_values_videos": arithmetic_rule(self._videos, "torchvision", layout="rows_channels_last", **videos),
            "video_position_ids": PixelRule(fill=-1, **as_stored, **videos),
            **self._sound.rules(),
        }


def budget(part: Any) -> int:
    """Patches that an image or frame is padded to."""
    return int(part.max_soft_tokens) * int(part.pooling_kernel_size) ** 2


def patch_bytes(part: Any) -> int:
    """Stored bytes of one patch and its position."""
    return 3 * int(part.patch_size) ** 2 + POSITION_BYTES


def positions_of(grid: tuple[int, int]) -> NDArray[np.int64]:
    """(column, row) of every patch, row by row: [rows * columns, 2]."""
    rows, columns = np.indices(grid)
    return np.stack([columns, rows], axis=-1).reshape(-1, 2)


def unpadded(pixels: Any, positions: Any, side: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """A processor's padded rows [T, most, side * side * 3] as patches [P, 3, side, side], and the grid of each of the T.

    Raises:
        StopRun: The positions are not those of a grid.
    """
    places = np.asarray(positions)  # [T, most, 2]
    grid = (int(places[0, :, 1].max()) + 1, int(places[0, :, 0].max()) + 1)
    num_patches = grid[0] * grid[1]
    if not (places[:, :num_patches] == positions_of(grid)).all() or not (places[:, num_patches:] == -1).all():
        raise StopRun(
            "the processor's positions are not those of a grid row by row", "Is this Gemma 4's own processor?"
        )
    rows = as_levels(pixels)[:, :num_patches].reshape(-1, side, side, 3)
    return rows.transpose(0, 3, 1, 2), grid
