"""The clips of Qwen processors: how many patches, which patches, and the rule back to `pixel_values_videos`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.families.media.arithmetic import PLAIN, arithmetic_rule, as_levels, is_decoded_rgb, require
from vlmprep.families.media.patches import PatchPlanes
from vlmprep.families.qwen.resize import Resizer, with_bounds
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.pixels import PixelRule

__all__ = ["ClipPatches"]

CHUNK_BYTES = 16 << 20
"""Pixels resized at a time: beside the decoded frames and the finished patches, a clip takes a few times this much memory."""


class ClipPatches:
    """What a Qwen video processor makes of a clip's sampled frames.

    Args:
        video_processor: The model's own.
        settings: What its processor hands it at every call (`videos_kwargs`); they win over its own settings.

    Raises:
        StopRun: A setting is off that counts and pixels rest on.
    """

    def __init__(self, video_processor: Any, settings: Mapping[str, Any]) -> None:
        require(video_processor, "video", "do_resize", "do_rescale", "do_normalize")
        self._videos = video_processor
        taken = video_processor.valid_kwargs.__annotations__
        known = {name: value for name, value in with_bounds(video_processor, settings).items() if name in taken}
        self._settings = {**known, "return_metadata": False, "do_sample_frames": False, **PLAIN}
        self._resizer = Resizer(video_processor)
        self._side, self._merge_size = int(self._setting("patch_size")), int(self._setting("merge_size"))
        self.temporal_patch_size = int(self._setting("temporal_patch_size"))

    def _setting(self, name: str) -> Any:
        return self._settings.get(name, getattr(self._videos, name))

    def grid(self, num_frames: int, height: int, width: int) -> NDArray[np.int64]:
        """`video_grid_thw` [1, 3] of so many sampled frames of this size.

        Raises:
            RefuseSample: The processor does not take such a clip.
        """
        try:
            resized = self._resizer.size(
                (1, num_frames, 3, height, width),
                size=self._setting("size"),
                factor=self._side * self._merge_size,
                temporal_factor=self.temporal_patch_size,
                cap_pixels_per_frame=bool(self._setting("cap_pixels_per_frame")),
            )
        except (ValueError, ArithmeticError) as error:
            reason = f"{num_frames} frames of {width} x {height}: {first_line(error)}"
            raise RefuseSample("clip-shape", reason) from error
        steps = -(-num_frames // self.temporal_patch_size)
        return np.array([[steps, resized[0] // self._side, resized[1] // self._side]], dtype=np.int64)

    def num_bytes(self, grid: NDArray[np.int64]) -> int:
        """Bytes of a grid's patches as they are stored."""
        return int(grid.prod()) * 3 * self.temporal_patch_size * self._side**2

    def tensors(self, frames: torch.Tensor) -> dict[str, NDArray[Any]]:
        """Sampled frames [T, 3, H, W] uint8 as `pixel_values_videos` and `video_grid_thw`.

        Returns:
            `pixel_values_videos` uint8 [patches, 3, temporal_patch_size * patch_size, patch_size], whose rows are those of
            the patch's frames one after the other; the last frame stands again where the frames do not fill a patch.

        Raises:
            RefuseSample: The processor does not take such a clip.
        """
        return self._resized(frames) if is_decoded_rgb(frames) and self._resizes_alone else self._processed(frames)

    def _processed(self, frames: torch.Tensor) -> dict[str, NDArray[Any]]:
        """Through the whole video processor, less its arithmetic and its sampling."""
        try:
            made = self._videos(videos=[frames], **self._settings)
        except ValueError as error:
            raise RefuseSample("clip-shape", f"the clip does not fit the processor: {first_line(error)}") from error
        levels = as_levels(made["pixel_values_videos"])
        return {
            "pixel_values_videos": levels.reshape(len(levels), 3, self.temporal_patch_size * self._side, self._side),
            "video_grid_thw": np.asarray(made["video_grid_thw"], dtype=np.int64),
        }

    def _resized(self, frames: torch.Tensor) -> dict[str, NDArray[Any]]:
        """Through the processor's resize alone, a few frames at a time, each cut into patches at once."""
        num_frames, _, height, width = frames.shape
        grid = self.grid(num_frames, height, width)
        steps, rows, columns = grid[0].tolist()
        planes = PatchPlanes((steps, rows, columns), self._side, self._merge_size, self.temporal_patch_size)
        chunk = max(1, CHUNK_BYTES // (3 * max(height * width, rows * columns * self._side**2)))
        image = np.empty(0, dtype=np.uint8)
        for part in torch.split(frames, chunk):
            resized = self._resizer.resize(part, rows * self._side, columns * self._side, self._setting("resample"))
            for image in resized.permute(0, 2, 3, 1).numpy():
                planes.put(image)
        for _ in range(-num_frames % self.temporal_patch_size):
            planes.put(image)
        return {"pixel_values_videos": planes.patches, "video_grid_thw": grid}

    @functools.cached_property
    def _resizes_alone(self) -> bool:
        """Try the short way against the whole processor, on clips to enlarge and to shrink, of odd and even length."""
        levels = np.random.default_rng(0).integers(0, 256, (5, 61, 203, 3), dtype=np.uint8)
        frames = torch.from_numpy(levels).permute(0, 3, 1, 2)
        for clip in (frames[:4, :, :23, :37], frames, frames.contiguous().repeat(1, 1, 12, 4)):
            short, whole = self._resized(clip), self._processed(clip)
            if not all(np.array_equal(short[name], whole[name]) for name in whole):
                return False
        return True

    def rule(self) -> PixelRule:
        """How stored levels become `pixel_values_videos`."""
        return arithmetic_rule(self._videos, "torchvision")
