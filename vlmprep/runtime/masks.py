"""Attention masks that keep the documents of a pack apart."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["additive", "block_causal", "positions_within"]


def block_causal(numbers: Tensor) -> Tensor:
    """Who sees whom: a token sees itself and the earlier tokens of its document.

    Tokens of number 0 (padding, a fake image) see themselves alone and nobody sees them: a row without any visible key
    would make NaN.

    Args:
        numbers: [B, S] integer document numbers 1..n, 0 where nothing is to be seen.

    Returns:
        [B, 1, S, S] bool, query before key; True is visible.
    """
    size = numbers.shape[1]
    same = (numbers[:, :, None] == numbers[:, None, :]) & (numbers != 0)[:, None, :]
    visible = same.tril_()
    visible |= torch.eye(size, dtype=torch.bool, device=numbers.device)
    return visible[:, None]


def additive(visible: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same mask for a backend that adds it to the scores: 0 where visible, the dtype's lowest number elsewhere."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)


def positions_within(numbers: Tensor) -> Tensor:
    """Every token's place in its own run of equal numbers.

    Args:
        numbers: [S] integer document numbers.

    Returns:
        [S] int64, 0 at the start of every run: `[1, 1, 1, 2, 2, 0]` gives `[0, 1, 2, 0, 1, 0]`.
    """
    places = torch.arange(len(numbers), device=numbers.device)
    starts = torch.ones_like(numbers, dtype=torch.bool)
    starts[1:] = numbers[1:] != numbers[:-1]
    return places - torch.where(starts, places, 0).cummax(0).values
