"""Whether a processor's floats are plain arithmetic of 8-bit levels, found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vlmprep.schema.pixels import Arithmetic, Layout, PixelRule

__all__ = ["find_rule", "level_planes", "restored"]

CHANNELS = 3
MAX_LEVEL = 255
TRIED: tuple[Arithmetic, ...] = ("fused", "two_step", "scale", "divide", "as_float")
REPEATS = (1, 2)
"""How often a patch stands in time, in processors known so far."""


def find_rule(whole: Tensor, levels: Tensor, part: Any) -> PixelRule | None:
    """The rule by which `levels` become `whole`, bit for bit.

    Args:
        whole: [N, 3, height, width] or [N, 3 * repeat * patch * patch] float32, as the model wants it.
        levels: The same without rescaling and normalizing.
        part: The image or video processor, whose settings are tried.

    Returns:
        None where no rule fits.
    """
    if whole.dtype != torch.float32 or whole.shape != levels.shape or not is_integral(levels):
        return None
    for shape in shapes(whole, part):
        planes, expected = levels.reshape(shape).to(torch.uint8), whole.reshape(shape)
        if not bool((planes == planes[:, :, :1]).all()):
            continue  # the slices in time differ
        for arithmetic in TRIED:
            rule = rule_of(part, arithmetic, "images" if whole.ndim > 2 else "rows", shape[2])
            if rule is not None and torch.equal(numbers_of(planes, rule), expected):
                return rule
    return None


def level_planes(tensor: Tensor, rule: PixelRule, patch_size: int | None) -> Tensor | None:
    """A field without rescaling and normalizing as a pack stores it: [N, 3, height, width] uint8.

    Args:
        tensor: In the shape that the processor gives it.
        rule: From `find_rule`.
        patch_size: Of rows.

    Returns:
        None where it holds no 8-bit levels.
    """
    if not is_integral(tensor):
        return None
    tensor = tensor.to(torch.uint8)
    if rule.layout == "images":
        return tensor
    assert patch_size is not None, "rows were found by their patch size"
    return tensor.reshape(len(tensor), CHANNELS, rule.repeat, patch_size, patch_size)[:, :, 0]


def restored(planes: Tensor, rule: PixelRule) -> Tensor:
    """What a rule makes of stored levels [N, 3, height, width] uint8: [N, 3, repeat, height, width] float32."""
    numbers = numbers_of(planes.unsqueeze(2), rule)
    return numbers.expand(-1, -1, rule.repeat, -1, -1)


def numbers_of(planes: Tensor, rule: PixelRule) -> Tensor:
    """The arithmetic of a rule on levels [N, 3, repeat, height, width] uint8; see PixelRule."""
    if rule.arithmetic == "as_float":
        return planes.to(torch.float32)
    if rule.arithmetic == "scale":
        return planes.to(torch.float32) * rule.rescale
    if rule.arithmetic == "divide":
        return planes.to(torch.float32) / (1 / rule.rescale)
    mean = torch.tensor(rule.mean, dtype=torch.float32).view(-1, 1, 1, 1)
    std = torch.tensor(rule.std, dtype=torch.float32).view(-1, 1, 1, 1)
    if rule.arithmetic == "fused":
        return (planes.to(torch.float32) - mean * (1.0 / rule.rescale)) / (std * (1.0 / rule.rescale))
    return ((planes.to(torch.float64) * rule.rescale).to(torch.float32) - mean) / std


def rule_of(part: Any, arithmetic: Arithmetic, layout: Layout, repeat: int) -> PixelRule | None:
    """A rule with a processor's own settings; None where it has no settings for it."""
    rescale = float(getattr(part, "rescale_factor", None) or 1 / MAX_LEVEL)
    mean, std = getattr(part, "image_mean", None), getattr(part, "image_std", None)
    if arithmetic not in ("fused", "two_step"):
        return PixelRule(arithmetic=arithmetic, rescale=rescale, layout=layout, repeat=repeat)
    if not isinstance(mean, list | tuple) or not isinstance(std, list | tuple) or not len(mean) == len(std) == CHANNELS:
        return None
    return PixelRule(
        arithmetic=arithmetic,
        rescale=rescale,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        layout=layout,
        repeat=repeat,
    )


def shapes(whole: Tensor, part: Any) -> Iterator[tuple[int, int, int, int, int]]:
    """Ways to see a field as [N, 3, repeat, height, width]."""
    if whole.ndim == 4 and whole.shape[1] == CHANNELS:
        yield (len(whole), CHANNELS, 1, whole.shape[2], whole.shape[3])
    side = getattr(part, "patch_size", None)
    if whole.ndim == 2 and isinstance(side, int):
        for repeat in REPEATS:
            if whole.shape[1] == CHANNELS * repeat * side * side:
                yield (len(whole), CHANNELS, repeat, side, side)


def is_integral(tensor: Tensor) -> bool:
    """Whether a tensor holds nothing but 8-bit levels."""
    if tensor.dtype == torch.uint8:
        return True
    return bool(((tensor == tensor.round()) & (tensor >= 0) & (tensor <= MAX_LEVEL)).all())
