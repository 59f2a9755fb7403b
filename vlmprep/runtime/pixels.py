"""Stored media fields back to what the model's own processor returns, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmprep.runtime.clips import canvas_of, clips_of, media_of
from vlmprep.runtime.overviews import with_overviews
from vlmprep.schema.pixels import PixelRule
from vlmprep.shardformat.memory import pooled_empty

__all__ = ["computed", "concatenate", "restore", "restore_all", "rule_behind"]

_BLOCK_BYTES = 256 << 10
"""Stored bytes worked on at a time on a CPU: they stay in the second-level cache between the passes."""


def restore_all(
    batch: dict[str, Any], rules: Mapping[str, PixelRule], dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Restore every media field of a pack or a batch.

    Args:
        batch: Its fields; other values are left alone.
        rules: The manifest's rules, by field.
        dtype: As for `restore`.

    Returns:
        The same mapping with fields restored, and without those that rules alone needed.
    """
    present = [field for field in rules if field in batch]
    absent = [field for field in present if _is_absent(rules[field], batch)]
    restored: dict[str, Any] = {
        field: restore(batch[field], rules[field], dtype, batch) for field in present if field not in absent
    }
    for field in [field for field in restored if rules[field].layout == "clips"]:
        restored[field] = clips_of(restored[field], batch[str(rules[field].per_medium)])
    for field in [field for field in restored if rules[field].fill == "none"]:
        restored[field] = media_of(restored[field], batch[str(rules[field].per_medium)].tolist())
    for field in present:
        for name in rules[field].drops:
            batch.pop(name, None)
    for field in absent:
        batch.pop(field, None)
    batch.update(restored)
    return batch


