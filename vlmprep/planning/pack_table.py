"""Packs that trade samples, as a table through which compiled loops walk in order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.compiled import compiled, in_proportion

__all__ = ["PackTable", "lay_out", "read_off"]

_ROOM = 4
"""Places by which a pack may outgrow the number of samples it started with."""


class PackTable(NamedTuple):
    """One row for every pack, one for every sample; a pack's samples stand together, with free places behind them."""

    packs: NDArray[np.int64]
    """[num_packs + 1, 3 + num_bounds] first place, samples there, their weight, tokens, demands on further bounds."""
    items: NDArray[np.int32]
    """[places, 2 + num_bounds] sample number, weight, tokens, demands on further bounds."""


def lay_out(pack_of: NDArray[np.int32], demands: NDArray[np.int32], num_packs: int) -> PackTable:
    """The table of packs that are given by the pack of every sample.

    Args:
        pack_of: [n] int32.
        demands: [n, 1 + num_bounds] int32: weight, tokens, demands on further bounds.
        num_packs: Packs, also those without samples.
    """
    packs = np.zeros((num_packs + 1, 2 + demands.shape[1]), np.int64)
    np.cumsum(np.bincount(pack_of, minlength=num_packs) + _ROOM, out=packs[1:, 0])
    items = np.zeros((packs[-1, 0], 1 + demands.shape[1]), np.int32)
    in_proportion(_fill, len(pack_of))(packs, items, pack_of, demands)
    return PackTable(packs, items)


def read_off(table: PackTable, num_samples: int) -> NDArray[np.int32]:
    """[n] int32, the pack of every sample."""
    pack_of = np.empty(num_samples, np.int32)
    in_proportion(_read_off, len(pack_of))(table.packs, table.items, pack_of)
    return pack_of


@compiled
def _fill(
    packs: NDArray[np.int64], items: NDArray[np.int32], pack_of: NDArray[np.int32], demands: NDArray[np.int32]
) -> None:
    for sample in range(len(pack_of)):
        pack = pack_of[sample]
        place = packs[pack, 0] + packs[pack, 1]
        packs[pack, 1] += 1
        items[place, 0] = sample
        for column in range(demands.shape[1]):
            items[place, 1 + column] = demands[sample, column]
            packs[pack, 2 + column] += demands[sample, column]


@compiled
def _read_off(packs: NDArray[np.int64], items: NDArray[np.int32], pack_of: NDArray[np.int32]) -> None:
    for pack in range(len(packs) - 1):
        for place in range(packs[pack, 0], packs[pack, 0] + packs[pack, 1]):
            pack_of[items[place, 0]] = pack
