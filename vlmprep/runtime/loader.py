"""One rank's batches of a pack set, in an order that no rank, worker or restart changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vlmprep.runtime.batch import Batch
from vlmprep.runtime.collate import BACKENDS, Collate, Pack, attention_mask_for, check_rows, hf, neat
from vlmprep.runtime.order import Tail, check_tail, epoch_order, num_repeats, num_steps, step_places
from vlmprep.runtime.packset import PackSet
from vlmprep.runtime.pixels import restore
from vlmprep.schema.packset import IGNORE_INDEX
from vlmprep.schema.pixels import PixelRule

__all__ = ["Loader", "PixelType"]

PixelType: TypeAlias = Literal["float32", "bfloat16", "stored"]

_DTYPES: dict[PixelType, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "stored": torch.uint8}
_STATE_VERSION = 1
_IDENTITY = ("pack_set", "seed", "shuffle", "tail")
"""Entries of a state that say which order it is a place in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One rank's share of a step."""

    pack_ids: tuple[int, ...]
    repeated: tuple[bool, ...]
    num_label_tokens: int
    """Of the whole step, over all ranks."""


class _Steps(Dataset[Batch]):
    """Reads and collates a step; the part of the work that runs in worker processes."""

    def __init__(self, packs: PackSet, collate: Collate) -> None:
        self._packs = packs
        self._collate = collate

    def __getitem__(self, step: _Step) -> Batch:
        packs: list[Pack] = []
        for pack_id, repeated in zip(step.pack_ids, step.repeated, strict=True):
            pack = self._packs[pack_id]
            packs.append({**pack, "labels": torch.full_like(pack["labels"], IGNORE_INDEX)} if repeated else pack)
        batch = Batch(self._collate(packs))
        batch.num_label_tokens_in_step = step.num_label_tokens
        batch.pack_ids, batch.repeated = step.pack_ids, step.repeated
        return batch


