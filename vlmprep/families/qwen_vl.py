"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size as patches of a grid, mRoPE positions."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.families.base import BaseFamily, Expected
from vlmprep.families.mrope import MropePositions
from vlmprep.families.patches import patches_of
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import Tokens
from vlmprep.schema.media import ImageSize, MediaCount
from vlmprep.schema.pixels import PixelRule

__all__ = ["Qwen2VL", "Qwen3VL", "Qwen25VL"]


class Qwen2VL(BaseFamily):
    """Qwen2-VL; the later ones differ in sizes, positions and video, which their processors and models know themselves.

    Args:
        processor: The model's own processor.
        config: The model's config, or None for the family's defaults; positions of images need its merge size alone.
        keep_control_text: Let text through that holds the model's control tokens.
    """

    name: ClassVar[str] = "qwen2_vl"
    kinds: ClassVar[frozenset[str]] = frozenset({"image"})
    position_axes: ClassVar[int] = 3

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, keep_control_text=keep_control_text)
        self._images = processor.image_processor
        self._smart_resize = sys.modules[type(self._images).__module__].smart_resize
        model_class, config_class = self._model_classes()
        self.config = config_class() if config is None else config
        self._check_settings()
        self._positions = MropePositions(model_class, self.config)

    def _check_settings(self) -> None:
        """Stop where the processor does not do what counts and pixels rest on, or the config is another model's.

        Raises:
            StopRun: Naming the setting.
        """
        images = self._images
        for setting in ("do_resize", "do_rescale", "do_normalize"):
            if not getattr(images, setting):
                raise StopRun(
                    f"the image processor has {setting} off, so its pixels are not the model's usual ones",
                    f"Set {setting} to true in its preprocessor_config.json.",
                )
        merge_size = getattr(getattr(self.config, "vision_config", None), "spatial_merge_size", None)
        if merge_size != images.merge_size:
            raise StopRun(
                f"the model's config ({self.config.model_type}) merges {merge_size} x {merge_size} patches, "
                f"the processor {images.merge_size} x {images.merge_size}",
                "Give the config that belongs to the processor (--model-config).",
            )

    def _model_classes(self) -> tuple[type, type]:
        from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
        from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

        return Qwen2VLModel, Qwen2VLConfig

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        images = self._images
        try:
            resized = self._smart_resize(
                size.height,
                size.width,
                factor=images.patch_size * images.merge_size,
                min_pixels=images.size["shortest_edge"],
                max_pixels=images.size["longest_edge"],
            )
        except ValueError as error:
            raise RefuseSample("image-shape", f"a {size.width} x {size.height} image: {first_line(error)}") from error
        grid = np.array([[1, resized[0] // images.patch_size, resized[1] // images.patch_size]], dtype=np.int64)
        num_patches = int(grid.prod())
        return Expected(
            inputs={"image_grid_thw": grid},
            num_patches=num_patches,
            stored_bytes=num_patches * 3 * images.patch_size**2,
        )

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded image as `pixel_values` uint8 [patches, 3, patch, patch] and `image_grid_thw` [1, 3] int64.

        Raises:
            RefuseSample: The processor does not take an image of this shape, or does not find it 8 bits deep.
        """
        try:
            return self._resized(decoded) if self._may_resize_alone(decoded) else self._processed(decoded)
        except ValueError as error:
            raise RefuseSample("image-shape", f"the image does not fit the processor: {first_line(error)}") from error

    def _processed(self, decoded: Any) -> dict[str, NDArray[Any]]:
        """Through the whole image processor, less its arithmetic.

        Resizing works on uint8 and comes before rescaling, so leaving out the arithmetic gives the very levels that it
        would work on; a temporal patch of one leaves out the second copy of a still image.
        """
        made = self._images(images=[decoded], do_rescale=False, do_normalize=False, temporal_patch_size=1)
        side = self._images.patch_size
        pixels = np.asarray(made["pixel_values"])
        if pixels.dtype != np.uint8:
            levels = pixels.astype(np.uint8)
            if not np.array_equal(levels, pixels):
                raise RefuseSample("not-eight-bit", "the image's pixels are not 8-bit levels")
            pixels = levels
        return {
            "pixel_values": pixels.reshape(len(pixels), -1, side, side),
            "image_grid_thw": np.asarray(made["image_grid_thw"], dtype=np.int64),
        }

    def _may_resize_alone(self, decoded: Any) -> bool:
        """Whether an image is what torchvision's loader makes, so that nothing of the processor but its resize does work."""
        return (
            isinstance(decoded, torch.Tensor)
            and decoded.dtype == torch.uint8
            and decoded.ndim == 3
            and decoded.shape[0] == 3
            and self._resizes_alone
        )

    def _resized(self, decoded: torch.Tensor) -> dict[str, NDArray[Any]]:
        """Through the processor's resize alone, in the memory order that the decoder left: half the time, the same levels."""
        images = self._images
        side, merge = images.patch_size, images.merge_size
        resized = images.resize(decoded[None], images.size, images.resample, side * merge)[0]
        pixels = patches_of(resized.permute(1, 2, 0).numpy(), side, merge)
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

    def positions(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """The model's own mRoPE: temporal, height and width axes, [3, S].

        Raises:
            RefuseSample: The template puts no token between two images, whom the model then takes for one.
        """
        try:
            return self._positions(tokens, tensors)
        except (ValueError, RuntimeError) as error:
            raise RefuseSample("unplaceable-images", f"the images cannot be placed: {first_line(error)}") from error

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become `pixel_values`."""
        images = self._images
        rule = PixelRule(
            arithmetic="fused" if self.loader == "torchvision" else "two_step",
            rescale=float(images.rescale_factor),
            mean=tuple(map(float, images.image_mean)),
            std=tuple(map(float, images.image_std)),
            repeat=int(images.temporal_patch_size),
        )
        return {"pixel_values": rule}


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: window attention and absolute time in video; its images count and lie as Qwen2-VL's."""

    name: ClassVar[str] = "qwen2_5_vl"

    def _model_classes(self) -> tuple[type, type]:
        from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

        return Qwen2_5_VLModel, Qwen2_5_VLConfig


class Qwen3VL(Qwen2VL):
    """Qwen3-VL: patches of 16 pixels, timestamps in video."""

    name: ClassVar[str] = "qwen3_vl"

    def _model_classes(self) -> tuple[type, type]:
        from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

        return Qwen3VLModel, Qwen3VLConfig
