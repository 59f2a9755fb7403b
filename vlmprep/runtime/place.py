"""Where a training run stands in an endless sequence of epochs, in a handful of numbers.

With `tail="carry"` the packs that fill no step of an epoch open the next one. Which packs those are follows from numbers too:
steps are assembled from the front, so what is left of an epoch is the end of its list, and an epoch that was run with several
global batches hands its stretches on to the next epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlmprep.runtime.order import Stretch, consume, num_consumed

__all__ = ["Place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in the sequence of epochs."""

    epoch: int = 0
    stretches: tuple[Stretch, ...] = ()
    """Of the epoch so far."""
    carried: int = 0
    """Packs of the epoch before that open this one."""
    before: Place | None = None
    """Where the epoch before ended, if the packs that it left are not simply the last of its list; else None."""

    @property
    def consumed(self) -> int:
        """Packs of the epoch that were taken so far, carried ones included."""
        return num_consumed(self.stretches)

    def after(self, num_packs: int, *, global_batch: int) -> Place:
        """The place after steps that took `num_packs` more packs of the epoch."""
        stretches = consume(self.stretches, num_packs, global_batch=global_batch)
        return Place(epoch=self.epoch, stretches=stretches, carried=self.carried, before=self.before)

    def next_epoch(self, num_packs: int, *, carry: bool) -> Place:
        """The start of the epoch that follows.

        Args:
            num_packs: Packs of this epoch, without those carried into it.
            carry: Whether what is left of this epoch opens the next one.
        """
        if not carry:
            return Place(epoch=self.epoch + 1)
        left = self.carried + num_packs - self.consumed
        at_the_end = len(self.stretches) == 1 and left < self.stretches[0].global_batch
        return Place(epoch=self.epoch + 1, carried=left, before=None if at_the_end or not left else self)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        value: dict[str, Any] = {
            "epoch": self.epoch,
            "consumed_packs": self.consumed,
            "stretches": [[stretch.global_batch, stretch.consumed_packs] for stretch in self.stretches],
            "carried_packs": self.carried,
        }
        return {**value, "before": self.before.to_json()} if self.before else value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Place:
        """The place that `to_json` wrote down."""
        before = value.get("before")
        return cls(
            epoch=int(value["epoch"]),
            stretches=tuple(Stretch(global_batch=int(g), consumed_packs=int(n)) for g, n in value["stretches"]),
            carried=int(value["carried_packs"]),
            before=None if before is None else cls.from_json(before),
        )