def restore(
    stored: Tensor,
    rule: PixelRule,
    dtype: torch.dtype = torch.float32,
    fields: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Compute the processor's values on the device that holds the stored ones.

    Args:
        stored: [N, C, h, w] uint8 in any memory order, as a pack holds them; what `rule.layout` says otherwise.
        rule: The manifest's rule for this field.
        dtype: float32 gives the processor's bits; a smaller type is the float32 result cast.
        fields: The pack's or batch's fields, where the rule names some.

    Returns:
        Values of `dtype` (integers keep theirs) in the processor's shape; see PixelRule. Clips stay patches or
        frames here, because several of them may be no tensor; `restore_all` lays them together.
    """
    beside = fields or {}
    values = _as_stored(stored, dtype) if rule.arithmetic == "stored" else computed(stored, rule, dtype, beside)
    if rule.layout == "ones":
        values = _ones(values)
    if rule.mask is not None:
        values = values * beside[rule.mask].to(values.device).bool().unsqueeze(1)
    values = _grouped(values, rule, beside)
    if rule.items_last:
        values = values.movedim(1, -1).contiguous()
    return values.unsqueeze(0) if rule.lead else values


def computed(
    stored: Tensor, rule: PixelRule, dtype: torch.dtype = torch.float32, fields: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The first half of `restore`: the rule's numbers, each item in the processor's shape, before items join to media.

    Args:
        stored: [N, C, h, w] uint8 in any memory order.
        rule: A rule whose arithmetic is not `stored`.
        dtype: As for `restore`.
        fields: As for `restore`.

    Returns:
        [N, ...] of `dtype`, pictures that have an overview with one item more; `rule_behind` tells what is left to do.
    """
    if rule.overview is None:
        return _computed(stored, rule, dtype)
    # It is made of float32, whatever is asked for.
    return with_overviews(_computed(stored, rule, torch.float32), (fields or {})[rule.overview]).to(dtype)


def rule_behind(rule: PixelRule) -> PixelRule:
    """The second half of a rule: what is left to do for a field that holds what `computed` made."""
    done = ("rows", "rows_channels_last", "images")
    layout = "stored" if rule.layout in done else rule.layout
    return replace(rule, arithmetic="stored", rescale=1.0, mean=(), std=(), repeat=1, layout=layout, overview=None)


def concatenate(fields: list[Tensor]) -> Tensor:
    """Stored pixels of several packs in one tensor, in the memory order of the first.

    Args:
        fields: Each [N, C, h, w] uint8.

    Returns:
        [sum of N, C, h, w] uint8.
    """
    if len(fields) == 1:
        return fields[0]
    order = sorted(range(fields[0].ndim), key=fields[0].stride, reverse=True)
    joined = torch.cat([field.permute(order) for field in fields], dim=order.index(0))
    return joined.permute([order.index(axis) for axis in range(len(order))])


def _is_absent(rule: PixelRule, batch: Mapping[str, Any]) -> bool:
    """Whether the model gets no such field, because there is one medium only."""
    return not rule.alone and isinstance(rule.per_medium, str) and len(batch[rule.per_medium]) == 1


def _as_stored(stored: Tensor, dtype: torch.dtype) -> Tensor:
    if stored.dtype == torch.uint16:
        stored = stored.view(torch.bfloat16)
    return stored.to(dtype) if stored.is_floating_point() else stored


def _ones(sizes: Tensor) -> Tensor:
    """[N, 2] heights and widths, all alike, to ones of this size."""
    items = len(sizes)
    height, width = sizes[0].tolist() if items else (0, 0)
    return sizes.new_ones((items, height, width))


def _computed(stored: Tensor, rule: PixelRule, dtype: torch.dtype) -> Tensor:
    """[N, C, h, w] uint8 to the rule's numbers in the rule's layout."""
    items, channels, height, width = stored.shape
    compute = _arithmetic(rule, stored.device)
    last = rule.layout == "rows_channels_last"
    shape = (items, height, width, channels) if last else (items, channels, rule.repeat, height, width)
    values = _empty(shape, dtype, stored.device)
    item_bytes = max(1, channels * height * width)
    block = max(1, _BLOCK_BYTES // item_bytes) if stored.device.type == "cpu" else max(items, 1)
    for start in range(0, items, block):
        rows = slice(start, start + block)
        computed = compute(stored[rows])
        if stored.device.type == "cpu" and dtype.itemsize < computed.dtype.itemsize:
            # While it is near: a copy in strides that also converts is slower.
            computed = computed.to(dtype).contiguous()
        values[rows].copy_(computed.permute(0, 2, 3, 1) if last else computed.unsqueeze(2).expand_as(values[rows]))
    if rule.layout in ("images", "canvas"):
        return values.view(items, channels * rule.repeat, height, width)
    return values.view(items, channels * rule.repeat * height * width)


def _grouped(values: Tensor, rule: PixelRule, fields: Mapping[str, Tensor]) -> Tensor:
    """[N, ...] to [media, items of the largest or `most`, ...], where the rule says so."""
    if rule.per_medium is None or rule.layout == "clips" or rule.fill == "none":
        return values
    if rule.layout == "canvas":
        return canvas_of(values, fields[str(rule.per_medium)])
    if isinstance(rule.per_medium, int):
        return values.view(-1, rule.per_medium, *values.shape[1:])
    counts = fields[rule.per_medium]
    sizes: list[int] = (counts.prod(dim=1) if counts.ndim > 1 else counts).tolist()
    most = max(sizes, default=0) if rule.most is None else rule.most
    if all(size == most for size in sizes):
        return values.view(len(sizes), most, *values.shape[1:])
    fill = rule.fill if isinstance(rule.fill, int) else 0
    grouped = values.new_full((len(sizes), most, *values.shape[1:]), fill)
    for medium, items in enumerate(torch.split(values, sizes)):
        grouped[medium, : len(items)] = items
        if rule.fill == "last" and len(items):
            grouped[medium, len(items) :] = items[-1]
    return grouped


def _arithmetic(rule: PixelRule, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The rule's arithmetic: [n, C, h, w] uint8 to float32."""
    if rule.arithmetic == "as_float":
        return lambda block: block.to(torch.float32)
    if rule.arithmetic == "scale":
        return lambda block: block.to(torch.float32).mul_(rule.rescale)
    if rule.arithmetic == "divide":
        return lambda block: block.to(torch.float32).div_(1 / rule.rescale)
    mean = torch.tensor(rule.mean, dtype=torch.float32).view(-1, 1, 1)
    std = torch.tensor(rule.std, dtype=torch.float32).view(-1, 1, 1)
    if rule.arithmetic == "fused":
        fused_mean, fused_std = (mean * (1.0 / rule.rescale)).to(device), (std * (1.0 / rule.rescale)).to(device)
        return lambda block: block.to(torch.float32).sub_(fused_mean).div_(fused_std)
    mean, std = mean.to(device), std.to(device)
    return lambda block: (block.to(torch.float64) * rule.rescale).to(torch.float32).sub_(mean).div_(std)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized memory; on a CPU from Arrow's pool, where it was touched before."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(pooled_empty((size,))).view(dtype).view(shape)
