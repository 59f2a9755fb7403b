"""Ways to make documents of a pack see each other, each a small change of a right batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tests.leaks import RECURRENT, Setup, kernels, run, worst_difference
from tests.models import FAMILIES, AnyFamily
from vlmprep.runtime.masks import block_causal

__all__ = ["TRAPS", "Trap", "spring"]

Batch: TypeAlias = dict[str, Any]
MROPE: tuple[AnyFamily, ...] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_omni_moe")
BORDERS = ("seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
NO_STATE: tuple[AnyFamily, ...] = tuple(family for family in FAMILIES if family not in RECURRENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """What goes wrong, where, and how."""

    name: str
    families: tuple[AnyFamily, ...]
    collate: str
    change: Callable[[Batch], Batch]
    """A right batch to one that leaks."""
    backends: tuple[str, ...] = ("sdpa", "eager")
    kernels: bool = True
    """Whether layers with a state have their kernels."""


def spring(trap: Trap, family: AnyFamily, backend: str, root: Path) -> tuple[float, float]:
    """The largest |dlogit| of packs against their documents alone: as the loader makes them, and with the trap."""
    setup = Setup(family=family, collate=trap.collate, backend=backend)
    batch = setup.batch(root, setup.split)
    with torch.no_grad():
        with kernels(installed=family in RECURRENT):
            right, _ = run(setup.model, dict(batch))
        with kernels(installed=family in RECURRENT and trap.kernels):
            wrong, _ = run(setup.model, trap.change(dict(batch)))
    return worst_difference(setup, right), worst_difference(setup, wrong)


def without(*names: str) -> Callable[[Batch], Batch]:
    return lambda batch: {name: value for name, value in batch.items() if name not in names}


def mask_of_ones(batch: Batch) -> Batch:
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def three_axes(batch: Batch) -> Batch:
    return {**batch, "position_ids": batch["position_ids"][1:]}


def bool_mask(batch: Batch) -> Batch:
    mask = batch["attention_mask"]
    masks = {kind: each == 0 for kind, each in mask.items()} if isinstance(mask, dict) else mask == 0
    return {**batch, "attention_mask": masks}


def one_mask(batch: Batch) -> Batch:
    return {**batch, "attention_mask": batch["attention_mask"]["full_attention"]}


def mask_alone(batch: Batch) -> Batch:
    """A 4-D mask that keeps documents apart in attention, and nothing for layers with a state."""
    numbers = batch["seq_idx"] + 1
    mask = block_causal(numbers)
    additive = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    return {**without(*BORDERS)(batch), "attention_mask": additive}


TRAPS = (
    Trap(
        name="`use_cache` left at its default",
        families=tuple(family for family in NO_STATE if not family.startswith("gemma4")),
        collate="hf",
        change=without("use_cache"),
    ),
    Trap(
        name="a 2-D mask of ones",
        families=FAMILIES,
        collate="hf",
        change=mask_of_ones,
    ),
    Trap(
        name="positions of three axes, without the place in the document",
        families=MROPE,
        collate="hf",
        change=three_axes,
    ),
    Trap(
        name="a bool mask",
        families=NO_STATE,
        collate="neat",
        change=bool_mask,
        backends=("eager",),
    ),
    Trap(
        name="no mask where images see themselves whole",
        families=("gemma4_bidirectional",),
        collate="hf",
        change=without("attention_mask"),
    ),
    Trap(
        name="one mask for full and sliding layers",
        families=("gemma4", "gemma4_bidirectional", "step3p7"),
        collate="neat",
        change=one_mask,
    ),
    Trap(
        name="positions alone for layers with a state",
        families=RECURRENT,
        collate="hf",
        change=without(*BORDERS),
        kernels=False,
    ),
    Trap(
        name="a 4-D mask alone for layers with a state",
        families=RECURRENT,
        collate="hf",
        change=mask_alone,
        kernels=False,
    ),
)
