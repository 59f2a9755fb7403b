"""Longest first, each to the emptiest pack: packs of nearly equal tokens, whether they overflow or not.

Graham's LPT rule for machine scheduling ("Bounds on multiprocessing timing anomalies", 1969); as bin packing it is worst-fit
decreasing over a fixed number of packs. It minds one dimension only. What overflows and how work is spread is left to the
exchanges that follow, for which packs of equal tokens and mixed lengths are the best start we know.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.compiled import compiled, in_proportion
from vlmprep.planning.problem import PackingProblem

__all__ = ["longest_first", "longest_to_emptiest"]


def longest_first(problem: PackingProblem) -> NDArray[np.int64]:
    """Sample numbers by falling length; equal samples by rising number."""
    shortfall = problem.pack_size - problem.lengths
    # NumPy sorts 16-bit integers by radix, in linear time.
    keys = shortfall.astype(np.uint16) if problem.pack_size < 1 << 16 else shortfall
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def longest_to_emptiest(problem: PackingProblem, num_packs: int) -> NDArray[np.int32]:
    """Spread all samples over a fixed number of packs.

    Returns:
        [n] int32, the pack of every sample.
    """
    heap = np.arange(num_packs, dtype=np.int32)  # packs, the emptiest at the root
    pack_of = np.empty(problem.num_samples, np.int32)
    in_proportion(_spread, problem.num_samples)(
        longest_first(problem), problem.lengths, heap, np.zeros(num_packs, np.int64), pack_of
    )
    return pack_of


@compiled
def _spread(
    order: NDArray[np.int64],
    lengths: NDArray[np.int32],
    heap: NDArray[np.int32],
    tokens: NDArray[np.int64],
    pack_of: NDArray[np.int32],
) -> None:
    num_packs = len(heap)
    for sample in order:
        emptiest = heap[0]
        pack_of[sample] = emptiest
        tokens[emptiest] += lengths[sample]
        node, child = 0, 1
        while child < num_packs:
            if child + 1 < num_packs and tokens[heap[child + 1]] < tokens[heap[child]]:
                child += 1
            if tokens[heap[child]] >= tokens[emptiest]:
                break
            heap[node] = heap[child]
            node, child = child, 2 * child + 1
        heap[node] = emptiest
