"""The order of every epoch, and where it goes on: what a loader asks, with everything that the order depends on in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.runtime.catalogue import Catalogue
from vlmprep.runtime.listing import list_epoch
from vlmprep.runtime.order import GroupBy, Tail, check_group_by, check_tail, grouped_places, num_repeats, num_steps
from vlmprep.runtime.place import Place
from vlmprep.schema.blocks import Integers, gather

__all__ = ["Epochs"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Epochs:
    """All epochs of a run; nothing here knows of ranks or workers.

    Raises:
        ValueError: A policy is not offered.
    """

    catalogue: Catalogue
    seed: int
    shuffle: bool
    shuffle_shards: int | None
    group_by: GroupBy
    tail: Tail

    def __post_init__(self) -> None:
        check_tail(self.tail)
        check_group_by(self.group_by)
        if self.shuffle_shards is not None and self.shuffle_shards < 1:
            raise ValueError(f"shuffle_shards must be at least 1, got {self.shuffle_shards}")

    def policy(self) -> dict[str, Any]:
        """What the order depends on beside the packs."""
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "shuffle_shards": self.shuffle_shards,
            "group_by": self.group_by,
            "tail": self.tail,
        }

    def start(self, epoch: int, *, global_batch: int) -> Place:
        """The start of an epoch, all earlier ones having been run with this global batch."""
        carried = epoch * self.catalogue.num_packs % global_batch if self.tail == "carry" else 0
        return Place(epoch=epoch, carried=carried)

    def after(self, place: Place, num_done: int, *, global_batch: int) -> Place:
        """Where an epoch stands when `num_done` more steps are done."""
        left = self.num_packs(place) - place.consumed
        return place.after(min(num_done * global_batch, left), global_batch=global_batch)

    def next_epoch(self, place: Place) -> Place:
        """The start of the epoch that follows."""
        return place.next_epoch(self.catalogue.num_packs, carry=self.tail == "carry")

    def num_packs(self, place: Place) -> int:
        """Packs of an epoch, those carried into it included."""
        return place.carried + self.catalogue.num_packs

    def num_steps(self, place: Place, *, global_batch: int) -> int:
        """Steps that are left of an epoch."""
        return num_steps(self.num_packs(place), consumed=place.consumed, global_batch=global_batch, tail=self.tail)

    def num_repeats(self, place: Place, *, global_batch: int) -> int:
        """Packs without labels that will fill the last step of an epoch, over all ranks."""
        return num_repeats(self.num_packs(place), consumed=place.consumed, global_batch=global_batch, tail=self.tail)

    def pack_ids(self, place: Place, *, global_batch: int) -> Integers:
        """[num_packs] pack_ids in the order of an epoch: what was consumed, as it was consumed, then the rest."""
        listed, windows = self._listed(place.epoch)
        if place.carried:
            listed = np.concatenate([self._carried(place), listed])
            windows = None if windows is None else np.concatenate([np.zeros(place.carried, np.int64), windows])
        if self.group_by == "none":
            return listed
        places = grouped_places(
            self.catalogue.column("cost", listed),
            self.seed,
            place.epoch,
            stretches=place.stretches,
            global_batch=global_batch,
            windows=windows,
        )
        return gather(listed, places)

    def _listed(self, epoch: int) -> tuple[Integers, NDArray[np.int64] | None]:
        """[num_packs] pack_ids as an epoch lists them, before steps are assembled; and their windows."""
        listing = list_epoch(
            self.catalogue.parts,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            shuffle_shards=self.shuffle_shards,
        )
        return self.catalogue.pack_ids(listing.packs), listing.windows

    def _carried(self, place: Place) -> Integers:
        """[carried] pack_ids that the epoch before left."""
        if place.before is None:
            left, _ = self._listed(place.epoch - 1)
        else:
            left = self.pack_ids(place.before, global_batch=place.before.stretches[-1].global_batch)
        return left[-place.carried :]
