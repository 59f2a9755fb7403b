"""One rank's batches of a pack set, in an order that no rank, worker or restart changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from vlmprep.runtime.batch import Batch
from vlmprep.runtime.collate import Collate
from vlmprep.runtime.forms import form_of
from vlmprep.runtime.order import (
    GroupBy,
    Stretch,
    Tail,
    check_group_by,
    check_tail,
    consume,
    epoch_order,
    grouped_order,
    num_consumed,
    num_repeats,
    num_steps,
    step_places,
)
from vlmprep.runtime.packset import PackSet
from vlmprep.runtime.steps import PIXEL_TYPES, Finish, PixelType, Step, StepReader, choose_collate

__all__ = ["Loader"]

_STATE_VERSION = 2
_IDENTITY = ("pack_set", "seed", "shuffle", "group_by", "tail")
"""Entries of a state that say which order it is a place in."""


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
        group_by: Which packs share a step of a shuffled epoch: `cost` groups packs of nearly equal cost (the index's `cost`,
            what the plan made equal), so that no rank waits for a heavier one; steps stay shuffled. `none`: any packs.
        tail: What becomes of packs that do not fill the last step of an epoch: `drop` leaves them out, `pad` fills the
            step with repeated packs whose labels are all -100. A batch without any label has no mean loss (NaN): with
            `pad`, sum the loss and divide by `batch.num_label_tokens_in_step`.
        collate: `neat`, `hf`, `documents` (see vlmprep.runtime.collate), or a callable from a list of packs to a dict.
        attn_implementation: The model's attention backend.
        model_config: The model's config as transformers loads it (`model.config`); needed where a family's models differ in
            what their layers see, and the error says so.
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
        group_by: GroupBy = "cost",
        tail: Tail = "drop",
        collate: Literal["neat", "hf", "documents"] | Collate = "neat",
        attn_implementation: str = "sdpa",
        model_config: Any = None,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pixels: PixelType = "float32",
        device: torch.device | str | None = None,
        max_length: int | None = None,
    ) -> None:
        check_tail(tail)
        check_group_by(group_by)
        if pixels not in PIXEL_TYPES:
            raise ValueError(f"pixels must be one of {', '.join(PIXEL_TYPES)}, got {pixels!r}")
        _check_ranks(dp_rank, dp_world_size, packs_per_rank)
        self.packs = packs
        self.dp_rank, self.dp_world_size, self.packs_per_rank = dp_rank, dp_world_size, packs_per_rank
        self.seed, self.shuffle, self.tail = seed, shuffle, tail
        self.group_by: GroupBy = group_by if shuffle else "none"
        self.epoch = 0
        self._stretches: tuple[Stretch, ...] = ()
        self._num_workers, self._prefetch_factor = num_workers, prefetch_factor
        self._device = None if device is None else torch.device(device)
        form = form_of(packs.manifest.family, model_config)
        mask = attn_implementation if collate in ("neat", "hf") else None
        self._finish = Finish(packs.manifest.pixels, pixels, self._device, mask, form)
        self._labelled = np.flatnonzero(packs.index.num_label_tokens > 0)
        self._collate = choose_collate(packs, collate, attn_implementation, packs_per_rank, max_length, form)
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"the pack set has {self.num_packs} packs that train, a step takes {self.global_batch} "
                f"({dp_world_size} ranks x {packs_per_rank}): nothing is left with tail='drop'"
            )

    @property
    def num_packs(self) -> int:
        """Packs of an epoch: all but those without a label, whose samples were all refused when they were written."""
        return len(self._labelled)

    @property
    def global_batch(self) -> int:
        """Packs that one step consumes over all ranks."""
        return self.dp_world_size * self.packs_per_rank

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return num_steps(self.num_packs, consumed=0, global_batch=self.global_batch, tail=self.tail)

    @property
    def num_repeated_packs(self) -> int:
        """Packs without labels that will fill the last step of this epoch, over all ranks."""
        return num_repeats(self.num_packs, consumed=self._consumed, global_batch=self.global_batch, tail=self.tail)

    def __len__(self) -> int:
        """Steps that iterating now would yield: those left of the current epoch."""
        return num_steps(self.num_packs, consumed=self._consumed, global_batch=self.global_batch, tail=self.tail)

    def __iter__(self) -> Iterator[Batch]:
        epoch, before = self.epoch, self._stretches
        left = self.num_packs - self._consumed
        for done, read in enumerate(self._batches(), 1):
            batch = self._finish(read)
            taken = min(done * self.global_batch, left)
            self.epoch, self._stretches = epoch, consume(before, taken, global_batch=self.global_batch)
            yield batch
        self.epoch, self._stretches = epoch + 1, ()

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing changes where it is the current one."""
        if epoch != self.epoch:
            self.epoch, self._stretches = epoch, ()

    def state_dict(self) -> dict[str, Any]:
        """Where the training loop stands: a handful of numbers, the same on every rank.

        `stretches` are the global batches that the epoch was run with so far, and the packs that each consumed: one, and one
        more with every change.
        """
        return {
            "version": _STATE_VERSION,
            **self._identity(),
            "epoch": self.epoch,
            "consumed_packs": self._consumed,
            "stretches": [[stretch.global_batch, stretch.consumed_packs] for stretch in self._stretches],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader stood.

        Ranks, workers and packs per rank may differ. With the same global batch the rest of the epoch follows step by
        step; with another one, exactly the packs that were not consumed follow, grouped anew where steps are grouped.

        Raises:
            ValueError: The state belongs to another pack set, seed, shuffle, grouping or tail; the message says which.
        """
        if state.get("version") != _STATE_VERSION:
            raise ValueError(f"loader state has version {state.get('version')!r}, this release knows {_STATE_VERSION}")
        own = self._identity()
        differences = [
            f"{name} was {state[name]!r}, is {own[name]!r}" for name in _IDENTITY if state[name] != own[name]
        ]
        if differences:
            raise ValueError(f"loader state does not belong to this order: {'; '.join(differences)}")
        self.epoch = int(state["epoch"])
        self._stretches = tuple(
            Stretch(global_batch=int(batch), consumed_packs=int(packs)) for batch, packs in state["stretches"]
        )

    @property
    def _consumed(self) -> int:
        return num_consumed(self._stretches)

    def _identity(self) -> dict[str, Any]:
        return {
            "pack_set": self.packs.manifest.digest,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "group_by": self.group_by,
            "tail": self.tail,
        }

    def _batches(self) -> DataLoader[Batch]:
        return DataLoader(
            StepReader(self.packs, self._collate),
            batch_size=None,
            sampler=self._steps(),
            num_workers=self._num_workers,
            prefetch_factor=self._prefetch_factor,
            pin_memory=self._device is not None and self._device.type == "cuda",
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # its own: iterating must not move the training's random numbers
        )

    def _order(self) -> NDArray[np.int64]:
        """[num_packs] pack_ids in the order of the epoch, what was consumed first."""
        if self.group_by == "none":
            return self._labelled[epoch_order(self.num_packs, seed=self.seed, epoch=self.epoch, shuffle=self.shuffle)]
        places = grouped_order(
            self.packs.index.cost[self._labelled],
            seed=self.seed,
            epoch=self.epoch,
            stretches=self._stretches,
            global_batch=self.global_batch,
        )
        return self._labelled[places]

    def _steps(self) -> Iterator[Step]:
        """This rank's share of every step that is left of the epoch."""
        order, consumed = self._order(), self._consumed
        own = slice(self.dp_rank * self.packs_per_rank, (self.dp_rank + 1) * self.packs_per_rank)
        for step in range(len(self)):
            places = step_places(order, consumed=consumed, step=step, global_batch=self.global_batch)
            counted = places.pack_ids[~places.repeated]
            yield Step(
                pack_ids=tuple(places.pack_ids[own].tolist()),
                repeated=tuple(places.repeated[own].tolist()),
                num_label_tokens=int(self.packs.index.num_label_tokens[counted].sum(dtype=np.int64)),
            )


def _check_ranks(dp_rank: int, dp_world_size: int, packs_per_rank: int) -> None:
    if dp_world_size < 1 or packs_per_rank < 1:
        raise ValueError(f"dp_world_size and packs_per_rank are at least 1, got {dp_world_size} and {packs_per_rank}")
    if not 0 <= dp_rank < dp_world_size:
        raise ValueError(f"dp_rank must be one of 0..{dp_world_size - 1}, got {dp_rank}")


def _as_it_is(batch: Any) -> Any:
    return batch
