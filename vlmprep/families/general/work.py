"""What a vision encoder has to do for media that are packed the general way, as far as their pixels tell."""

from __future__ import annotations

from torch import Tensor

from vlmprep.families.general.trial import Field
from vlmprep.families.media.work import seen
from vlmprep.schema.media import NO_WORK, EncoderWork

__all__ = ["picture_work"]

PICTURES_AXES = 4


def picture_work(pixels: Tensor | None, field: Field | None) -> EncoderWork:
    """So many pictures of one size, where a pixel field is [pictures, channels, height, width].

    How many patches a model makes of one stands in its config. Of other fields it is not known what the model makes of their
    items; no cost model is given for models that have such.

    Args:
        pixels: Of one medium, as they join.
        field: What was found about them when the processor was tried; all of them have the size of those.
    """
    if pixels is None or field is None or pixels.ndim != PICTURES_AXES or field.join.way == "canvas":
        return NO_WORK
    return seen((len(pixels), 0))
