"""Spread media: a pack without any swaps a text sample for a media sample of a pack that has several.

Every pack without visual tokens needs a fake image, which costs tokens and work. Greedy: for each such pack, longest text
sample first, the longest media sample on offer that fits in its place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.compiled import compiled, compiled_inner, in_proportion
from vlmprep.planning.problem import PackingProblem

__all__ = ["spread_media"]

_SAMPLES, _OFFERS = 16, 64
"""Samples of a pack that are tried, and offers looked at for each, before the pack is left to its fake image."""


def spread_media(problem: PackingProblem, pack_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """Swap samples so that fewer packs are without media, within all bounds.

    Args:
        problem: The samples and bounds.
        pack_of: [n] int32, the pack of every sample, within the bounds; not changed.

    Returns:
        [n] int32, the same packs after the swaps.
    """
    is_media = problem.visual_tokens > 0
    media = np.bincount(pack_of, weights=is_media).astype(np.int64)
    if not (media == 0).any() or not (media > 1).any():
        return pack_of
    pack_of = pack_of.copy()
    needy = np.flatnonzero(~is_media & (media[pack_of] == 0))
    needy = needy[np.lexsort((needy, -problem.lengths[needy], pack_of[needy]))]
    offers = np.flatnonzero(is_media & (media[pack_of] > 1))
    offers = offers[np.lexsort((offers, problem.lengths[offers]))]
    used = np.zeros((len(media), len(problem.limits)), np.int64)
    np.add.at(used, pack_of, problem.demands)
    free = problem.pack_size - np.bincount(pack_of, weights=problem.lengths).astype(np.int64)
    in_proportion(_swap_all, problem.num_samples)(
        needy,
        offers,
        problem.lengths[offers].astype(np.int64),
        np.arange(-1, len(offers), dtype=np.int64),
        pack_of,
        problem.lengths,
        problem.demands,
        problem.limits,
        free,
        media,
        used,
    )
    return pack_of


@compiled
def _swap_all(
    needy: NDArray[np.int64],
    offers: NDArray[np.int64],
    offer_lengths: NDArray[np.int64],
    live: NDArray[np.int64],
    pack_of: NDArray[np.int32],
    lengths: NDArray[np.int32],
    demands: NDArray[np.int64],
    limits: NDArray[np.int64],
    free: NDArray[np.int64],
    media: NDArray[np.int64],
    used: NDArray[np.int64],
) -> None:
    """Serve the packs of the needy samples, which stand pack by pack.

    `live[1 + i]` leads from offer i to the nearest offer at or before it that still stands, -1 for none: a union-find forest.
    """
    pack, tried = -1, 0
    for sample in needy:
        if pack_of[sample] != pack:
            pack, tried = int(pack_of[sample]), 0
        tried += 1
        if media[pack] > 0 or tried > _SAMPLES:
            continue
        length = int(lengths[sample])
        offer = _standing(live, np.searchsorted(offer_lengths, length + free[pack] + 1) - 1)
        for _ in range(_OFFERS):
            if offer < 0:
                break
            donor = int(pack_of[offers[offer]])
            if media[donor] < 2:
                live[1 + offer] = offer - 1
            elif length - offer_lengths[offer] <= free[donor] and _limits_allow(
                used, pack, donor, demands, sample, offers[offer], limits
            ):
                live[1 + offer] = offer - 1
                pack_of[sample], pack_of[offers[offer]] = donor, pack
                free[pack] += length - offer_lengths[offer]
                free[donor] += offer_lengths[offer] - length
                media[pack] += 1
                media[donor] -= 1
                break
            offer = _standing(live, offer - 1)


@compiled_inner
def _standing(live: NDArray[np.int64], offer: int) -> int:
    last = offer
    while live[1 + last] != last:
        last = live[1 + last]
    while offer != last:
        following = live[1 + offer]
        live[1 + offer] = last
        offer = following
    return last


@compiled_inner
def _limits_allow(
    used: NDArray[np.int64],
    pack: int,
    donor: int,
    demands: NDArray[np.int64],
    sample: int,
    offer: int,
    limits: NDArray[np.int64],
) -> bool:
    """Whether a swap keeps both packs within the further bounds; if it does, it is booked."""
    for limit in range(len(limits)):
        moved = demands[offer, limit] - demands[sample, limit]
        if used[pack, limit] + moved > limits[limit] or used[donor, limit] - moved > limits[limit]:
            return False
    for limit in range(len(limits)):
        moved = demands[offer, limit] - demands[sample, limit]
        used[pack, limit] += moved
        used[donor, limit] -= moved
    return True
