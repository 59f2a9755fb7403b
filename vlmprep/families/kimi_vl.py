"""Kimi-VL, whose processor is code that comes with the model (--trust-remote-code), not a part of transformers.

What is known of it is its interface: an image processor with `patch_size`, `in_token_limit`, `merge_kernel_size` and
`pad_input` that returns `pixel_values` [N, 3, 14, 14] and `image_grid_hws` [images, 2], and an `image_token` that is repeated
once for every merged group of patches. Sizes and arithmetic are tried against that code when a family is made, and every image's
numbers when it is stored: code that does something else stops the run.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmprep.families.base import BaseFamily, Expected
from vlmprep.families.media.work import seen
from vlmprep.families.wording import first_line
from vlmprep.schema.conversation import MediaKind
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import ImageSize, MediaCount
from vlmprep.schema.pixels import PixelRule

__all__ = ["KimiVL"]

MOST_PATCHES_OF_A_SIDE = 512
"""The vision encoder has positions for fewer."""
TRIED = (
    (1, 1),
    (13, 40),
    (28, 28),
    (29, 57),
    (84, 56),
    (300, 411),
    (1_003, 1_207),
    (2_000, 700),
    (20, 7_100),
    (30, 7_300),
)
"""Height and width of images on which the arithmetic of sizes is tried; the last has too many columns."""
RESCALE = 1 / 255


class KimiVL(BaseFamily):
    """Kimi-VL and Kimi-VL-Thinking: images.

    Args:
        processor: The model's own processor.
        config: Not needed.
        keep_control_text: Let text through that holds the model's control tokens.

    Raises:
        StopRun: The processor has another interface, or does something else with sizes.
    """

    name: ClassVar[str] = "kimi_vl"
    kinds: ClassVar[frozenset[str]] = frozenset({"image"})
    position_axes: ClassVar[int] = 1

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        self._images = processor.image_processor
        for setting in ("patch_size", "in_token_limit", "merge_kernel_size", "pad_input", "image_mean", "image_std"):
            if not hasattr(self._images, setting):
                raise StopRun(
                    f"the image processor has no {setting}, which Kimi-VL's has", "Is this Kimi-VL's processor?"
                )
        if getattr(processor, "image_token_id", None) is None:  # the published code names the token alone
            processor.image_token_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        super().__init__(processor, keep_control_text=keep_control_text)
        self.config = config
        self._table = levels_as_numbers(self._images.image_mean, self._images.image_std)
        self._try_sizes()

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches that the processor makes of an image.

        Raises:
            RefuseSample: It takes none of this shape, or the model could not merge its patches.
        """
        side, limit = self._images.patch_size, self._images.in_token_limit
        num_patches = (height // side) * (width // side)
        if num_patches > limit:
            scale = math.sqrt(limit / num_patches)
            height, width = int(height * scale), int(width * scale)
        merged = [side * count for count in self._images.merge_kernel_size]
        if self._images.pad_input:
            height, width = (-(-length // step) * step for length, step in zip((height, width), merged, strict=True))
        rows, columns = height // side, width // side
        if not rows * columns > 0 or max(rows, columns) >= MOST_PATCHES_OF_A_SIDE:
            raise RefuseSample(
                "image-shape", f"{rows} x {columns} patches, of which a side has at most 511 and at least 1"
            )
        if rows * side % merged[0] or columns * side % merged[1]:
            raise RefuseSample("image-shape", f"{rows} x {columns} patches, which do not merge (pad_input is off)")
        return rows, columns

    def _try_sizes(self) -> None:
        """Hold the arithmetic of sizes against the processor's own code.

        Raises:
            StopRun: They differ.
        """
        for height, width in TRIED:
            try:
                expected: tuple[int, ...] | None = self._grid(height, width)
            except RefuseSample:
                if not self._images.pad_input:
                    continue
                expected = None
            try:
                made = self._images(images=[Image.new("RGB", (width, height))], return_tensors="pt")
                found: tuple[int, ...] | None = tuple(np.asarray(made["image_grid_hws"])[0].tolist())
            except ValueError:
                found = None
            if found != expected:
                raise StopRun(
                    f"the processor makes {found} patches of a {width} x {height} image where {expected} were expected",
                    "This processor's code is not the one that vlmprep knows as Kimi-VL's.",
                )

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        rows, columns = self._grid(size.height, size.width)
        return Expected(
            inputs={"image_grid_hws": np.array([[rows, columns]], dtype=np.int64)},
            num_patches=rows * columns,
            stored_bytes=rows * columns * 3 * self._images.patch_size**2,
            work=seen((1, rows * columns)),
        )

    def _replacement(self, kind: MediaKind, expected: Expected) -> str:
        """One placeholder for every merged group of patches; the published code has no hook that would say so."""
        merged: int = math.prod(self._images.merge_kernel_size)
        return str(self.processor.image_token) * (expected.num_patches // merged)

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """`pixel_values` uint8 [patches, 3, 14, 14] and `image_grid_hws` [1, 2] int64.

        Raises:
            RefuseSample: The processor does not take it.
        """
        try:
            made = self._images(images=[decoded], return_tensors="pt")
        except ValueError as error:
            raise RefuseSample("image-shape", f"the image does not fit the processor: {first_line(error)}") from error
        return {
            "pixel_values": self._levels(np.asarray(made["pixel_values"])),
            "image_grid_hws": np.asarray(made["image_grid_hws"], dtype=np.int64),
        }

    def _levels(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The 8-bit levels that the processor's numbers [N, 3, side, side] came from; exact, or the run stops."""
        mean, std = (
            np.asarray(v, dtype=np.float64).reshape(3, 1, 1) for v in (self._images.image_mean, self._images.image_std)
        )
        levels = np.clip(np.rint((values * std + mean) / RESCALE), 0, 255).astype(np.uint8)
        again = np.stack([self._table[channel][levels[:, channel]] for channel in range(3)], axis=1)
        if values.dtype != np.float32 or not np.array_equal(again, values):
            raise StopRun(
                "the processor's numbers are not (level / 255 - mean) / std of 8-bit levels",
                "This processor's code is not the one that vlmprep knows as Kimi-VL's.",
            )
        return levels

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become the processor's numbers."""
        mean, std = (tuple(map(float, values)) for values in (self._images.image_mean, self._images.image_std))
        rule = PixelRule(arithmetic="two_step", rescale=RESCALE, mean=mean, std=std, layout="images")
        return {"pixel_values": rule}


def levels_as_numbers(mean: Any, std: Any) -> NDArray[np.float32]:
    """What `two_step` makes of every level of every channel: [3, 256] float32."""
    levels = (np.arange(256, dtype=np.float64) * RESCALE).astype(np.float32)
    means, stds = np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32)
    return (levels[None] - means[:, None]) / stds[:, None]
