"""Kimi-K2.5: images and clips of any shape as patches of a grid, padded black; clips in chunks of four frames with their time.

    00:00:02.000<|media_begin|>video<|media_content|><|kimi_k25_video_placeholder|>...<|media_end|>   one chunk

A clip has one row of `video_grid_thw` for each of its chunks, the last of which may be shorter.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.families.base import BaseFamily, Expected
from vlmprep.families.media.arithmetic import PLAIN, arithmetic_rule, as_levels, require
from vlmprep.families.media.clips import Clip
from vlmprep.families.media.work import seen
from vlmprep.families.stamped import stamped_metadata
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import ImageSize, MediaCount, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["KimiK25"]


class KimiK25(BaseFamily):
    """Kimi-K2.5, as transformers carries it.

    Args:
        processor: The model's own processor.
        config: Not needed.
        keep_control_text: Let text through that holds the model's control tokens.
    """

    name: ClassVar[str] = "kimi_k25"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    position_axes: ClassVar[int] = 1

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        self._images, self._videos = processor.image_processor, processor.video_processor
        require(self._images, "image", "do_resize", "do_rescale", "do_normalize")
        require(self._videos, "video", "do_resize", "do_rescale", "do_normalize")
        super().__init__(processor, keep_control_text=keep_control_text)
        self.config = config

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        rows, columns = grid_of(self._images, size.height, size.width)
        return Expected(
            inputs={"image_grid_thw": np.array([[1, rows, columns]], dtype=np.int64)},
            num_patches=rows * columns,
            stored_bytes=rows * columns * 3 * self._images.patch_size**2,
            work=seen((1, rows * columns)),
        )

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        metadata = stamped_metadata(self._videos, size)
        rows, columns = grid_of(self._videos, size.height, size.width)
        num_frames, chunk = len(metadata.frames_indices), int(self._videos.temporal_patch_size)
        frames = [min(chunk, num_frames - start) for start in range(0, num_frames, chunk)]
        return Expected(
            inputs={"video_grid_thw": np.array([[n, rows, columns] for n in frames], dtype=np.int64)},
            num_patches=num_frames * rows * columns,
            stored_bytes=num_frames * rows * columns * 3 * self._videos.patch_size**2,
            work=seen(*((1, n * rows * columns) for n in frames)),  # a chunk's frames see each other
            hints={"num_chunks_per_video": [len(frames)], "video_metadata": [metadata]},
        )

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """`pixel_values` uint8 [patches, 3, 14, 14] and `image_grid_thw` [1, 3] of an image; those of a clip likewise.

        Raises:
            RefuseSample: The processor does not take it.
        """
        try:
            return self._video(decoded.frames) if isinstance(decoded, Clip) else self._image(decoded)
        except ValueError as error:
            raise RefuseSample(
                "image-shape", f"the {count.kind} does not fit the processor: {first_line(error)}"
            ) from error

    def _image(self, decoded: Any) -> dict[str, NDArray[Any]]:
        made = self._images(images=[decoded], **PLAIN)
        return {
            "pixel_values": as_levels(made["pixel_values"]),
            "image_grid_thw": np.asarray(made["image_grid_thw"], dtype=np.int64),
        }

    def _video(self, frames: torch.Tensor) -> dict[str, NDArray[Any]]:
        made = self._videos(videos=[frames], do_sample_frames=False, **PLAIN)
        return {
            "pixel_values_videos": as_levels(made["pixel_values_videos"]),
            "video_grid_thw": np.asarray(made["video_grid_thw"], dtype=np.int64),
        }

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become the processor's numbers."""
        return {
            "pixel_values": arithmetic_rule(self._images, "torchvision", layout="images"),
            "pixel_values_videos": arithmetic_rule(self._videos, "torchvision", layout="images"),
        }


def grid_of(part: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches that the image or video processor makes of a picture, its padding included."""
    _, padded = sys.modules[type(part).__module__].navit_resize(
        height,
        width,
        patch_size=part.patch_size,
        merge_kernel_size=part.merge_size,
        max_patches=part.max_patches,
        max_size_per_side=part.size["max_height"],
    )
    return padded[0] // part.patch_size, padded[1] // part.patch_size
