"""Phi-4-multimodal: images as tiles behind an overview of all of them, sounds as mel frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.families.base import BaseFamily, Expected
from vlmprep.families.media.arithmetic import PLAIN, arithmetic_rule, as_levels, require
from vlmprep.families.media.sounds import samples_at
from vlmprep.families.media.work import heard, seen
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import AudioSize, ImageSize, MediaCount
from vlmprep.schema.pixels import PixelRule

__all__ = ["Phi4Multimodal"]

BICUBIC = 3
LEAST_HEIGHT = 10
"""Pixels that an image must keep in a tile; such a strip, which shows one row of a tile, takes the fewest tokens: 290."""
SOUND_PIECE = 500
"""Frames that the sound encoder's layers take at once; a constant of the model's code."""
OVERVIEW_TOKENS = 256 + 1 + 16
"""Of the overview, of what parts it from the tiles, and of its rows' ends; constants of the processor's code."""


class Phi4Multimodal(BaseFamily):
    """Phi-4-multimodal.

    An image is resized into a grid of square tiles, white where its shape does not fill the grid; a mask says which of the
    tiles' patches show it. A pack holds the tiles; the overview, which the processor resizes behind its arithmetic, is made
    of them again when they are read. A sound's frames are those that the processor gives for this sound alone: run with
    others, its matrix product may differ in the last bit.

    Args:
        processor: The model's own processor.
        config: Not needed; it goes into the fingerprint.
        keep_control_text: Let text through that holds the model's control tokens.
    """

    name: ClassVar[str] = "phi4_multimodal"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "audio"})
    position_axes: ClassVar[int] = 1

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, keep_control_text=keep_control_text)
        self.config = config
        self._images, self._sounds = processor.image_processor, processor.audio_processor
        self._check_settings()
        self._side = int(self._images.size["height"])
        self._mask_side = self._side // self._images.patch_size
        self.fake_image_size = (LEAST_HEIGHT, self._side)

    def _check_settings(self) -> None:
        require(self._images, "image", "do_rescale", "do_normalize")
        size = self._images.size
        if size["height"] != size["width"] or int(self._images.resample) != BICUBIC:
            raise StopRun(
                f"the image processor makes tiles of {size} by resampling {self._images.resample}; "
                "the overview can be made again of square ones, resized bicubically",
                "Set size and resample to the published values.",
            )
        if self._sounds.audio_feat_stride != 1:
            raise StopRun(
                f"the audio processor counts every frame {self._sounds.audio_feat_stride} times (audio_feat_stride)",
                "Set it to 1, as published.",
            )

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        height, width = self._grid(size)
        rows, columns = self._shown(size, height, width)
        down, across = (every_second(shown, self._mask_side) for shown in (rows, columns))
        num_tiles = (height // self._side) * (width // self._side)
        return Expected(
            inputs={
                "image_sizes": np.array([[height, width]], dtype=np.int64),
                "image_tiles": np.array([num_tiles + 1], dtype=np.int64),
            },
            hints={"num_img_tokens": [OVERVIEW_TOKENS + down * across + down]},
            num_patches=num_tiles,
            stored_bytes=num_tiles * 3 * self._side**2 + (num_tiles + 1) * self._mask_side**2 * 4,
            work=seen((num_tiles + 1, self._mask_side**2)),
        )

    def _grid(self, size: ImageSize) -> tuple[int, int]:
        """Height and width in pixels of the grid of tiles, by the processor's own code."""
        blank = torch.empty((3, size.height, size.width), dtype=torch.uint8, device="meta")
        try:
            resized, _ = self._images.dynamic_preprocess(
                blank, self._side, self._images.patch_size, self._mask_side, max_num=self._images.dynamic_hd
            )
        except (ValueError, RuntimeError) as error:
            raise RefuseSample("image-shape", f"a {size.width} x {size.height} image: {first_line(error)}") from error
        return int(resized.shape[-2]), int(resized.shape[-1])

    def _shown(self, size: ImageSize, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the mask that show the image: what `dynamic_preprocess` leaves of its padding."""
        across, down = width / size.width, height / size.height
        short = max(0, height - int(size.height * across)) if across < down else 0
        narrow = 0 if across < down else max(0, width - int(size.width * down))
        patch = self._images.patch_size
        return height // patch - short // patch, width // patch - narrow // patch

    def _audio_inputs(self, size: AudioSize, num_alike: int) -> Expected:
        num_samples = samples_at(size, self._sounds.sampling_rate)
        num_frames = self._num_frames(num_samples)
        embeds = self._sounds._compute_audio_embed_size(torch.tensor([num_frames]))  # noqa: SLF001 - its own arithmetic
        return Expected(
            inputs={
                "audio_embed_sizes": np.asarray(embeds.numpy(), dtype=np.int64),
                "audio_frames": np.array([num_frames], dtype=np.int64),
            },
            stored_bytes=num_frames * (self._sounds.feature_size * 4 + 1),
            work=heard(num_frames, -(-num_frames // self._sounds.audio_compression_rate), longest=SOUND_PIECE),
        )

    def _num_frames(self, num_samples: int) -> int:
        if num_samples < self._sounds.win_length:
            raise RefuseSample(
                "audio-length",
                f"a sound of {num_samples} samples is too short for a frame of {self._sounds.win_length}",
            )
        return int((num_samples - self._sounds.win_length) // self._sounds.hop_length + 1)

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """Tiles uint8 [tiles, 3, side, side] and their masks; frames float32 [frames, bins] and theirs; see Family."""
        return self._heard(decoded) if count.kind == "audio" else self._seen(decoded)

    def _seen(self, decoded: Any) -> dict[str, NDArray[Any]]:
        try:
            made = self._images(images=[decoded], return_tensors="pt", **PLAIN)
        except (ValueError, RuntimeError) as error:
            raise RefuseSample("image-shape", f"the image does not fit the processor: {first_line(error)}") from error
        tiles = as_levels(made["image_pixel_values"][0, 1:])
        masks = made["image_attention_mask"][0].numpy()
        return {
            "image_pixel_values": tiles,
            "image_attention_mask": masks,
            "image_sizes": made["image_sizes"].numpy(),
            "image_tiles": np.array([len(masks)], dtype=np.int64),
        }

    def _heard(self, samples: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        self._num_frames(len(samples))
        made = self._sounds([samples], sampling_rate=self._sounds.sampling_rate, return_tensors="pt")
        frames = made["audio_input_features"][0].numpy()
        return {
            "audio_input_features": frames,
            "audio_attention_mask": np.ones(len(frames), dtype=np.bool_),
            "audio_embed_sizes": made["audio_embed_sizes"].numpy(),
            "audio_frames": np.array([len(frames)], dtype=np.int64),
        }

    def pixel_rules(self) -> dict[str, PixelRule]:
        """Tiles become numbers behind their overview; images and sounds are filled up to the longest."""
        tiles: Mapping[str, Any] = {"per_medium": "image_tiles", "drops": ("image_tiles",)}
        frames: Mapping[str, Any] = {"per_medium": "audio_frames", "drops": ("audio_frames",)}
        plain: Mapping[str, Any] = {"arithmetic": "stored", "layout": "stored"}
        return {
            "image_pixel_values": arithmetic_rule(
                self._images, "torchvision", layout="images", overview="image_sizes", **tiles
            ),
            "image_attention_mask": PixelRule(**plain, fill=1, **tiles),
            "audio_input_features": PixelRule(**plain, **frames),
            "audio_attention_mask": PixelRule(**plain, alone=False, **frames),
        }


def every_second(shown: int, mask_side: int) -> int:
    """How many of the first `shown` rows of a mask are left of those that every tile's first, third, ... one makes."""
    return sum(row % mask_side % 2 == 0 for row in range(shown))
