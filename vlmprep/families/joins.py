"""How a processor's tensors of several media follow from those of each, found by trying.

    rows     one after the other along the first axis: [n0 + n1, ...]
    lead     the same behind an axis of length 1: [1, n0 + n1, ...]
    ragged   one row per medium, behind the items of the shorter ones a filling: [media, most, ...]

Stored they are always one after the other along the first axis, so packs can join them; a PixelRule says how to get back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vlmprep.schema.pixels import PixelRule

__all__ = ["Join", "find_join", "items_field", "join_rule", "unjoined"]

Join: TypeAlias = Literal["rows", "lead", "ragged"]


FILLINGS = (0, 1)
"""What stands behind the items of a shorter medium: nothing seen, or seen all."""


def find_join(joint: Tensor, singles: Sequence[Tensor]) -> tuple[Join, int] | None:
    """How the tensors of single media make the one of all.

    Args:
        joint: What the processor gives for several media at once.
        singles: What it gives for each.

    Returns:
        The way and, where it is ragged, the filling; None where they make it in no known way.
    """
    if equal(joint, concatenated(singles, 0)):
        return "rows", 0
    if joint.ndim > 1 and all(len(single) == 1 for single in singles):
        if equal(joint, concatenated(singles, 1)):
            return "lead", 0
        for fill in FILLINGS:
            if equal(joint, padded(singles, fill)):
                return "ragged", fill
    return None


def unjoined(tensor: Tensor, join: Join) -> Tensor:
    """The stored form of one medium's tensor: [items, ...]."""
    return tensor if join == "rows" else tensor[0]


def join_rule(rule: PixelRule | None, join: Join, field: str, fill: int) -> PixelRule | None:
    """The rule of a field, its numbers' rule extended by its join; None where nothing is to be done."""
    if join == "rows":
        return rule
    rule = rule or PixelRule(arithmetic="stored", layout="stored")
    if join == "lead":
        return replace(rule, lead=True)
    return replace(rule, per_medium=items_field(field), fill=fill, drops=(items_field(field),))


def items_field(field: str) -> str:
    """Name of the field that says how many items of a ragged field each medium has."""
    return f"{field}_items"


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


def equal(joint: Tensor, made: Tensor | None) -> bool:
    """Whether two tensors hold the same values in the same type."""
    return made is not None and joint.dtype == made.dtype and torch.equal(joint, made)
