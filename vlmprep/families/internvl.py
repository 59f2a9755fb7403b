"""InternVL: images as tiles of a grid with a thumbnail behind, clips as frames of one tile each, all in one field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray

from vlmprep.families.base import Expected
from vlmprep.families.media.arithmetic import arithmetic_rule, require
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.families.media.work import seen
from vlmprep.families.text.encoding import Collapsed
from vlmprep.families.tiles import TiledFamily, levels_of, pixel_bytes, processed_clip
from vlmprep.schema.conversation import Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import ImageSize, MediaCount, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["InternVL"]


class InternVL(TiledFamily):
    """InternVL 2.5, 3 and 3.5 in transformers' own form (the processor's class is InternVLProcessor)."""

    name: ClassVar[str] = "internvl"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video"})

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, config, keep_control_text=keep_control_text)
        self._videos = processor.video_processor
        require(self._videos, "video", "do_resize", "do_rescale", "do_normalize")
        self._refuse_shapes()
        self._side = int(self._images.size["height"])

    def _refuse_shapes(self) -> None:
        """Tiles and frames are squares, and nothing is cut off them."""
        for part in (self._images, self._videos):
            size = part.size
            if not size["height"] or size["height"] != size["width"] or getattr(part, "do_center_crop", False):
                raise StopRun(
                    f"{type(part).__name__} makes no squares of its images (size {dict(size)}), or cuts out their middle",
                    "Set size to equal height and width, as the published processors have it.",
                )

    def _collapsed(self, sample: Sample, counts: Sequence[MediaCount]) -> Collapsed:
        """As for all families; but images and clips share a field, which holds them in the conversation's order."""
        collapsed = super()._collapsed(sample, counts)
        if [count.kind for count in collapsed.counts] != [medium.kind for medium in sample.media()]:
            raise RefuseSample(
                "reordered-media",
                "the chat template writes images and clips in another order than the conversation has them, and the model "
                "reads both from one field",
            )
        return collapsed

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        try:
            tiles = int(self._images.get_number_of_image_patches(size.height, size.width, self._image_options))
        except (ValueError, ZeroDivisionError) as error:
            raise RefuseSample("image-shape", f"a {size.width} x {size.height} image: {error}") from error
        return Expected(
            inputs={},
            num_patches=tiles,
            stored_bytes=pixel_bytes(tiles, self._side, self._side),
            work=seen((tiles, 0)),
            hints={"num_patches": [tiles]},
        )

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        self._refuse_unlike_clips(self._side, int(self._videos.size["height"]))
        num_frames = len(sampled_frames(self._videos, clip_metadata(size)))
        return Expected(
            inputs={},
            num_patches=num_frames,
            stored_bytes=pixel_bytes(num_frames, self._side, self._side),
            work=seen((num_frames, 0)),
            hints={"pixel_values_videos": torch.empty((1, num_frames), device="meta")},
        )

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded image or clip as `pixel_values` uint8 [tiles or frames, 3, side, side].

        Raises:
            RefuseSample: The processor does not take it.
        """
        if isinstance(decoded, Clip):
            return {"pixel_values": levels_of(processed_clip(self._videos, decoded)["pixel_values_videos"][0])}
        return {"pixel_values": levels_of(self._processed([decoded])["pixel_values"])}

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become `pixel_values`; its tiles lie behind each other, those of clips too."""
        return {"pixel_values": arithmetic_rule(self._images, self.loader, layout="images")}