class Loader:
    """Iterates over the batches that are left of the current epoch, for one rank.

    Iterating counts: every batch that the loop receives is consumed, whatever workers have prefetched. Stopping in the
    middle and iterating again goes on where it stopped; at the end of an epoch the next one begins. Every rank gets the
    same number of steps.

        for epoch in range(num_epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                ...

    Args:
        packs: The pack set.
        dp_rank: This process's place among the data-parallel ranks.
        dp_world_size: Data-parallel ranks; a step consumes `dp_world_size * packs_per_rank` packs, the global batch.
        packs_per_rank: Rows of a batch.
        seed: Of the shuffled order; the same on all ranks.
        shuffle: False: pack_id order.
        tail: What becomes of packs that do not fill the last step of an epoch: `drop` leaves them out, `pad` fills the
            step with repeated packs whose labels are all -100. A batch without any label has no mean loss (NaN): with
            `pad`, sum the loss and divide by `batch.num_label_tokens_in_step`.
        collate: `neat`, `hf` (see vlmprep.runtime.collate), or a callable from a list of packs to a dict.
        attn_implementation: The model's attention backend.
        num_workers: Processes that read and collate ahead; 0: this process does, when asked.
        prefetch_factor: Batches that each worker reads ahead; default: torch's.
        pixels: Type that stored pixels are restored to, here, on `device`; `stored` leaves them as uint8.
        device: Where the tensors go; default: they stay in host memory.
        max_length: Length that every row is padded to; default: the longest pack of the batch.

    Raises:
        ValueError: An argument is not offered, or the pack set does not fill one step.
    """

    def __init__(
        self,
        packs: PackSet,
        *,
        dp_rank: int = 0,
        dp_world_size: int = 1,
        packs_per_rank: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        tail: Tail = "drop",
        collate: Literal["neat", "hf"] | Collate = "neat",
        attn_implementation: str = "sdpa",
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pixels: PixelType = "float32",
        device: torch.device | str | None = None,
        max_length: int | None = None,
    ) -> None:
        check_tail(tail)
        if pixels not in _DTYPES:
            raise ValueError(f"pixels must be one of {', '.join(_DTYPES)}, got {pixels!r}")
        _check_ranks(dp_rank, dp_world_size, packs_per_rank)
        self.packs = packs
        self.dp_rank, self.dp_world_size, self.packs_per_rank = dp_rank, dp_world_size, packs_per_rank
        self.seed, self.shuffle, self.tail = seed, shuffle, tail
        self.epoch = 0
        self._consumed = 0
        self._num_workers, self._prefetch_factor = num_workers, prefetch_factor
        self._device = None if device is None else torch.device(device)
        mask = attn_implementation if collate == "neat" else None
        self._finish = _Finish(packs.manifest.pixels, pixels, self._device, mask)
        self._collate = _collate(packs, collate, attn_implementation, packs_per_rank, max_length)
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"the pack set has {len(packs)} packs, a step takes {self.global_batch} "
                f"({dp_world_size} ranks x {packs_per_rank}): nothing is left with tail='drop'"
            )

    @property
    def global_batch(self) -> int:
        """Packs that one step consumes over all ranks."""
        return self.dp_world_size * self.packs_per_rank

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return num_steps(len(self.packs), consumed=0, global_batch=self.global_batch, tail=self.tail)

    @property
    def num_repeated_packs(self) -> int:
        """Packs without labels that will fill the last step of this epoch, over all ranks."""
        return num_repeats(len(self.packs), consumed=self._consumed, global_batch=self.global_batch, tail=self.tail)

    def __len__(self) -> int:
        """Steps that iterating now would yield: those left of the current epoch."""
        return num_steps(len(self.packs), consumed=self._consumed, global_batch=self.global_batch, tail=self.tail)

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.epoch, self._consumed
        for done, read in enumerate(self._batches(start), 1):
            batch = self._finish(read)
            self.epoch, self._consumed = epoch, min(start + done * self.global_batch, len(self.packs))
            yield batch
        self.epoch, self._consumed = epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing changes where it is the current one."""
        if epoch != self.epoch:
            self.epoch, self._consumed = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the training loop stands: a handful of numbers, the same on every rank."""
        return {
            "version": _STATE_VERSION,
            **self._identity(),
            "epoch": self.epoch,
            "consumed_packs": self._consumed,
            "global_batch": self.global_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader stood.

        Ranks, workers and packs per rank may differ. With the same global batch the rest of the epoch follows step by
        step; with another one it is dealt from the first pack that was not consumed.

        Raises:
            ValueError: The state belongs to another pack set, seed, shuffle or tail; the message says which.
        """
        if state.get("version") != _STATE_VERSION:
            raise ValueError(f"loader state has version {state.get('version')!r}, this release knows {_STATE_VERSION}")
        own = self._identity()
        differences = [
            f"{name} was {state[name]!r}, is {own[name]!r}" for name in _IDENTITY if state[name] != own[name]
        ]
        if differences:
            raise ValueError(f"loader state does not belong to this order: {'; '.join(differences)}")
        self.epoch, self._consumed = int(state["epoch"]), int(state["consumed_packs"])

    def _identity(self) -> dict[str, Any]:
        return {
            "pack_set": self.packs.manifest.digest,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "tail": self.tail,
        }

    def _batches(self, consumed: int) -> DataLoader[Batch]:
        return DataLoader(
            _Steps(self.packs, self._collate),
            batch_size=None,
            sampler=self._steps(consumed),
            num_workers=self._num_workers,
            prefetch_factor=self._prefetch_factor,
            pin_memory=self._device is not None and self._device.type == "cuda",
            collate_fn=_as_it_is,
        )

    def _steps(self, consumed: int) -> Iterator[_Step]:
        """This rank's share of every step that is left of the epoch."""
        order = epoch_order(len(self.packs), seed=self.seed, epoch=self.epoch, shuffle=self.shuffle)
        own = slice(self.dp_rank * self.packs_per_rank, (self.dp_rank + 1) * self.packs_per_rank)
        for step in range(len(self)):
            places = step_places(order, consumed=consumed, step=step, global_batch=self.global_batch)
            counted = places.pack_ids[~places.repeated]
            yield _Step(
                pack_ids=tuple(places.pack_ids[own].tolist()),
                repeated=tuple(places.repeated[own].tolist()),
                num_label_tokens=int(self.packs.index.num_label_tokens[counted].sum(dtype=np.int64)),
            )


class _Finish:
    """What is left to do for a batch where the model is: move it, restore its pixels, spell its mask out."""

    def __init__(
        self, rules: dict[str, PixelRule], pixels: PixelType, device: torch.device | None, mask: str | None
    ) -> None:
        self._rules = {} if pixels == "stored" else rules
        self._dtype = _DTYPES[pixels]
        self._device = device
        self._mask = mask

    def __call__(self, batch: Batch) -> Batch:
        if self._device is not None:
            for name, value in batch.items():
                batch[name] = value.to(self._device, non_blocking=True) if isinstance(value, Tensor) else value
        if self._mask is not None:
            batch["attention_mask"] = attention_mask_for(batch["attention_mask"], self._mask)
        for field in self._rules.keys() & batch.keys():
            batch[field] = restore(batch[field], self._rules[field], self._dtype)
        return batch


def _collate(
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


def _check_ranks(dp_rank: int, dp_world_size: int, packs_per_rank: int) -> None:
    if dp_world_size < 1 or packs_per_rank < 1:
        raise ValueError(f"dp_world_size and packs_per_rank are at least 1, got {dp_world_size} and {packs_per_rank}")
    if not 0 <= dp_rank < dp_world_size:
        raise ValueError(f"dp_rank must be one of 0..{dp_world_size - 1}, got {dp_rank}")


def _as_it_is(batch: Any) -> Any:
    return batch
