"""One rank's batches of a pack set, in an order that no rank, worker or restart changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from vlmprep.runtime.ahead import ready_ahead, side_of
from vlmprep.runtime.arguments import check_device, check_numbers, check_packs
from vlmprep.runtime.batch import Batch
from vlmprep.runtime.blend import catalogue_of
from vlmprep.runtime.collate import Collate
from vlmprep.runtime.epochs import Epochs
from vlmprep.runtime.forms import form_of
from vlmprep.runtime.order import GroupBy, Tail
from vlmprep.runtime.packs import Packs
from vlmprep.runtime.place import Place
from vlmprep.runtime.sampler import Share, StepSampler
from vlmprep.runtime.steps import PIXEL_TYPES, CollateChoice, CollateName, Finish, PixelType, StepReader, choose_collate
from vlmprep.runtime.threads import read_in_threads
from vlmprep.runtime.workers import ProcessLoader, WorkerKind, check_workers, collect_own, kind_for

__all__ = ["Loader", "WorkerKind"]


class Loader:
    """Iterates over the batches that are left of the current epoch, for one rank.

    Iterating counts: every batch that the loop receives is consumed, whatever workers have prefetched. Stopping in the
    middle and iterating again goes on where it stopped; at the end of an epoch the next one begins. Every rank gets the
    same number of steps.

        while loader.epoch < num_epochs:
            for batch in loader:
                ...

    Args:
        packs: The pack set, or a blend of several.
        dp_rank: This process's place among the data-parallel ranks.
        dp_world_size: Data-parallel ranks; a step consumes `dp_world_size * packs_per_rank` packs, the global batch.
        packs_per_rank: Rows of a batch.
        seed: Of the shuffled order; the same on all ranks.
        shuffle: False: pack_id order.
        group_by: Which packs share a step of a shuffled epoch: `cost` groups packs of nearly equal cost (the index's `cost`,
            what the plan made equal), so that no rank waits for a heavier one; steps stay shuffled. `none`: any packs.
        shuffle_shards: Shuffle within windows of this many shards or a few more, one window after the other, so that reads of a
            remote set stay near each other; see vlmprep.runtime.listing for how mixed an epoch then is. Default: the whole
            set is one window.
        tail: What becomes of packs that do not fill the last step of an epoch: `drop` leaves them out, `carry` opens the
            next epoch with them, `pad` fills the step with repeated packs whose labels are all -100. A batch without any
            label has no mean loss (NaN): with `pad`, sum the loss and divide by `batch.num_label_tokens_in_step`.
        collate: `neat`, `hf`, `documents` (see vlmprep.runtime.collate), `flat`, `thd` (vlmprep.runtime.joined), or a callable
            from a list of packs to a dict.
        attn_implementation: The model's attention backend.
        model_config: The model's config as transformers loads it (`model.config`); needed where a family's models differ in
            what their layers see, and the error says so.
        num_workers: Threads or processes that read and collate ahead; 0: the loop does, when asked.
        worker_kind: `threads`, which copy nothing between processes, or `processes`. Default: threads where packs are read,
            processes where they are made or decoded when they are asked for, and with a callable of your own as `collate`.
        prefetch_factor: Batches that each worker reads ahead; default: 2.
        persistent_workers: Keep worker processes from one epoch to the next; threads cost nothing to start.
        pixels: Type that stored pixels are restored to, here, on `device`; `stored` leaves them as uint8.
        device: Where the tensors go; default: they stay in host memory. Pixels are copied as they are stored, and restored there.
        pin_memory: Copy batches into page-locked memory first; default: where `device` is a GPU. Without one there is none.
        device_ahead: Batches that are copied and restored on a GPU while the model works on the one before; 0: none.
        max_length: Length that every row is padded to; default: the longest pack of the batch. The pack size of the set gives all
            batches one shape (`flat`: times `packs_per_rank`).
        document_alignment: Multiple that `thd` pads every document to; default: what the pack set was planned with.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: An argument is not offered, or the pack set does not fill one step.
    """

    def __init__(
        self,
        packs: Packs,
        *,
        dp_rank: int = 0,
        dp_world_size: int = 1,
        packs_per_rank: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        group_by: GroupBy = "cost",
        shuffle_shards: int | None = None,
        tail: Tail = "drop",
        collate: CollateName | Collate = "neat",
        attn_implementation: str = "sdpa",
        model_config: Any = None,
        num_workers: int = 0,
        worker_kind: WorkerKind | None = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pixels: PixelType = "float32",
        device: torch.device | str | None = None,
        pin_memory: bool | None = None,
        device_ahead: int = 1,
        max_length: int | None = None,
        document_alignment: int | None = None,
    ) -> None:
        if pixels not in PIXEL_TYPES:
            raise ValueError(f"pixels must be one of {', '.join(PIXEL_TYPES)}, got {pixels!r}")
        check_packs(packs)
        check_numbers(seed=(seed, None), num_workers=(num_workers, 0), device_ahead=(device_ahead, 0))
        check_numbers(dp_rank=(dp_rank, None), dp_world_size=(dp_world_size, None))
        check_numbers(packs_per_rank=(packs_per_rank, 1), max_length=(max_length, 1))
        check_workers(num_workers, worker_kind, prefetch_factor)
        share = Share(dp_rank=int(dp_rank), dp_world_size=int(dp_world_size), packs_per_rank=int(packs_per_rank))
        self.packs = packs
        epochs = Epochs(
            catalogue=catalogue_of(packs, with_shards=shuffle_shards is not None),
            seed=int(seed),
            shuffle=shuffle,
            shuffle_shards=shuffle_shards,
            group_by=group_by if shuffle else "none",
            tail=tail,
        )
        self.sampler = StepSampler(epochs, share, packs.manifest.digest)
        self.sampler.ahead_every = max(1, num_workers) if packs.remote else 0
        self._num_workers, self._prefetch_factor = num_workers, prefetch_factor
        self.worker_kind = worker_kind or kind_for(packs, collate)
        self._persistent = persistent_workers and num_workers > 0
        self._kept: ProcessLoader | None = None
        self._device = None if device is None else torch.device(device)
        check_device(self._device)
        on_gpu = self._device is not None and self._device.type == "cuda"
        self._pin_memory = (on_gpu if pin_memory is None else pin_memory) and torch.cuda.is_available()
        self._device_ahead = device_ahead
        form = form_of(packs.manifest.family, model_config)
        mask = attn_implementation if collate in ("neat", "hf") else None
        self.finish = Finish(packs.manifest.pixels, pixels, self._device, mask, form)
        choice = CollateChoice(
            collate=collate,
            backend=attn_implementation,
            packs_per_rank=packs_per_rank,
            max_length=max_length,
            document_alignment=document_alignment,
        )
        self.reader = StepReader(packs, choose_collate(packs, choice, form))
        if self.steps_per_epoch == 0 or (tail == "carry" and self.num_packs < self.global_batch):
            raise ValueError(
                f"the pack set has {self.num_packs} packs that train, a step takes {self.global_batch} "
                f"({dp_world_size} ranks x {packs_per_rank}): nothing is left with tail={tail!r}"
            )

    @property
    def num_packs(self) -> int:
        """Packs of an epoch: all but those without a label, whose samples were all refused when they were written."""
        return self.sampler.epochs.catalogue.num_packs

    @property
    def global_batch(self) -> int:
        """Packs that one step consumes over all ranks."""
        return self.sampler.share.global_batch

    @property
    def epoch(self) -> int:
        """The epoch that iterating goes on with."""
        return self.sampler.place.epoch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch; with `tail="carry"`, of the first one, and later ones may have one more."""
        return self.sampler.epochs.num_steps(Place(), global_batch=self.global_batch)

    @property
    def num_repeated_packs(self) -> int:
        """Packs without labels that will fill the last step of this epoch, over all ranks."""
        return self.sampler.epochs.num_repeats(self.sampler.place, global_batch=self.global_batch)

    def __len__(self) -> int:
        """Steps that iterating now would yield: those left of the current epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        start = place = self.sampler.place
        try:
            ready = ready_ahead(self._batches(), self.finish, side_of(self._device), self._device_ahead)
            for done, batch in enumerate(ready, 1):
                place = self.sampler.place = self.sampler.after(start, done)
                yield batch
        except Exception:
            self._kept = None  # of workers that died none must be asked again
            raise
        self.sampler.place = self.sampler.epochs.next_epoch(place)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing changes where it is the current one."""
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the training loop stands: a handful of numbers, the same on every rank.

        `stretches` are the global batches that the epoch was run with so far, and the packs that each consumed: one, and one
        more with every change. `before` is there after an epoch whose global batch changed, with `tail="carry"`.
        """
        return self.sampler.state_of(self.sampler.place)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where another loader stood.

        Ranks, workers and packs per rank may differ. With the same global batch the rest of the epoch follows step by
        step; with another one, exactly the packs that were not consumed follow, grouped anew where steps are grouped.

        Raises:
            ValueError: The state belongs to another pack set, seed, shuffle, grouping or tail; the message says which.
        """
        self.sampler.place = self.sampler.place_of(state)

    def _batches(self) -> Iterable[Batch]:
        if self._kept is not None:
            return self._kept
        if self._num_workers and self.worker_kind == "threads":
            return read_in_threads(
                self.reader.__getitem__,
                self.sampler,
                num_threads=self._num_workers,
                num_ahead=self._num_workers * (self._prefetch_factor or 2),
                pin_memory=self._pin_memory,
            )
        made = ProcessLoader(
            self.reader,
            batch_size=None,
            sampler=self.sampler,
            num_workers=self._num_workers,
            prefetch_factor=self._prefetch_factor,
            persistent_workers=self._persistent,
            pin_memory=self._pin_memory,
            collate_fn=_as_it_is,
            worker_init_fn=collect_own,
            generator=torch.Generator(),  # its own: iterating must not move the training's random numbers
        )
        self._kept = made if self._persistent else None
        return made


def _as_it_is(batch: Any) -> Any:
    return batch
