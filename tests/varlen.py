"""Attention over sequences of different lengths, as flash_attn_varlen_func and Transformer Engine's `thd` compute it: in plain
arithmetic, for transformers' own models on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["Spans", "run_varlen", "spans_of_flat", "spans_of_thd"]

Spans = Sequence[tuple[int, int]]
"""Where each sequence begins and ends in a row; what no sequence holds is padding, and nothing is computed there."""


def spans_of_flat(batch: dict[str, Any]) -> Spans:
    """The sequences of a `flat` batch."""
    borders = batch["cu_seqlens"].tolist()
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["max_seqlen"] == max(stop - start for start, stop in pairwise(borders))
    return list(pairwise(borders))


def spans_of_thd(batch: dict[str, Any]) -> Spans:
    """The sequences of a `thd` batch whose rows are laid end to end."""
    assert batch["qkv_format"] == "thd"
    spans, start = [], 0
    for lengths, padded in zip(batch["seq_lens"].tolist(), batch["seq_lens_padded"].tolist(), strict=True):
        real = [pair for pair in zip(lengths, padded, strict=True) if pair[0] != -1000]
        assert sum(room for _, room in real) == batch["input_ids"].shape[1]
        for length, room in real:
            spans.append((start, start + length))
            start += room
    return spans


def run_varlen(model: Any, batch: dict[str, Any], spans: Spans) -> Tensor:
    """Logits [B, S, V] of a model whose text layers are told where sequences are, and nothing else keeps them apart.

    Args:
        model: A tiny model.
        batch: Of `flat` or `thd`.
        spans: Of all rows laid end to end.
    """
    dropped = ("labels", "shift_labels", "cu_seqlens", "max_seqlen", "seq_lens", "seq_lens_padded", "qkv_format")
    inputs = {name: value for name, value in batch.items() if name not in (*dropped, "use_cache")}
    shape = inputs["input_ids"].shape
    for name in ("input_ids", "position_ids", "mm_token_type_ids"):
        if name in inputs:
            rows = inputs[name].shape[-2] * inputs[name].shape[-1]
            inputs[name] = inputs[name].reshape(*inputs[name].shape[:-2], 1, rows)
    positions = inputs["position_ids"]
    if len(positions) == 4:
        inputs["position_ids"] = positions[1:]  # what transformers' own detection of packs needs
    with _attending(spans), _set_text_attention(model):
        logits: Tensor = model(**inputs, use_cache=False).logits
    return logits.view(*shape, -1)


@contextmanager
def _set_text_attention(model: Any) -> Iterator[None]:
    text = model.config.get_text_config()
    before = text._attn_implementation
    text._attn_implementation = "varlen"
    try:
        yield
    finally:
        text._attn_implementation = before


@contextmanager
def _attending(spans: Spans) -> Iterator[None]:
    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any
    ) -> tuple[Tensor, None]:
        assert mask is None
        plain = ALL_ATTENTION_FUNCTIONS["sdpa"]
        result = torch.zeros(1, query.shape[2], query.shape[1], value.shape[-1], dtype=query.dtype)
        for start, stop in spans:
            parts = (states[:, :, start:stop] for states in (query, key, value))
            result[:, start:stop] = plain(module, *parts, None, **{**rest, "is_causal": True})[0]
        return result, None

    ALL_ATTENTION_FUNCTIONS.register("varlen", attend)
    yield
