"""Best-fit decreasing: every sample, longest first, goes to the fullest pack that still takes it.

The classic of one-dimensional bin packing (Johnson, "Near-optimal bin packing algorithms", 1973), here with integer
lengths: packs are listed by the tokens they have free, and a tree over 0..pack_size finds the next list that is not
empty, so a sample costs O(log pack_size).

Two shelves of such lists are kept, for packs without and with media: on the first the room of a fake image counts as
taken, and a media sample that comes gets it back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.compiled import compiled, compiled_inner, in_proportion
from vlmprep.planning.longest_first import longest_first
from vlmprep.planning.problem import PackingProblem

__all__ = ["best_fit_decreasing"]

_TRIES = 16
"""Packs looked at for one sample on a shelf, tightest first, where a further bound stands in the way."""

# Shelves. numba compiles functions anew for every literal number that they are called with; these are none.
_WITHOUT_MEDIA: Any = np.int64(0)
_WITH_MEDIA: Any = np.int64(1)


def best_fit_decreasing(problem: PackingProblem, pack_of: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """Lay samples into as few packs as best-fit decreasing needs.

    Args:
        problem: The samples and bounds.
        pack_of: [n] int32, packs that are already there, numbered without gaps and within the bounds, and -1 for samples
            that have none yet; None for an empty start. Not changed.

    Returns:
        [n] int32, the pack of every sample; new packs are numbered in the order in which they are opened.
    """
    order = longest_first(problem)
    if pack_of is None:
        pack_of = np.full(problem.num_samples, -1, np.int32)
    else:
        order = order[pack_of[order] < 0]
        pack_of = pack_of.copy()
    shelves, num_packs = _shelves(problem, pack_of)
    in_proportion(_best_fit, problem.num_samples)(
        order,
        pack_of,
        num_packs,
        problem.lengths,
        problem.visual_tokens,
        problem.demands,
        problem.limits,
        problem.pack_size,
        problem.fake_tokens,
        shelves,
    )
    return pack_of


class _Shelves(NamedTuple):
    """Packs without (0) and with media (1), listed by the tokens they have free."""

    listed: NDArray[np.bool_]
    """[2, nodes] a tree on each shelf: is any pack listed with so many free tokens? The leaves are its second half."""
    first: NDArray[np.int32]
    """[2, pack_size + 1] head of the list of packs with so many free tokens, or -1."""
    following: NDArray[np.int32]
    """[num_packs] next pack of its list, or -1."""
    used: NDArray[np.int64]
    """[num_packs, num_limits] what packs hold of the further bounds."""


def _shelves(problem: PackingProblem, pack_of: NDArray[np.int32]) -> tuple[_Shelves, int]:
    """Shelves with the packs that are already there and room for as many as may come; the packs there are."""
    placed = np.flatnonzero(pack_of >= 0)
    packs = pack_of[placed]
    num_packs = int(packs.max(initial=-1)) + 1
    most_packs = num_packs + problem.num_samples - len(placed)
    shelves = _Shelves(
        listed=np.zeros((2, 2 << problem.pack_size.bit_length()), np.bool_),
        first=np.full((2, problem.pack_size + 1), -1, np.int32),
        following=np.full(most_packs, -1, np.int32),
        used=np.zeros((most_packs, len(problem.limits)), np.int64),
    )
    if num_packs:
        np.add.at(shelves.used, packs, problem.demands[placed])
        media = np.bincount(packs, weights=problem.visual_tokens[placed]) > 0
        free = problem.pack_size - np.bincount(packs, weights=problem.lengths[placed]).astype(np.int64)
        free -= np.where(media, 0, problem.fake_tokens)
        in_proportion(_list_all, len(pack_of))(shelves, media.astype(np.int64), free)
    return shelves, num_packs


@compiled
def _best_fit(
    order: NDArray[np.int64],
    pack_of: NDArray[np.int32],
    num_packs: int,
    lengths: NDArray[np.int32],
    visual_tokens: NDArray[np.int32],
    demands: NDArray[np.int64],
    limits: NDArray[np.int64],
    pack_size: int,
    fake_tokens: int,
    shelves: _Shelves,
) -> None:
    for sample in order:
        length, media = int(np.int64(lengths[sample])), int(visual_tokens[sample] > 0)
        shelf, pack, before, free = _best(shelves, length, media, fake_tokens, demands, sample, limits)
        if pack < 0:
            pack, free = num_packs, pack_size - fake_tokens
            num_packs += 1
        else:
            _take_off(shelves, shelf, free, before, pack)
        regained = fake_tokens if media > shelf else 0
        _list(shelves, max(shelf, media), free + regained - length, pack)
        for limit in range(len(limits)):
            shelves.used[pack, limit] += demands[sample, limit]
        pack_of[sample] = pack


@compiled_inner
def _best(
    shelves: _Shelves,
    length: int,
    media: int,
    fake_tokens: int,
    demands: NDArray[np.int64],
    sample: int,
    limits: NDArray[np.int64],
) -> tuple[int, int, int, int]:
    """The pack that the sample fills best: (shelf, pack or -1, the one before it in its list, the room it is listed at)."""
    relief = fake_tokens * media
    pack, before, free = _tightest(shelves, _WITHOUT_MEDIA, length - relief, demands, sample, limits)
    other, other_before, other_free = _tightest(shelves, _WITH_MEDIA, length, demands, sample, limits)
    if other >= 0 and (pack < 0 or other_free < free + relief):
        return 1, other, other_before, other_free
    return 0, pack, before, free


@compiled_inner
def _tightest(
    shelves: _Shelves, shelf: int, needed: int, demands: NDArray[np.int64], sample: int, limits: NDArray[np.int64]
) -> tuple[int, int, int]:
    """The pack of a shelf with the least room that still suffices: (pack, the one before it in its list, its room)."""
    tries = _TRIES
    free = _next_listed(shelves, shelf, max(needed, 0))
    while free >= 0:
        before, pack = -1, int(shelves.first[shelf, free])
        while pack >= 0:
            if _fits(shelves, pack, demands, sample, limits):
                return pack, before, free
            tries -= 1
            if tries == 0:
                return -1, -1, 0
            before, pack = pack, int(shelves.following[pack])
        free = _next_listed(shelves, shelf, free + 1)
    return -1, -1, 0


@compiled_inner
def _fits(shelves: _Shelves, pack: int, demands: NDArray[np.int64], sample: int, limits: NDArray[np.int64]) -> bool:
    for limit in range(len(limits)):  # noqa: SIM110 - numba knows no all() of a generator
        if shelves.used[pack, limit] + demands[sample, limit] > limits[limit]:
            return False
    return True


@compiled_inner
def _next_listed(shelves: _Shelves, shelf: int, free: int) -> int:
    """The least value from `free` on that is listed, or -1."""
    width = shelves.listed.shape[1] // 2
    node = width + free
    while not shelves.listed[shelf, node]:
        while node & 1:  # a right child has no neighbour under the same parent
            node >>= 1
        if node == 0:
            return -1
        node += 1
    while node < width:
        node = 2 * node if shelves.listed[shelf, 2 * node] else 2 * node + 1
    return int(node - width)


@compiled
def _list_all(shelves: _Shelves, shelf: NDArray[np.int64], free: NDArray[np.int64]) -> None:
    for pack in range(len(free)):
        _list(shelves, shelf[pack], free[pack], pack)


@compiled_inner
def _list(shelves: _Shelves, shelf: int, free: int, pack: int) -> None:
    shelves.following[pack] = shelves.first[shelf, free]
    shelves.first[shelf, free] = pack
    node = shelves.listed.shape[1] // 2 + free
    while node > 0 and not shelves.listed[shelf, node]:
        shelves.listed[shelf, node] = True
        node >>= 1


@compiled_inner
def _take_off(shelves: _Shelves, shelf: int, free: int, before: int, pack: int) -> None:
    if before >= 0:
        shelves.following[before] = shelves.following[pack]
        return
    shelves.first[shelf, free] = shelves.following[pack]
    if shelves.following[pack] >= 0:
        return
    node = shelves.listed.shape[1] // 2 + free
    shelves.listed[shelf, node] = False
    node >>= 1
    while node > 0 and not (shelves.listed[shelf, 2 * node] or shelves.listed[shelf, 2 * node + 1]):
        shelves.listed[shelf, node] = False
        node >>= 1
