"""What families share that cut images into square tiles: plain positions, one run of the image processor per image."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.families.base import BaseFamily
from vlmprep.families.media.arithmetic import PLAIN, arithmetic_rule, as_levels, require
from vlmprep.families.media.clips import Clip
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import RefuseSample, StopRun

__all__ = ["STRIP", "TiledFamily", "levels_of", "pixel_bytes", "processed_clip"]

STRIP = (2, 56)
"""Height and width of the fake image where a thin one makes the fewest tiles."""


class TiledFamily(BaseFamily):
    """A family whose images become tiles of one size.

    Args:
        processor: The model's own processor.
        config: The model's config, or None; it is no part of counts and pixels.
        keep_control_text: Let text through that holds the model's control tokens.

    Raises:
        StopRun: The image processor leaves something out that pixels rest on.
    """

    needs: ClassVar[tuple[str, ...]] = ("do_resize", "do_rescale", "do_normalize")
    position_axes: ClassVar[int] = 1

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, keep_control_text=keep_control_text)
        self.config = config
        self._images = processor.image_processor
        self._image_options = own_options(processor)
        require(self._images, "image", *self.needs)

    def _processed(self, decoded: Any) -> dict[str, Any]:
        """What the image processor makes of images, less its arithmetic, with the options that the processor gives it.

        Args:
            decoded: An image, or images in the nesting that the image processor takes.

        Raises:
            RefuseSample: It does not take an image of this shape.
        """
        try:
            return dict(self._images(decoded, **self._image_options, **PLAIN, return_tensors="pt"))
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            raise RefuseSample("image-shape", f"the image does not fit the processor: {first_line(error)}") from error

    def _refuse_unlike_clips(self, image_side: int, clip_side: int) -> None:
        """Images and clips share the field pixel_values: they must have one size and one rule.

        Args:
            image_side: Pixels of an image's tiles.
            clip_side: Pixels of a clip's frames.

        Raises:
            RefuseSample: They have not.
        """
        if image_side != clip_side:
            raise RefuseSample(
                "unsupported-media",
                f"images and clips share the field pixel_values, but tiles of images are {image_side} pixels wide and "
                f"frames of clips {clip_side}: set both processors to one size",
            )
        if arithmetic_rule(self.processor.video_processor, "torchvision") != arithmetic_rule(self._images, self.loader):
            raise RefuseSample(
                "unsupported-media",
                "images and clips share the field pixel_values, but their processors compute it differently: use the image "
                "backend torchvision, and one mean and deviation for both",
            )


def own_options(processor: Any) -> dict[str, Any]:
    """The options that a processor calls its image processor with.

    Raises:
        StopRun: Its pixels would be others than those that are counted.
    """
    options = dict(processor._merge_kwargs(tokenizer_init_kwargs={})["images_kwargs"])  # noqa: SLF001 - its own defaults
    options.pop("return_tensors", None)
    if strange := options.keys() & {*PLAIN, "size", "crop_size"}:
        raise StopRun(
            f"the processor overrides {', '.join(sorted(strange))} of its image processor",
            "Set them in the image processor's own settings.",
        )
    return options


def processed_clip(video_processor: Any, clip: Clip) -> Any:
    """What the video processor makes of a clip whose frames are sampled, less its arithmetic.

    Raises:
        RefuseSample: It does not take frames of this shape.
    """
    try:
        return video_processor(
            [clip.frames], video_metadata=[clip.metadata], do_sample_frames=False, **PLAIN, return_tensors="pt"
        )
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise RefuseSample("video-shape", f"the clip does not fit the processor: {first_line(error)}") from error


def levels_of(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """Pixels as 8-bit levels; see `as_levels`."""
    return as_levels(tensor.numpy())


def pixel_bytes(num_tiles: int, height: int, width: int) -> int:
    """Bytes of so many stored tiles."""
    return num_tiles * 3 * height * width
