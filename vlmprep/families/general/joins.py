"""How a processor's tensors of several media follow from those of each, found by trying.

    rows     one after the other along the first axis: [n0 + n1, ...]
    lead     the same behind an axis of length 1: [1, n0 + n1, ...]
    ragged   one row per medium, behind the items of the shorter ones a filling: [media, most, ...]
    canvas   one picture per medium, below and right of the smaller ones zeros: [media, channels, tallest, widest]

Stored they are always one after the other along the first axis, a canvas in square patches, so that packs can join them; a
PixelRule says how to get back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from vlmprep.schema.pixels import PixelRule

__all__ = ["Join", "counts_field", "counts_of", "find_join", "join_rule", "unjoined"]

FILLINGS = (0, 1)
"""What stands behind the items of a shorter medium: nothing seen, or seen all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """One of these ways."""

    way: Literal["rows", "lead", "ragged", "canvas"]
    fill: int = 0
    """What stands behind the items of a shorter medium, where it is ragged."""
    side: int = 1
    """Pixels of a patch's side, where it is a canvas."""


def find_join(joint: Tensor, singles: Sequence[Tensor], side: int) -> Join | None:
    """How the tensors of single media make the one of all.

    Args:
        joint: What the processor gives for several media at once.
        singles: What it gives for each.
        side: Pixels of a patch's side, that a canvas would be cut into.

    Returns:
        None where they make it in no known way.
    """
    if equal(joint, concatenated(singles, 0)):
        return Join(way="rows")
    if joint.ndim < 2 or any(len(single) != 1 for single in singles):
        return None
    if equal(joint, concatenated(singles, 1)):
        return Join(way="lead")
    for fill in FILLINGS:
        if equal(joint, padded(singles, fill)):
            return Join(way="ragged", fill=fill)
    return Join(way="canvas", side=side) if equal(joint, on_canvas(singles, side)) else None


def unjoined(tensor: Tensor, join: Join) -> Tensor:
    """The stored form of one medium's tensor: [items, ...].

    Raises:
        ValueError: A picture that does not fall into patches.
    """
    if join.way == "rows":
        return tensor
    if join.way != "canvas":
        return tensor[0]
    channels, side = tensor.shape[1], join.side
    ((rows, columns),) = counts_of(tensor, join).tolist()
    if tensor.shape[2:] != (rows * side, columns * side):
        raise ValueError(f"a picture of {tuple(tensor.shape[2:])} pixels does not fall into patches of {side} x {side}")
    patches = tensor[0].reshape(channels, rows, side, columns, side).permute(1, 3, 0, 2, 4)
    return patches.reshape(rows * columns, channels, side, side)


def counts_of(tensor: Tensor, join: Join) -> Tensor:
    """How many items one medium has, where the rule must know: [1], or rows and columns [1, 2] of a canvas."""
    if join.way == "canvas":
        return torch.tensor([[tensor.shape[2] // join.side, tensor.shape[3] // join.side]])
    return torch.tensor([tensor.shape[1]])


def counts_field(field: str, join: Join) -> str | None:
    """Name of the field that holds these counts; None where none is needed."""
    return {"ragged": f"{field}_items", "canvas": f"{field}_patches"}.get(join.way)


def join_rule(rule: PixelRule | None, join: Join, field: str) -> PixelRule | None:
    """The rule of a field, its numbers' rule extended by its join; None where nothing is to be done."""
    if join.way == "rows":
        return rule
    rule = rule or PixelRule(arithmetic="stored", layout="stored")
    counts = counts_field(field, join)
    if counts is None:
        return replace(rule, lead=True)
    layout = "canvas" if join.way == "canvas" else rule.layout
    return replace(rule, layout=layout, per_medium=counts, fill=join.fill, drops=(counts,))


def concatenated(tensors: Sequence[Tensor], axis: int) -> Tensor | None:
    """Tensors one after the other; None where they do not fit."""
    shapes = {(*tensor.shape[:axis], *tensor.shape[axis + 1 :]) for tensor in tensors}
    return torch.cat(list(tensors), dim=axis) if len(shapes) == 1 and tensors[0].ndim > axis else None


def padded(tensors: Sequence[Tensor], fill: int) -> Tensor | None:
    """[1, n, ...] each to [media, most, ...], filled behind; None where they do not fit."""
    if len({tensor.shape[2:] for tensor in tensors}) > 1:
        return None
    most = max(tensor.shape[1] for tensor in tensors)
    made = tensors[0].new_full((len(tensors), most, *tensors[0].shape[2:]), fill)
    for at, tensor in enumerate(tensors):
        made[at, : tensor.shape[1]] = tensor[0]
    return made


def on_canvas(tensors: Sequence[Tensor], side: int) -> Tensor | None:
    """[1, channels, height, width] each to [media, channels, tallest, widest]; None where they do not fit."""
    if any(tensor.ndim != 4 or tensor.shape[2] % side or tensor.shape[3] % side for tensor in tensors):
        return None
    tall, wide = (max(tensor.shape[axis] for tensor in tensors) for axis in (2, 3))
    made = tensors[0].new_zeros((len(tensors), tensors[0].shape[1], tall, wide))
    for at, tensor in enumerate(tensors):
        made[at, :, : tensor.shape[2], : tensor.shape[3]] = tensor[0]
    return made


def equal(joint: Tensor, made: Tensor | None) -> bool:
    """Whether two tensors hold the same values in the same type."""
    return made is not None and joint.dtype == made.dtype and torch.equal(joint, made)
