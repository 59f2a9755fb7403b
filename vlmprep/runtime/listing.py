"""What an epoch lists before steps are assembled: every pack once, or as often as a blend says, shuffled.

    one set             | 7 2 9 0 5 1 8 3 6 4 |            a keyed permutation of its packs
    a blend             | A7 B2 B9 A0 A5 B1 A8 |           what each set gives this epoch, shuffled together
    windows of shards   | 7 6 8 2 1 | 0 9 3 5 4 |          shards shuffled, cut into windows; packs shuffled inside

A set that gives `n` packs an epoch gives places `[epoch * n, (epoch + 1) * n)` of its own endless sequence of rounds, so at
a quarter an epoch, four epochs give every pack once.

Windows are a cluster sample: the packs of a window are those of `shuffle_shards` or more shards, drawn at random. The mean of
anything over a window has at most the variance of a draw of so many whole shards (Kish, "Survey Sampling", 1965), and that of a
draw of as many packs where shards are alike, as they are in a shuffled plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.blocks import Integers, gather, place_type
from vlmprep.schema.keyed_order import keyed_order

__all__ = ["Listing", "Part", "list_epoch"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """What an epoch takes of one pack set."""

    num_packs: int
    """Packs of the set that train."""
    per_epoch: int
    """How many of them an epoch takes, counting every use; all are taken equally often over the epochs."""
    shards: NDArray[np.int32] | None = None
    """[num_packs] the shard of each; None: not needed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listing:
    """An epoch's packs."""

    packs: Integers
    """[packs of an epoch] which, counted through all parts; int32, int64 beyond 2^31."""
    windows: NDArray[np.int64] | None
    """[packs of an epoch] rising number of the window of each; None: the epoch is one."""


def list_epoch(
    parts: Sequence[Part], *, seed: int, epoch: int, shuffle: bool, shuffle_shards: int | None = None
) -> Listing:
    """The packs of an epoch.

    Args:
        parts: The pack sets; their packs are counted one set after the other.
        seed: Any integer.
        epoch: 0-based.
        shuffle: False: in their order, sets evenly interleaved.
        shuffle_shards: Shards that a window of the shuffle holds at least; None: the whole epoch is one window.
    """
    firsts = np.cumsum([0, *(part.num_packs for part in parts)])
    drawn = [
        _draw(part, (seed, number), epoch, by_shard=shuffle and shuffle_shards is not None, shuffle=shuffle).astype(
            place_type(firsts[-1]), copy=False
        )
        for number, part in enumerate(parts)
    ]
    for first, packs in zip(firsts.tolist(), drawn, strict=False):
        packs += first
    if not shuffle:
        return Listing(packs=_interleaved(drawn), windows=None)
    packs = _joined(drawn)
    order = keyed_order(len(packs), seed, epoch).astype(place_type(len(packs)))
    num_windows = _num_windows(parts, shuffle_shards)
    if num_windows == 1:
        return Listing(packs=gather(packs, order), windows=None)
    windows = np.concatenate([np.arange(len(each)) * num_windows // max(len(each), 1) for each in drawn])
    order = order[np.argsort(windows[order], kind="stable")]
    return Listing(packs=packs[order], windows=windows[order])


def _draw(part: Part, key: tuple[int, int], epoch: int, *, by_shard: bool, shuffle: bool) -> Integers:
    """[per_epoch] packs of a part: its next ones, round after round."""
    size, start = part.num_packs, epoch * part.per_epoch
    stop = start + part.per_epoch
    rounds = []
    for number in range(start // size, -(-stop // size)):
        order = _round(part, (*key, number), by_shard=by_shard, shuffle=shuffle)
        rounds.append(order[max(start - number * size, 0) : stop - number * size])
    return _joined(rounds)


def _joined(parts: Sequence[Integers]) -> Integers:
    """One after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _round(part: Part, key: tuple[int, int, int], *, by_shard: bool, shuffle: bool) -> NDArray[np.int64]:
    """[num_packs] every pack once: shuffled, or shard by shard in a shuffled order of the shards."""
    if by_shard:
        assert part.shards is not None
        names, shards = np.unique(part.shards, return_inverse=True)
        place_of_shard = np.argsort(keyed_order(len(names), *key))
        return np.argsort(place_of_shard[shards], kind="stable")
    if shuffle and part.per_epoch % part.num_packs:
        return keyed_order(part.num_packs, *key)
    return np.arange(part.num_packs)


def _num_windows(parts: Sequence[Part], shuffle_shards: int | None) -> int:
    """Windows of an epoch, so that each holds `shuffle_shards` shards or more."""
    if shuffle_shards is None:
        return 1
    shards = 0.0
    for part in parts:
        assert part.shards is not None
        shards += len(np.unique(part.shards)) * part.per_epoch / part.num_packs
    return max(int(shards) // shuffle_shards, 1)


def _interleaved(drawn: Sequence[Integers]) -> Integers:
    """Sets side by side, so that every stretch holds its share of each."""
    if len(drawn) == 1:
        return drawn[0]
    places = np.concatenate([(np.arange(len(each)) + 0.5) / max(len(each), 1) for each in drawn])
    return np.concatenate(drawn)[np.argsort(places, kind="stable")]
