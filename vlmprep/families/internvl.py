"""InternVL: images as tiles of a grid with a thumbnail behind, clips as frames of one tile each, all in one field."""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import NDArray

from vlmprep.families.arithmetic import arithmetic_rule
from vlmprep.families.base import Expected
from vlmprep.families.tiles import TiledFamily, levels_of, pixel_bytes
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import ImageSize, MediaCount
from vlmprep.schema.pixels import PixelRule

__all__ = ["InternVL"]


class InternVL(TiledFamily):
    """InternVL 2.5, 3 and 3.5 in transformers' own form (the processor's class is InternVLProcessor)."""

    name: ClassVar[str] = "internvl"
    kinds: ClassVar[frozenset[str]] = frozenset({"image"})

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        try:
            tiles = int(self._images.get_number_of_image_patches(size.height, size.width, self._image_options))
        except (ValueError, ZeroDivisionError) as error:
            raise RefuseSample("image-shape", f"a {size.width} x {size.height} image: {error}") from error
        return Expected(
            inputs={},
            num_patches=tiles,
            stored_bytes=pixel_bytes(tiles, self._images.size["height"], self._images.size["width"]),
            hints={"num_patches": [tiles]},
        )

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded image as `pixel_values` uint8 [tiles, 3, side, side].

        Raises:
            RefuseSample: The processor does not take it.
        """
        return {"pixel_values": levels_of(self._processed([decoded])["pixel_values"])}

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become `pixel_values`; its tiles lie behind each other, those of clips too."""
        return {"pixel_values": arithmetic_rule(self._images, self.loader, layout="images")}
