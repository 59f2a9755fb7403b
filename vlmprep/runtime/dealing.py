"""One rank's share of the rest of an epoch, cut out of the order of everything, which need not stay in memory.

    epoch order     | 7 2 | 9 0 | 5 1 | 8 3 | 6 4 |        global batch 4, 2 packs a rank
    rank 0 keeps    | 7 2 |     | 5 1 |     | 6 4 |        and of every step the label tokens of all ranks

At ten million packs the order is 40 MB in every rank's process; its share among 8 is 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.runtime.order import step_places
from vlmprep.schema.blocks import Integers

__all__ = ["Dealt", "deal"]

_AT_A_TIME = 1 << 18
"""Packs whose label tokens are looked up at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dealt:
    """What one rank gets."""

    pack_ids: Integers
    """[num_steps, packs_per_rank]."""
    num_label_tokens: Integers
    """[num_steps] of the whole step, over all ranks; of the smallest type that holds them."""
    repeated: NDArray[np.bool_]
    """[packs_per_rank] of the last step; nothing is repeated before."""


def deal(
    order: Integers,
    num_label_tokens: Callable[[Integers], NDArray[Any]],
    *,
    consumed: int,
    num_steps: int,
    global_batch: int,
    share: slice,
) -> Dealt:
    """Cut out a rank's share.

    Args:
        order: [num_packs] the epoch's order.
        num_label_tokens: Those of packs.
        consumed: Packs of the epoch that were taken before.
        num_steps: That are left; only the last may be short of packs.
        global_batch: Packs of a step.
        share: Places of a step that are the rank's.
    """
    whole = min((len(order) - consumed) // global_batch, num_steps)
    steps = order[consumed : consumed + whole * global_batch].reshape(whole, global_batch)
    own, repeated = [steps[:, share].copy()], np.zeros(global_batch, np.bool_)  # a copy: a view would keep the order
    sums = [_sums(steps, num_label_tokens)]
    for step in range(whole, num_steps):
        last = step_places(order, consumed=consumed, step=step, global_batch=global_batch)
        own.append(last.pack_ids[None, share])
        sums.append(num_label_tokens(last.pack_ids[~last.repeated]).sum(dtype=np.int64)[None])
        repeated = last.repeated
    labels = np.concatenate(sums)
    labels = labels.astype(np.min_scalar_type(labels.max(initial=0)))
    return Dealt(pack_ids=np.concatenate(own), num_label_tokens=labels, repeated=repeated[share])


def _sums(steps: Integers, num_label_tokens: Callable[[Integers], NDArray[Any]]) -> NDArray[np.int64]:
    """[num_steps] label tokens of [num_steps, global_batch] packs."""
    sums = np.empty(len(steps), np.int64)
    block = max(1, _AT_A_TIME // max(steps.shape[1], 1))
    for start in range(0, len(steps), block):
        part = steps[start : start + block]
        sums[start : start + block] = num_label_tokens(part.ravel()).reshape(part.shape).sum(axis=1, dtype=np.int64)
    return sums
