"""8-bit levels out of a processor that left its arithmetic out, and the rule that puts the arithmetic back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import Loader
from vlmprep.schema.pixels import PixelRule

__all__ = ["PLAIN", "arithmetic_rule", "as_levels", "is_decoded_rgb", "require"]

PLAIN = {"do_rescale": False, "do_normalize": False}
"""Arguments of an image or video processor that leave its arithmetic out: resizing works on uint8 and comes before."""


def as_levels(pixels: Any) -> NDArray[np.uint8]:
    """Pixels as the 8-bit levels that they are.

    Raises:
        RefuseSample: They are no such levels, as of an image 16 bits deep.
    """
    found = np.asarray(pixels)
    if found.dtype == np.uint8:
        return found
    levels = found.astype(np.uint8)
    if not np.array_equal(levels, found):
        raise RefuseSample("not-eight-bit", "the pixels are not 8-bit levels")
    return levels


def is_decoded_rgb(decoded: Any) -> bool:
    """Whether pixels are what torchvision's loader makes, [3, H, W] or [T, 3, H, W] uint8, so that nothing converts them."""
    return (
        isinstance(decoded, torch.Tensor)
        and decoded.dtype == torch.uint8
        and decoded.ndim in (3, 4)
        and decoded.shape[-3] == 3
    )


def arithmetic_rule(part: Any, loader: Loader, **shape: Any) -> PixelRule:
    """The numbers that an image or video processor makes of levels.

    Args:
        part: The sub-processor; it rescales, and normalizes or not.
        loader: Which backend's arithmetic it has.
        shape: What the rule says beside the numbers.
    """
    rescale = float(part.rescale_factor)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if part.do_normalize:
        mean, std = tuple(map(float, part.image_mean)), tuple(map(float, part.image_std))
    elif loader == "torchvision":
        return PixelRule(arithmetic="scale", rescale=rescale, **shape)
    arithmetic: Any = "fused" if loader == "torchvision" else "two_step"
    return PixelRule(arithmetic=arithmetic, rescale=rescale, mean=mean, std=std, **shape)


def require(part: Any, what: str, *settings: str) -> None:
    """Stop where a sub-processor has a setting off that counts and pixels rest on.

    Raises:
        StopRun: Naming the setting.
    """
    for setting in settings:
        if not getattr(part, setting):
            raise StopRun(
                f"the {what} processor has {setting} off, so its pixels are not the model's usual ones",
                f"Set {setting} to true in the processor's settings.",
            )
