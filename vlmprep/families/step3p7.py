"""Step 3.7: one global view of each image, and crops of it by a plan that follows its shape."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmprep.families.base import Expected
from vlmprep.families.media.arithmetic import arithmetic_rule
from vlmprep.families.media.work import seen
from vlmprep.families.tiles import TiledFamily, levels_of, pixel_bytes
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import ImageSize, MediaCount
from vlmprep.schema.pixels import PixelRule

__all__ = ["Step3p7"]


class Step3p7(TiledFamily):
    """Step-3.7-Flash."""

    name: ClassVar[str] = "step3p7"
    kinds: ClassVar[frozenset[str]] = frozenset({"image"})
    needs: ClassVar[tuple[str, ...]] = ("do_rescale", "do_normalize")  # it always resizes

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        side, crop_side = int(self._images.size["height"]), int(self._images.patch_size)
        patch = int(self._images.vision_patch_size)
        columns, rows = self._crops(size, side, crop_side)
        newline_mask = [
            column == columns - 1 and row < rows - 1 for row in range(rows) for column in range(columns)
        ]  # as the image processor makes it
        num_crops = columns * rows
        return Expected(
            inputs={"num_local_patches": np.array([num_crops], dtype=np.int64)},
            num_patches=num_crops + 1,
            stored_bytes=pixel_bytes(1, side, side) + pixel_bytes(num_crops, crop_side, crop_side),
            work=seen((1, (side // patch) ** 2), (num_crops, (crop_side // patch) ** 2)),
            hints={"patch_newline_masks": [newline_mask]},
        )

    def _crops(self, size: ImageSize, side: int, crop_side: int) -> tuple[int, int]:
        """Columns and rows of crops, by the processor's own plan.

        Raises:
            RefuseSample: It has none, or one that leaves an image without height or width.
        """
        what = f"a {size.width} x {size.height} image"
        try:
            plan = self._images._plan_patches(size.width, size.height, side, crop_side)  # noqa: SLF001 - its own plan
        except (ValueError, ZeroDivisionError) as error:
            raise RefuseSample("image-shape", f"{what}: the processor's plan fails: {error}") from error
        whole, cut, _, columns, rows, _ = plan
        if min(*whole, *cut) < 1:
            raise RefuseSample("image-shape", f"{what}: the processor would scale it down to {whole[0]} x {whole[1]}")
        return columns, rows

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded image as levels of its views.

        Returns:
            `pixel_values` uint8 [1, 3, side, side], `num_local_patches` [1] int64, and `pixel_values_local`
            uint8 [crops, 3, crop side, crop side] where there are any.

        Raises:
            RefuseSample: The processor does not take it.
        """
        made = self._processed([decoded])
        tensors: dict[str, NDArray[Any]] = {
            "pixel_values": levels_of(made["pixel_values"]),
            "num_local_patches": np.asarray(made["num_local_patches"], dtype=np.int64),
        }
        if "pixel_values_local" in made:
            tensors["pixel_values_local"] = levels_of(made["pixel_values_local"])
        return tensors

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become the views; those of all images lie behind each other."""
        rule = arithmetic_rule(self._images, self.loader, layout="images")
        return {"pixel_values": rule, "pixel_values_local": rule}
