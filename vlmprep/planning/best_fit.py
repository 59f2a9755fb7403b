"""Best-fit decreasing: every sample, longest first, goes to the fullest pack that still takes it.

The classic of one-dimensional bin packing (Johnson, "Near-optimal bin packing algorithms", 1973), here with integer
lengths: packs are listed by the tokens they have free, and a tree over 0..pack_size finds the next list that is not
empty, so a sample costs O(log pack_size).

Two shelves of such lists are kept, for packs without and with media: on the first the room of a fake image counts as
taken, and a media sample that comes gets it back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.compiled import compiled
from vlmprep.planning.problem import PackingProblem

__all__ = ["best_fit_decreasing", "longest_first"]

_TRIES = 16
"""Packs looked at for one sample on a shelf, tightest first, where a further bound stands in the way."""


def best_fit_decreasing(problem: PackingProblem) -> NDArray[np.int32]:
    """Lay all samples into as few packs as best-fit decreasing needs.

    Returns:
        [n] int32, the pack of every sample, numbered from 0 in the order in which packs were opened.
    """
    return _best_fit(
        longest_first(problem),
        problem.lengths,
        problem.visual_tokens,
        problem.demands,
        problem.limits,
        problem.pack_size,
        problem.fake_tokens,
    )


def longest_first(problem: PackingProblem) -> NDArray[np.int64]:
    """Sample numbers by falling length; equal samples by rising number."""
    shortfall = problem.pack_size - problem.lengths
    # NumPy sorts 16-bit integers by radix, in linear time.
    keys = shortfall.astype(np.uint16) if problem.pack_size < 1 << 16 else shortfall
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


@compiled
def _best_fit(
    order: NDArray[np.int64],
    lengths: NDArray[np.int32],
    visual_tokens: NDArray[np.int32],
    demands: NDArray[np.int64],
    limits: NDArray[np.int64],
    pack_size: int,
    fake_tokens: int,
) -> NDArray[np.int32]:
    width = 1
    while width < pack_size + 1:
        width *= 2
    listed = np.zeros((2, 2 * width), np.bool_)  # [shelf, node of the tree]: any pack with so many tokens free?
    first = np.full((2, pack_size + 1), -1, np.int32)  # [shelf, free tokens] head of the list
    following = np.full(len(order), -1, np.int32)  # [pack] next in its list
    used = np.zeros((len(order), len(limits)), np.int64)
    pack_of = np.empty(len(order), np.int32)
    num_packs = 0
    for sample in order:
        length, media = lengths[sample], visual_tokens[sample] > 0
        pack, before, shelf, free, left = -1, -1, 0, 0, pack_size - length + 1
        for candidate_shelf in range(2):
            relief = fake_tokens if media and candidate_shelf == 0 else 0
            found, found_before, found_free = _tightest(
                listed[candidate_shelf],
                first[candidate_shelf],
                following,
                length - relief,
                used,
                demands[sample],
                limits,
            )
            if found >= 0 and found_free + relief - length < left:
                pack, before, shelf, free = found, found_before, candidate_shelf, found_free
                left = found_free + relief - length
        if pack < 0:
            pack, left = num_packs, pack_size - length - (0 if media else fake_tokens)
            num_packs += 1
        elif before >= 0:
            following[before] = following[pack]
        else:
            first[shelf, free] = following[pack]
            if following[pack] < 0:
                _unlist(listed[shelf], width, free)
        shelf = max(shelf, int(media))
        following[pack] = first[shelf, left]
        first[shelf, left] = pack
        _list(listed[shelf], width, left)
        used[pack] += demands[sample]
        pack_of[sample] = pack
    return pack_of


@compiled
def _tightest(
    listed: NDArray[np.bool_],
    first: NDArray[np.int32],
    following: NDArray[np.int32],
    needed: int,
    used: NDArray[np.int64],
    demand: NDArray[np.int64],
    limits: NDArray[np.int64],
) -> tuple[int, int, int]:
    """The pack of a shelf with the least room that still suffices: (pack, the one before it in its list, its room)."""
    width = len(listed) // 2
    tries = _TRIES
    free = _next_listed(listed, width, max(needed, 0))
    while free >= 0:
        before, pack = -1, first[free]
        while pack >= 0:
            if _within(used[pack], demand, limits):
                return pack, before, free
            tries -= 1
            if tries == 0:
                return -1, -1, 0
            before, pack = pack, following[pack]
        free = _next_listed(listed, width, free + 1)
    return -1, -1, 0


@compiled
def _within(used: NDArray[np.int64], demand: NDArray[np.int64], limits: NDArray[np.int64]) -> bool:
    for limit in range(len(limits)):  # noqa: SIM110 - numba knows no all() of a generator
        if used[limit] + demand[limit] > limits[limit]:
            return False
    return True


@compiled
def _next_listed(listed: NDArray[np.bool_], width: int, free: int) -> int:
    """The least value from `free` on that is listed, or -1."""
    if free >= width:
        return -1
    node = width + free
    while not listed[node]:
        while node & 1:  # a right child has no neighbour under the same parent
            node >>= 1
        if node == 0:
            return -1
        node += 1
        if node & (node - 1) == 0:  # past the last node of its level
            return -1
    while node < width:
        node = 2 * node if listed[2 * node] else 2 * node + 1
    return node - width


@compiled
def _list(listed: NDArray[np.bool_], width: int, free: int) -> None:
    node = width + free
    while node > 0 and not listed[node]:
        listed[node] = True
        node >>= 1


@compiled
def _unlist(listed: NDArray[np.bool_], width: int, free: int) -> None:
    node = width + free
    listed[node] = False
    node >>= 1
    while node > 0 and not (listed[2 * node] or listed[2 * node + 1]):
        listed[node] = False
        node >>= 1
