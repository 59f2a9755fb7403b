"""The images of Qwen processors: how many patches, which patches, and the rule back to `pixel_values`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.image_utils import SizeDict

from vlmprep.families.media.arithmetic import PLAIN, arithmetic_rule, as_levels, is_decoded_rgb, require
from vlmprep.families.media.images import image_loader
from vlmprep.families.media.patches import patches_of
from vlmprep.families.qwen.resize import with_bounds
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.pixels import PixelRule

__all__ = ["ImagePatches"]


class ImagePatches:
    """What a Qwen image processor makes of an image.

    Args:
        image_processor: The model's own.
        settings: What its processor hands it at every call (`images_kwargs`).

    Raises:
        StopRun: A setting is off that counts and pixels rest on.
    """

    def __init__(self, image_processor: Any, settings: Mapping[str, Any]) -> None:
        require(image_processor, "image", "do_resize", "do_rescale", "do_normalize")
        self._images = image_processor
        self._settings = {**with_bounds(image_processor, settings), "temporal_patch_size": 1, **PLAIN}
        self._smart_resize = sys.modules[type(image_processor).__module__].smart_resize
        self._side, self._merge_size = int(image_processor.patch_size), int(image_processor.merge_size)

    def grid(self, height: int, width: int) -> NDArray[np.int64]:
        """`image_grid_thw` [1, 3] of an upright image.

        Raises:
            RefuseSample: The processor does not take an image of this shape.
        """
        size = self._settings["size"]
        try:
            resized = self._smart_resize(
                height,
                width,
                factor=self._side * self._merge_size,
                min_pixels=size["shortest_edge"],
                max_pixels=size["longest_edge"],
            )
        except ValueError as error:
            raise RefuseSample("image-shape", f"a {width} x {height} image: {first_line(error)}") from error
        return np.array([[1, resized[0] // self._side, resized[1] // self._side]], dtype=np.int64)

    def num_bytes(self, grid: NDArray[np.int64]) -> int:
        """Bytes of a grid's patches as they are stored."""
        return int(grid.prod()) * 3 * self._side**2

    def tensors(self, decoded: Any) -> dict[str, NDArray[Any]]:
        """One decoded image as `pixel_values` uint8 [patches, 3, patch, patch] and `image_grid_thw` [1, 3] int64.

        Raises:
            RefuseSample: The processor does not take an image of this shape, or does not find it 8 bits deep.
        """
        alone = is_decoded_rgb(decoded) and decoded.ndim == 3 and self._resizes_alone
        try:
            return self._resized(decoded) if alone else self._processed(decoded)
        except ValueError as error:
            raise RefuseSample("image-shape", f"the image does not fit the processor: {first_line(error)}") from error

    def _processed(self, decoded: Any) -> dict[str, NDArray[Any]]:
        """Through the whole image processor, less its arithmetic; a temporal patch of one leaves out a second copy."""
        made = self._images(images=[decoded], **self._settings)
        levels = as_levels(made["pixel_values"])
        return {
            "pixel_values": levels.reshape(len(levels), -1, self._side, self._side),
            "image_grid_thw": np.asarray(made["image_grid_thw"], dtype=np.int64),
        }

    def _resized(self, decoded: torch.Tensor) -> dict[str, NDArray[Any]]:
        """Through the processor's resize alone, in the memory order that the decoder left: half the time, the same levels."""
        images, side = self._images, self._side
        resized = images.resize(
            decoded[None], SizeDict(**self._settings["size"]), images.resample, side * self._merge_size
        )[0]
        pixels = patches_of(resized.permute(1, 2, 0).numpy(), side, self._merge_size)
        grid = [[1, resized.shape[1] // side, resized.shape[2] // side]]
        return {"pixel_values": pixels, "image_grid_thw": np.array(grid, dtype=np.int64)}

    @functools.cached_property
    def _resizes_alone(self) -> bool:
        """Try the short way against the whole processor, on an image to enlarge and one to shrink."""
        levels = np.random.default_rng(0).integers(0, 256, (61, 203, 3), dtype=np.uint8)
        for image in (levels[:9, :23], levels):
            decoded = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
            short, whole = self._resized(decoded), self._processed(decoded)
            if not all(np.array_equal(short[name], whole[name]) for name in whole):
                return False
        return True

    def rule(self) -> PixelRule:
        """How stored levels become `pixel_values`."""
        return arithmetic_rule(self._images, image_loader(self._images), repeat=int(self._images.temporal_patch_size))
