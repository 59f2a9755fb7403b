"""Where tokens stand: positions of packed and of single documents, and where sequences begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmprep.runtime.masks import positions_within
from vlmprep.runtime.rows import Pack, rows_of

__all__ = ["check_whole", "going_on", "hidden_tokens", "restarting", "sequence_borders"]


def check_whole(pack: Pack, collate: str) -> None:
    """Refuse packs that a form without a mask cannot say.

    Raises:
        ValueError: The pack hides tokens inside a document.
    """
    masked = pack["attention_mask"] == 0
    if bool((masked[:-1] & ~masked[1:]).any()):
        raise ValueError(
            f"collate={collate!r} cannot hide tokens inside a document, as --fake-image sample makes them: without a mask "
            "the document would see them. Use collate='neat', or pack with --fake-image pack."
        )


def restarting(pack: Pack, size: int) -> Tensor:
    """A pack's positions, padding as one more document.

    Returns:
        [4, size] for mRoPE (place in the document, then the three axes), [size] otherwise; int64, or float32 as stored.

    Raises:
        ValueError: The pack hides tokens inside a document.
    """
    check_whole(pack, "hf")
    positions = _with_places(pack)
    padding = torch.arange(size - positions.shape[-1]).expand(*positions.shape[:-1], -1)
    return torch.cat([positions, padding.to(positions.dtype)], dim=-1)


def going_on(document: Pack, size: int) -> Tensor:
    """The same for one document, whose places go on through the padding, so that nothing looks packed."""
    positions = _with_places(document)
    padding = torch.arange(positions.shape[-1], size).expand(*positions.shape[:-1], -1)
    return torch.cat([positions, padding.to(positions.dtype)], dim=-1)


def _with_places(pack: Pack) -> Tensor:
    """Positions with the place in the document in front of three axes; int64, or float32 as they are stored."""
    positions = pack["position_ids"]
    positions = positions if positions.is_floating_point() else positions.long()
    if positions.ndim == 1:
        return positions
    places = positions_within(pack["attention_mask"]).to(positions.dtype)
    return torch.cat([places[None], positions])


def sequence_borders(positions: Tensor) -> dict[str, Any]:
    """Where sequences begin, as kernels of layers with a state and of flash attention take it.

    Args:
        positions: [1, S] or [4, 1, S] from `restarting`.

    Returns:
        `seq_idx` [1, S], `cu_seq_lens_q` and `cu_seq_lens_k` [sequences + 1], int32; `max_length_q`, `max_length_k`.
    """
    places = positions if positions.ndim == 2 else positions[0]
    starts = places[0] == 0
    borders = torch.cat([starts.nonzero()[:, 0], torch.tensor([places.shape[-1]])]).int()
    longest = int(borders.diff().max())
    return {
        "seq_idx": (starts.cumsum(0) - 1).int()[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def hidden_tokens(split: Sequence[Pack], size: int) -> dict[str, Tensor]:
    """`attention_mask` [rows, size] for documents of which some hide tokens inside: 0 on those, 1 elsewhere; else nothing."""
    holes = [
        bool((document["attention_mask"] == 0).any() & (document["attention_mask"] != 0).any()) for document in split
    ]
    if not any(holes):
        return {}
    shown = [{"seen": torch.ones_like(document["attention_mask"])} for document in split]
    for row, document, hole in zip(shown, split, holes, strict=True):
        if hole:
            row["seen"] = (document["attention_mask"] != 0).int()
    return {"attention_mask": rows_of(shown, "seen", size, 1)}
