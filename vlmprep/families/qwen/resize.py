"""The resizing of a Qwen image or video processor by itself: to which size, asked without a pixel, and the pixels."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import torch
from transformers.image_utils import SizeDict

__all__ = ["Resizer", "with_bounds"]

BOUNDS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
"""The older names of a size's bounds."""


class Resizer:
    """A processor's `resize` in two halves.

    These processors choose a size from a picture's height, width and number of frames and hand it to the resizing of the
    class above them. The choice is made here by the very same method, with a class above that only tells what it was
    handed; so every bound and cap that the processor honours is honoured.

    Args:
        part: An image or video processor.
    """

    def __init__(self, part: Any) -> None:
        self._part = part
        self._owner = next(found for found in type(part).__mro__ if "resize" in vars(found))
        above: Any = self._owner.__mro__[1]
        teller = type("Teller", (above,), {"resize": handed_size})
        chooser: type = type("Chooser", (type(part), teller), {})
        self._chooser: Any = object.__new__(chooser)
        self._chooser.__dict__.update(vars(part))

    def size(self, shape: tuple[int, ...], size: Mapping[str, int], **settings: Any) -> tuple[int, int]:
        """The height and width that a batch of images or clips becomes.

        Args:
            shape: [..., height, width], of which the processor reads what it needs.
            size: The bounds.
            settings: Its other settings.

        Raises:
            ValueError: The processor does not take this shape.
        """
        batch: Any = types.SimpleNamespace(shape=torch.Size(shape))
        found: tuple[int, int] = self._chooser.resize(batch, SizeDict(**size), None, **settings)
        return found

    def resize(self, levels: torch.Tensor, height: int, width: int, resample: Any) -> torch.Tensor:
        """Resize images [n, 3, H, W] uint8 to [n, 3, height, width] as the processor does."""
        above: Any = super(self._owner, self._part)
        resized: torch.Tensor = above.resize(levels, size=SizeDict(height=height, width=width), resample=resample)
        return resized


def with_bounds(part: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call with one `size`, into which older names of its bounds went as the processor puts them there.

    Args:
        part: An image or video processor.
        settings: What its processor hands it at every call.
    """
    size = {name: value for name, value in dict(settings.get("size") or part.size).items() if value is not None}
    for old, name in BOUNDS.items():
        if settings.get(old) is not None:
            size[name] = settings[old]
    return {name: value for name, value in settings.items() if name not in BOUNDS} | {"size": size}


def handed_size(_: Any, image: Any, size: Any, **__: Any) -> tuple[int, int]:
    """Stands for the resizing of the class above."""
    return size.height, size.width
