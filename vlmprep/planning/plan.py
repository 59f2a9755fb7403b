"""The plan: which samples make which pack, in which order, and how full and how equal the packs are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.keyed_order import keyed_order
from vlmprep.schema.step_order import step_order

__all__ = ["PackPlan", "Work", "straggler_ratio"]

Work: TypeAlias = Literal["vt", "tokens", "cost"]
"""What packs can be compared in: visual tokens, all tokens, predicted cost."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PackPlan:
    """Samples laid into packs, as two flat arrays: pack `k` holds `samples[offsets[k]:offsets[k + 1]]`.

    Packs stand in a seeded shuffle, so reading them in order is as fair a mix as any other order. Inside a pack,
    samples stand by rising sample number.
    """

    pack_size: int
    """Tokens that a pack may hold."""
    samples: NDArray[np.int64]
    """[num_samples] sample numbers, pack after pack."""
    offsets: NDArray[np.int64]
    """[num_packs + 1] where each pack starts in `samples`."""
    pack_tokens: NDArray[np.int64]
    """[num_packs] tokens of the samples of each pack, without a fake image's."""
    pack_visual_tokens: NDArray[np.int64]
    """[num_packs] visual tokens of the samples of each pack."""
    pack_costs: NDArray[np.float64]
    """[num_packs] predicted work; the visual tokens where the planner was given no costs."""
    needs_fake: NDArray[np.bool_]
    """[num_packs] True where no sample of the pack has visual tokens."""

    @property
    def num_packs(self) -> int:
        """Packs in the plan."""
        return len(self.offsets) - 1

    @property
    def min_packs(self) -> int:
        """Packs that the same tokens would need if samples could be cut anywhere: a bound from below."""
        return -(-int(self.pack_tokens.sum()) // self.pack_size)

    @property
    def fill(self) -> float:
        """Share of the packs' tokens that samples take; 0 for a plan without packs."""
        return int(self.pack_tokens.sum()) / (self.pack_size * self.num_packs) if self.num_packs else 0.0

    def first(self, num_packs: int) -> PackPlan:
        """The same plan with no more than its first packs: a fair cut, because packs stand in a shuffle."""
        if num_packs >= self.num_packs:
            return self
        return replace(
            self,
            samples=self.samples[: self.offsets[num_packs]],
            offsets=self.offsets[: num_packs + 1],
            pack_tokens=self.pack_tokens[:num_packs],
            pack_visual_tokens=self.pack_visual_tokens[:num_packs],
            pack_costs=self.pack_costs[:num_packs],
            needs_fake=self.needs_fake[:num_packs],
        )

    @cached_property
    def bins(self) -> list[NDArray[np.int64]]:
        """Sample numbers of every pack, in pack order; made on first use."""
        return np.split(self.samples, self.offsets[1:-1]) if self.num_packs else []

    def straggler_ratio(
        self,
        dp_world_size: int,
        *,
        what: Work = "vt",
        group_by: Work | Literal["none"] = "none",
        seed: int = 0,
    ) -> float:
        """How much longer a step takes than with perfectly equal ranks, over a shuffled epoch of one pack a rank.

        Args:
            dp_world_size: Data-parallel ranks.
            what: The work to compare: visual tokens, all tokens, or predicted cost.
            group_by: The work that the packs of a step are nearly equal in, as the loader groups them; `none`: any packs
                share a step.
            seed: Of the epoch's shuffle.

        Returns:
            Mean over the steps of (max over ranks / mean over ranks); 1.0 is perfect.
        """
        grouping = None if group_by == "none" else self._work(group_by)
        return straggler_ratio(self._work(what), dp_world_size, group_by=grouping, seed=seed)

    def _work(self, what: Work) -> NDArray[Any]:
        works = {"vt": self.pack_visual_tokens, "tokens": self.pack_tokens, "cost": self.pack_costs}
        return works[what]


def straggler_ratio(
    work: NDArray[Any], dp_world_size: int, *, group_by: NDArray[Any] | None = None, seed: int = 0
) -> float:
    """Mean over the steps of a shuffled epoch of max over ranks / mean over ranks.

    A step without any work counts as 1. The last packs that make no whole step are left out, as a loader does; if that
    would leave nothing, the ranks without a pack are idle and count as 0.

    Args:
        work: [num_packs] of any unit.
        dp_world_size: Data-parallel ranks.
        group_by: [num_packs] the work that the packs of a step are nearly equal in (`vlmprep.schema.step_order`); None:
            any packs share a step.
        seed: Of the epoch's shuffle.

    Returns:
        At least 1.0.
    """
    if dp_world_size < 1:
        raise ValueError(f"dp_world_size must be at least 1, got {dp_world_size}")
    if not len(work):
        return 1.0
    order = keyed_order(len(work), seed)
    if group_by is not None:
        order = order[step_order(group_by[order], seed, global_batch=dp_world_size)]
    shuffled = work[order].astype(np.float64)
    if len(work) < dp_world_size:
        shuffled = np.concatenate([shuffled, np.zeros(dp_world_size - len(work))])
    num_steps = len(shuffled) // dp_world_size
    steps = shuffled[: num_steps * dp_world_size].reshape(num_steps, dp_world_size)
    mean = steps.mean(axis=1)
    ratio = np.divide(steps.max(axis=1), mean, out=np.ones(num_steps), where=mean > 0)
    return float(ratio.mean())
