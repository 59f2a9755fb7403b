"""What becomes of one rank's share of a step: read and collated, in a worker or not, then finished where the model is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlmprep.runtime.batch import Batch
from vlmprep.runtime.collate import BACKENDS, Collate, Pack, attention_mask_for, check_rows, hf, neat
from vlmprep.runtime.packset import PackSet
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.packset import IGNORE_INDEX
from vlmprep.schema.pixels import PixelRule

__all__ = ["PIXEL_TYPES", "Finish", "PixelType", "Step", "StepReader", "choose_collate"]

PixelType: TypeAlias = Literal["float32", "bfloat16", "stored"]
PIXEL_TYPES: dict[PixelType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "stored": torch.uint8,
}
"""What a loader can turn pixels into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rank's share of a step."""

    pack_ids: tuple[int, ...]
    repeated: tuple[bool, ...]
    num_label_tokens: int
    """Of the whole step, over all ranks."""


class StepReader(Dataset[Batch]):
    """Reads and collates a step; the part of the work that runs in worker processes."""

    def __init__(self, packs: PackSet, collate: Collate) -> None:
        self._packs = packs
        self._collate = collate

    def __getitem__(self, step: Step) -> Batch:
        packs: list[Pack] = []
        for pack_id, repeated in zip(step.pack_ids, step.repeated, strict=True):
            pack = self._packs[pack_id]
            packs.append({**pack, "labels": torch.full_like(pack["labels"], IGNORE_INDEX)} if repeated else pack)
        batch = Batch(self._collate(packs))
        batch.num_label_tokens_in_step = step.num_label_tokens
        batch.pack_ids, batch.repeated = step.pack_ids, step.repeated
        return batch


class Finish:
    """What is left to do for a batch where the model is: move it, restore its pixels, spell its mask out.

    Args:
        rules: By field, how stored pixels become the processor's.
        pixels: What they are turned into.
        device: Where the tensors go; None leaves them.
        mask: Attention backend that document numbers in `attention_mask` are spelled out for; None leaves the mask.
    """

    def __init__(
        self, rules: dict[str, PixelRule], pixels: PixelType, device: torch.device | None, mask: str | None
    ) -> None:
        self._rules = {} if pixels == "stored" else rules
        self._dtype = PIXEL_TYPES[pixels]
        self._device = device
        self._mask = mask

    def __call__(self, batch: Batch) -> Batch:
        """The same batch, ready for the model."""
        if self._device is not None:
            for name, value in batch.items():
                batch[name] = value.to(self._device, non_blocking=True) if isinstance(value, Tensor) else value
        if self._mask is not None:
            batch["attention_mask"] = attention_mask_for(batch["attention_mask"], self._mask)
        restore_all(batch, self._rules, self._dtype)
        return batch


def choose_collate(
    packs: PackSet, collate: str | Collate, backend: str, packs_per_rank: int, max_length: int | None
) -> Collate:
    """The collate that workers run; `neat` leaves its mask as document numbers, which are small to hand over."""
    padding = packs.manifest.pad_token_id
    if collate == "neat":
        if backend not in BACKENDS:
            raise ValueError(f"collate='neat' has masks for {', '.join(BACKENDS)}, got attn_implementation={backend!r}")
        return partial(neat, padding_idx=padding, max_length=max_length, attn_implementation="flash_attention_2")
    if collate == "hf":
        check_rows(packs_per_rank, backend)
        return partial(hf, padding_idx=padding, max_length=max_length, attn_implementation=backend)
    if callable(collate):
        return collate
    raise ValueError(f"collate must be 'neat', 'hf' or a callable, got {collate!r}")
