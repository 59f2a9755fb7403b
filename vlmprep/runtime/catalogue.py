"""What an order must know of the packs that it deals out: numbers and columns, over one pack set or the sets of a blend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.runtime.listing import Part
from vlmprep.schema.blocks import Integers, blocks, gather, place_type
from vlmprep.shardformat.index import PackIndex

__all__ = ["Catalogue"]


class Catalogue:
    """The packs that train, of all sets one after the other; a pack without any label is in no epoch.

    Args:
        indexes: Of each set.
        repeats: [sets] how often an epoch takes each set, nearly.
        with_shards: Whether epochs are shuffled by shard.
    """

    def __init__(self, indexes: Sequence[PackIndex], repeats: Sequence[float], *, with_shards: bool) -> None:
        self._indexes = tuple(indexes)
        self._firsts = np.cumsum([0, *(len(index) for index in indexes)])
        skipped = [
            first + np.flatnonzero(index.num_label_tokens == 0)
            for first, index in zip(self._firsts.tolist(), indexes, strict=False)
        ]
        self._passed = _before(np.concatenate(skipped)) if skipped else np.zeros(0, np.int64)
        self.parts = tuple(
            _part(index, left_out - first, repeat, with_shards=with_shards)
            for first, index, left_out, repeat in zip(self._firsts.tolist(), indexes, skipped, repeats, strict=False)
        )

    @property
    def num_packs(self) -> int:
        """Packs of an epoch."""
        return sum(part.per_epoch for part in self.parts)

    def pack_ids(self, packs: Integers) -> Integers:
        """[n] pack_ids of packs that are counted among those that train; int32, int64 beyond 2^31."""
        if not len(self._passed):
            return packs
        pack_ids = np.empty(len(packs), place_type(self._firsts[-1]))
        for block in blocks(len(packs)):
            pack_ids[block] = packs[block] + np.searchsorted(self._passed, packs[block], side="right")
        return pack_ids

    def column(self, name: str, pack_ids: Integers) -> NDArray[Any]:
        """[n] a column of the index."""
        columns = [getattr(index, name) for index in self._indexes]
        if len(columns) == 1:
            return gather(columns[0], pack_ids)
        values = np.empty(len(pack_ids), columns[0].dtype)
        for block in blocks(len(pack_ids)):
            sets = np.searchsorted(self._firsts, pack_ids[block], side="right") - 1
            for number, column in enumerate(columns):
                own = sets == number
                values[block][own] = column[pack_ids[block][own] - self._firsts[number]]
        return values


def _part(index: PackIndex, skipped: NDArray[np.int64], repeats: float, *, with_shards: bool) -> Part:
    num_packs = len(index) - len(skipped)
    return Part(
        num_packs=num_packs,
        per_epoch=round(repeats * num_packs),
        shards=np.delete(index.shard, skipped) if with_shards else None,
    )


def _before(skipped: NDArray[np.int64]) -> NDArray[np.int64]:
    """[k] for each pack_id that is left out, how many that train stand before it."""
    return skipped - np.arange(len(skipped))
