"""Attention masks that keep the documents of a pack apart."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["additive", "block_causal", "image_runs", "positions_within"]


def block_causal(numbers: Tensor, window: int | None = None, whole: Tensor | None = None) -> Tensor:
    """Who sees whom: a token sees itself and the earlier tokens of its document.

    Tokens of number 0 (padding, a fake image) see themselves alone and nobody sees them: a row without any visible key
    would make NaN.

    Args:
        numbers: [B, S] integer document numbers 1..n, 0 where nothing is to be seen.
        window: How many tokens back a token sees, itself included; None: all.
        whole: [B, S] integer runs whose tokens see each other both ways, -1 elsewhere; see `image_runs`.

    Returns:
        [B, 1, S, S] bool, query before key; True is visible.
    """
    size = numbers.shape[1]
    visible = (numbers[:, :, None] == numbers[:, None, :]) & (numbers != 0)[:, None, :]
    if whole is None:
        visible = visible.tril_()
    else:
        both_ways = (whole[:, :, None] == whole[:, None, :]) & (whole >= 0)[:, None, :]
        visible &= both_ways | _earlier(size, numbers.device)
    if window is not None:
        visible &= ~_earlier(size, numbers.device, distance=window)
    visible |= torch.eye(size, dtype=torch.bool, device=numbers.device)
    return visible[:, None]


def image_runs(token_types: Tensor) -> Tensor:
    """Which image or frame every token belongs to: neighbouring visual tokens are one, as transformers takes them.

    Args:
        token_types: [B, S] integer; 1 image, 2 video.

    Returns:
        [B, S] int64: `[0, 1, 1, 0, 2]` gives `[-1, 0, 0, -1, 1]`.
    """
    visual = (token_types == 1) | (token_types == 2)
    starts = visual.clone()
    starts[:, 1:] &= ~visual[:, :-1]
    return torch.where(visual, starts.cumsum(1) - 1, -1)


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


def _earlier(size: int, device: torch.device, distance: int = 0) -> Tensor:
    """[S, S] bool: the key stands `distance` tokens or more before the query."""
    return torch.ones(size, size, dtype=torch.bool, device=device).tril_(-distance)
