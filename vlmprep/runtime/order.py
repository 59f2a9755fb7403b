"""Which packs a step consumes: pure functions of (the epoch's packs, seed, epoch, global batch).

An epoch lists every pack once. Steps take `global_batch` packs at a time from wherever the epoch stands; rank `r` takes
its `packs_per_rank` from place `r * packs_per_rank` of the step. Neither ranks nor workers enter the order, so what is
left of an epoch can be dealt to any number of them.

    epoch order   | 7 2 9 0 | 5 1 8 3 | 6 4 . . |        10 packs, global batch 4
    drop            step 0    step 1                     6 and 4 are left out of this epoch
    pad             step 0    step 1    6 4 (7 2)        7 and 2 repeat, without labels
    carry           step 0    step 1                     6 and 4 open the next epoch:
                  | 6 4 0 8 | 3 9 7 1 | 2 5 ...

Where steps group packs by cost, the order depends on the global batch, and what was consumed under one is no beginning of the
order under another. So an epoch remembers its stretches, (global batch, packs consumed), and what is left is grouped anew:

    global batch 4  | 7 2 9 0 | 5 1 8 3 | 6 4            stopped after step 0
    global batch 3  | 7 2 9 0 | 1 3 8 | 6 4 5 |          the same packs are left, in steps of 3
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.blocks import Integers, place_type
from vlmprep.schema.step_order import step_order

__all__ = [
    "GroupBy",
    "StepPlaces",
    "Stretch",
    "Tail",
    "check_group_by",
    "check_tail",
    "consume",
    "grouped_places",
    "num_consumed",
    "num_repeats",
    "num_steps",
    "step_places",
]

Tail: TypeAlias = Literal["drop", "pad", "carry"]
"""What becomes of the packs that do not fill the last step of an epoch."""

GroupBy: TypeAlias = Literal["cost", "none"]
"""Which packs share a step of a shuffled epoch: those of nearly equal cost, or any."""


def check_tail(tail: str) -> None:
    """Refuse a policy that is not offered.

    Raises:
        ValueError: It is none of `Tail`.
    """
    if tail not in get_args(Tail):
        raise ValueError(f"tail must be one of {', '.join(get_args(Tail))}, got {tail!r}")


def check_group_by(group_by: str) -> None:
    """Refuse a policy that is not offered.

    Raises:
        ValueError: It is none of `GroupBy`.
    """
    if group_by not in get_args(GroupBy):
        raise ValueError(f"group_by must be one of {', '.join(get_args(GroupBy))}, got {group_by!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of an epoch that was run with one global batch."""

    global_batch: int
    """Packs per step."""
    consumed_packs: int
    """Packs that its steps took."""


def num_consumed(stretches: Sequence[Stretch]) -> int:
    """Packs of the epoch that were taken so far."""
    return sum(stretch.consumed_packs for stretch in stretches)


def consume(stretches: tuple[Stretch, ...], num_packs: int, *, global_batch: int) -> tuple[Stretch, ...]:
    """The stretches of an epoch after its next steps.

    Args:
        stretches: Those before.
        num_packs: Packs that the steps took.
        global_batch: Packs per step.
    """
    if not num_packs:
        return stretches
    if stretches and stretches[-1].global_batch == global_batch:
        num_packs += stretches[-1].consumed_packs
        stretches = stretches[:-1]
    return (*stretches, Stretch(global_batch=global_batch, consumed_packs=num_packs))


def grouped_places(
    work: NDArray[Any],
    *key: int,
    stretches: Sequence[Stretch],
    global_batch: int,
    windows: NDArray[np.int64] | None = None,
) -> Integers:
    """Every place of an epoch's list once: those consumed, as they were consumed, then the rest in steps of nearly equal work.

    Args:
        work: [num_packs] what a step's packs are to be equal in, in the order of the epoch's list.
        key: Any integers (`seed, epoch`), of the order of the steps.
        stretches: Of the epoch so far.
        global_batch: Packs per step from here on.
        windows: [num_packs] rising; packs leave their window only to fill a step that two windows share. None: one window.

    Returns:
        [num_packs] int32, int64 beyond 2^31 packs. The last places, which fill no step, stay where they are.
    """
    if not stretches or stretches[-1].global_batch != global_batch:
        stretches = (*stretches, Stretch(global_batch=global_batch, consumed_packs=0))
    if len(stretches) == 1:
        return _steps_in_windows(work, windows, key, stretches[0].global_batch)
    order: list[Integers] = []
    left = rest = np.arange(len(work), dtype=place_type(len(work)))
    for stretch in stretches:
        within = None if windows is None else windows[left]
        places = _steps_in_windows(work[left], within, key, stretch.global_batch)
        taken, not_taken = np.split(places, [stretch.consumed_packs])
        order.append(left[taken])
        left, rest = left[np.sort(not_taken)], left[not_taken]
    return np.concatenate([*order, rest])


def _steps_in_windows(
    work: NDArray[Any], windows: NDArray[np.int64] | None, key: tuple[int, ...], global_batch: int
) -> Integers:
    """`step_order` of each window by itself; windows end where steps do."""
    if windows is None or not len(windows) or windows[0] == windows[-1]:
        return step_order(work, *key, global_batch=global_batch)
    order = np.empty(len(work), place_type(len(work)))
    for window, (start, stop) in enumerate(_window_borders(windows, global_batch)):
        order[start:stop] = step_order(work[start:stop], *key, window, global_batch=global_batch)
        order[start:stop] += start
    return order


def _window_borders(windows: NDArray[np.int64], global_batch: int) -> Iterator[tuple[int, int]]:
    ends = np.flatnonzero(np.diff(windows)) + 1
    ends = ends // global_batch * global_batch
    borders = np.unique(np.concatenate([[0], ends, [len(windows)]])).tolist()
    yield from pairwise(borders)


def num_steps(num_packs: int, *, consumed: int, global_batch: int, tail: Tail) -> int:
    """Steps that the rest of an epoch makes.

    Args:
        num_packs: Packs of the epoch.
        consumed: Packs of the epoch that earlier steps took.
        global_batch: Packs per step, over all ranks.
        tail: What becomes of the last ones.
    """
    rest = max(num_packs - consumed, 0)
    return -(-rest // global_batch) if tail == "pad" else rest // global_batch


def num_repeats(num_packs: int, *, consumed: int, global_batch: int, tail: Tail) -> int:
    """Packs without labels that fill the last step of the rest of an epoch, over all ranks."""
    return -max(num_packs - consumed, 0) % global_batch if tail == "pad" else 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepPlaces:
    """The packs of one step over all ranks."""

    pack_ids: Integers
    """[global_batch]."""
    repeated: NDArray[np.bool_]
    """[global_batch]: the pack only fills the step; its labels must not count."""


def step_places(order: Integers, *, consumed: int, step: int, global_batch: int) -> StepPlaces:
    """The packs of one step of the rest of an epoch.

    Args:
        order: [num_packs] the epoch's order.
        consumed: Packs of the epoch that were taken before step 0.
        step: 0-based, counted from `consumed`.
        global_batch: Packs per step.
    """
    places = consumed + step * global_batch + np.arange(global_batch)
    return StepPlaces(pack_ids=order[places % len(order)], repeated=places >= len(order))
