"""What becomes of one rank's share of a step: read and collated, in a worker or not, then finished where the model is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlmprep.runtime.batch import Batch
from vlmprep.runtime.collate import Collate, Pack, attention_mask_for, documents, hf_numbered, neat_numbered
from vlmprep.runtime.forms import ModelForm
from vlmprep.runtime.joined import flat, thd
from vlmprep.runtime.offers import alignment_of, check_flat, check_hf, check_neat, check_thd
from vlmprep.runtime.packs import Packs
from vlmprep.runtime.pixels import restore_all
from vlmprep.runtime.sampler import Step
from vlmprep.schema.packset import IGNORE_INDEX
from vlmprep.schema.pixels import PixelRule

__all__ = ["PIXEL_TYPES", "CollateChoice", "CollateName", "Finish", "PixelType", "StepReader", "choose_collate"]

PixelType: TypeAlias = Literal["float32", "bfloat16", "stored"]
CollateName: TypeAlias = Literal["neat", "hf", "documents", "flat", "thd"]
_NAMES = ", ".join(map(repr, get_args(CollateName)))
PIXEL_TYPES: dict[PixelType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "stored": torch.uint8,
}
"""What a loader can turn pixels into."""


class StepReader(Dataset[Batch]):
    """Reads and collates a step; the part of the work that runs in worker processes."""

    def __init__(self, packs: Packs, collate: Collate) -> None:
        self._packs = packs
        self._collate = collate

    def __getitem__(self, step: Step) -> Batch:
        if self._packs.remote:
            self._packs.read_ahead((*step.pack_ids, *step.ahead))
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
        form: What the masks are for.
    """

    def __init__(
        self,
        rules: dict[str, PixelRule],
        pixels: PixelType,
        device: torch.device | None,
        mask: str | None,
        form: ModelForm,
    ) -> None:
        self._rules = {} if pixels == "stored" else rules
        self._dtype = PIXEL_TYPES[pixels]
        self._device = device
        self._mask = mask
        self._form = form

    def __call__(self, batch: Batch) -> Batch:
        """The same batch, ready for the model."""
        if self._device is not None:
            for name, value in batch.items():
                batch[name] = value.to(self._device, non_blocking=True) if isinstance(value, Tensor) else value
        if self._mask is not None and "attention_mask" in batch:
            numbers, token_types = batch["attention_mask"], batch.get("mm_token_type_ids")
            batch["attention_mask"] = attention_mask_for(numbers, self._mask, self._form, token_types)
        restore_all(batch, self._rules, self._dtype)
        return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateChoice:
    """How a loader was asked to collate."""

    collate: str | Collate
    backend: str
    packs_per_rank: int
    max_length: int | None
    document_alignment: int | None


def choose_collate(packs: Packs, choice: CollateChoice, form: ModelForm) -> Collate:
    """The collate that workers run; masks stay document numbers, which are small to hand over."""
    settings: dict[str, Any] = {
        "padding_idx": packs.manifest.pad_token_id,
        "max_length": choice.max_length,
        "form": form,
    }
    if choice.document_alignment is not None and choice.collate != "thd":
        raise ValueError(f"document_alignment is what collate='thd' pads documents to, got collate={choice.collate!r}")
    if choice.collate == "neat":
        check_neat(form, choice.backend)
        return partial(neat_numbered, **settings)
    if choice.collate == "hf":
        check_hf(choice.packs_per_rank, choice.backend, form)
        return partial(hf_numbered, **settings)
    if choice.collate == "flat":
        check_flat(form)
        return partial(flat, **settings)
    if choice.collate == "thd":
        check_thd(form)
        aligned = alignment_of(packs.manifest, packs.index, choice.document_alignment)
        return partial(thd, document_alignment=aligned, **settings)
    if choice.collate == "documents":
        return partial(documents, **settings)
    if callable(choice.collate):
        return choice.collate
    raise ValueError(f"collate must be {_NAMES} or a callable, got {choice.collate!r}")
