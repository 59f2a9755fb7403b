"""One rank's share of every step, in order, and the state that says where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from operator import index as as_int
from typing import Any

from torch.utils.data import Sampler

from vlmprep.runtime.dealing import deal
from vlmprep.runtime.epochs import Epochs
from vlmprep.runtime.place import Place
from vlmprep.shardformat.memory import give_back

__all__ = ["Share", "Step", "StepSampler", "Steps"]

_STATE_VERSION = 3
AHEAD_PACKS = 8
"""That a reader begins to read before it is asked for them, where reading waits for a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rank's share of a step."""

    pack_ids: tuple[int, ...]
    repeated: tuple[bool, ...]
    num_label_tokens: int
    """Of the whole step, over all ranks."""
    ahead: tuple[int, ...] = ()
    """Packs that whoever reads this step will be asked for next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which packs of a step are one rank's.

    Raises:
        ValueError: There is no such rank, or a step without packs.
    """

    dp_rank: int
    dp_world_size: int
    packs_per_rank: int

    def __post_init__(self) -> None:
        ranks = self.dp_world_size
        if ranks < 1 or self.packs_per_rank < 1:
            raise ValueError(f"dp_world_size and packs_per_rank are at least 1, got {ranks} and {self.packs_per_rank}")
        if not 0 <= self.dp_rank < ranks:
            raise ValueError(f"dp_rank must be one of 0..{ranks - 1}, got {self.dp_rank}")

    @property
    def global_batch(self) -> int:
        """Packs of a step over all ranks."""
        return self.dp_world_size * self.packs_per_rank

    @property
    def places(self) -> slice:
        """Where this rank's packs are in a step."""
        return slice(self.dp_rank * self.packs_per_rank, (self.dp_rank + 1) * self.packs_per_rank)


class StepSampler(Sampler[Step]):
    """What is left of the current epoch; iterating moves nothing here.

    `place` is where the next iteration begins. Loaders of other makes take it as their `sampler`, with `batch_size=None`, over
    a `StepReader`.

    Args:
        epochs: The order.
        share: This rank's.
        pack_set: Digest of what is read.
    """

    def __init__(self, epochs: Epochs, share: Share, pack_set: str) -> None:
        self.epochs, self.share = epochs, share
        self._identity = {"pack_set": pack_set, **epochs.policy()}
        self.place = Place()
        self.ahead_every = 0
        """Every so many steps the reader of a step gets another one; 0: nobody reads ahead."""

    def __len__(self) -> int:
        return self.epochs.num_steps(self.place, global_batch=self.share.global_batch)

    def __iter__(self) -> Steps:
        return Steps(self)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing changes where it is the current one.

        Raises:
            ValueError: There is no such epoch.
        """
        epoch = as_int(epoch)
        if epoch < 0:
            raise ValueError(f"epochs are counted from 0, got {epoch}")
        if epoch != self.place.epoch:
            self.place = self.epochs.start(epoch, global_batch=self.share.global_batch)

    def after(self, place: Place, num_steps: int) -> Place:
        """Where an epoch stands after more steps."""
        return self.epochs.after(place, num_steps, global_batch=self.share.global_batch)

    def state_of(self, place: Place) -> dict[str, Any]:
        """A place, and of which order."""
        return {"version": _STATE_VERSION, **self._identity, **place.to_json()}

    def place_of(self, state: dict[str, Any]) -> Place:
        """The place that a state tells.

        Raises:
            TypeError: It is no state.
            ValueError: It is a place in another order; the message says what differs.
        """
        if not isinstance(state, dict):
            raise TypeError(f"a loader's state is a dict, as state_dict() gives it, got {type(state).__name__}")
        if state.get("version") != _STATE_VERSION:
            raise ValueError(f"loader state has version {state.get('version')!r}, this release knows {_STATE_VERSION}")
        own = self._identity
        if missing := [name for name in (*own, "epoch", "stretches", "carried_packs") if name not in state]:
            raise ValueError(f"loader state lacks {', '.join(missing)}: save all of state_dict()")
        differences = [f"{name} was {state[name]!r}, is {own[name]!r}" for name in own if state[name] != own[name]]
        if differences:
            raise ValueError(f"loader state does not belong to this order: {'; '.join(differences)}")
        return Place.from_json(state)


class Steps(Iterator[Step]):
    """The steps from a place to the end of its epoch; a `Stateful` as torchdata knows it."""

    def __init__(self, sampler: StepSampler) -> None:
        self._sampler = sampler
        self._start(sampler.place)

    def __next__(self) -> Step:
        if self._done == self._num_steps:
            raise StopIteration
        step, last = self._done, self._done == self._num_steps - 1
        self._done += 1
        own = self._dealt.pack_ids[step].tolist()
        return Step(
            pack_ids=tuple(own),
            repeated=tuple(self._dealt.repeated.tolist()) if last else (False,) * len(own),
            num_label_tokens=int(self._dealt.num_label_tokens[step]),
            ahead=self._ahead(),
        )

    def _ahead(self) -> tuple[int, ...]:
        """Packs of the steps that the reader of the step just given out gets next."""
        every, share = self._sampler.ahead_every, self._sampler.share
        if not every:
            return ()
        steps = range(self._done - 1 + every, self._num_steps, every)[: max(1, AHEAD_PACKS // share.packs_per_rank)]
        return tuple(self._dealt.pack_ids[list(steps)].ravel().tolist())

    def state_dict(self) -> dict[str, Any]:
        """Where the steps that were given out end; `StepSampler.place_of` reads it, and so does a loader."""
        return self._sampler.state_of(self._sampler.after(self._from, self._done))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind what a state counts."""
        self._start(self._sampler.place_of(state))

    def _start(self, place: Place) -> None:
        epochs, share = self._sampler.epochs, self._sampler.share
        self._from, self._done = place, 0
        self._num_steps = epochs.num_steps(place, global_batch=share.global_batch)
        self._dealt = deal(
            epochs.pack_ids(place, global_batch=share.global_batch),
            partial(epochs.catalogue.column, "num_label_tokens"),
            consumed=place.consumed,
            num_steps=self._num_steps,
            global_batch=share.global_batch,
            share=share.places,
        )
        give_back()
