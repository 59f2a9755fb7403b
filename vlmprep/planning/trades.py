"""One sweep of trades between packs: the compiled inside of the exchange descent (`exchange.py`).

Everything is integers, 32 bits wide in the inner loops, so that compilers turn these into vector instructions and every
machine comes to the same plan. Packs are asked in the order in which they stand in memory, and so are their partners, from
a random place on: the next lines of the table are there before they are needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.compiled import compiled, compiled_inner

__all__ = ["MEAN_WEIGHT", "MOST_CHOICES", "sweep_once"]

MEAN_WEIGHT = 1 << 18
"""What a pack of mean weight weighs in here."""
MOST_CHOICES = 40
"""Choices of none, one or two of `_WINDOW` samples, rounded up to `_LANES`."""

_TOLERANCE = MEAN_WEIGHT // 250
"""By how much a pack may be off without asking for an exchange."""
_FAR_OFF = 1 << 28
"""Weight at which a difference is cut, so that costs stay within 32 bits."""
_NEVER = 0x7FFFFFFF
"""A cost above all others."""
_WINDOW = 8
"""Samples of a pack that one exchange looks at; a pack with more shows a random stretch of them."""
_LANES = 8
"""Lists of choices are padded to a multiple of this, so that vector loops have no remainder."""
_LONGEST_SLEEP = 20
"""As a power of two of sweeps."""

# numba compiles functions anew for every literal number that they are called with; these are none.
_NONE: Any = np.int64(-1)
_OUR_ROW: Any = np.int64(0)
_BY_TOKENS: Any = np.int64(1)

_START, _COUNT, _WEIGHT, _TOKENS = 0, 1, 2, 3  # columns of packs; tokens are the first bound, further ones follow
_LIMIT, _PRICE, _LOW, _HIGH = 0, 1, 2, 3  # columns of bounds
_UNTIL, _FAILURES = 0, 1  # columns of sleep


@compiled
def sweep_once(
    packs: NDArray[np.int64],
    items: NDArray[np.int32],
    bounds: NDArray[np.int64],
    choices: NDArray[np.int32],
    sleep: NDArray[np.int32],
    sides: NDArray[np.int32],
    sweep: int,
    indulgence: int,
    seed: np.uint64,
) -> int:
    """Every pack that needs an exchange and is awake meets one partner.

    Args:
        packs: Of a `PackTable`; changed.
        items: Of a `PackTable`; changed.
        bounds: [num_bounds, 4] int64: the limit, the price of being over it; two columns of work space.
        choices: [2 * (1 + num_bounds) + 1, MOST_CHOICES] int32, work space: weight, tokens and further demands of our choices,
            the same of the partner's, and what one of ours costs against every one of theirs.
        sleep: [num_packs, 2] int32: until which sweep a pack sleeps, its failures in a row; changed.
        sides: [num_packs] int32, work space.
        sweep: Number of the sweep.
        indulgence: By how much an exchange may be worse than none.
        seed: Of the partners.

    Returns:
        How many packs asked for an exchange.
    """
    num_packs = len(sides)
    num_light = _take_sides(packs, sides)
    num_heavy = num_packs - num_light
    light = _below(_mixed(seed), num_light)
    heavy = _below(_mixed(seed + np.uint64(1)), num_heavy)
    other = 1 + _below(_mixed(seed + np.uint64(2)), num_packs - 1)
    asked = 0
    for pack in range(num_packs):
        if sleep[pack, _UNTIL] > sweep:
            continue
        off = packs[pack, _WEIGHT] - MEAN_WEIGHT
        partner = pack
        if _is_over(packs, pack, bounds):
            partner = (pack + other) % num_packs
        elif off < -_TOLERANCE and num_heavy > 0:
            heavy = heavy + 1 if heavy + 1 < num_heavy else 0
            partner = sides[num_light + heavy]
        elif off > _TOLERANCE and num_light > 0:
            light = light + 1 if light + 1 < num_light else 0
            partner = sides[light]
        if partner == pack:
            continue
        asked += 1
        if _exchange(packs, items, bounds, choices, pack, partner, indulgence, seed):
            sleep[pack, _FAILURES] = sleep[partner, _FAILURES] = sleep[partner, _UNTIL] = 0
        else:
            sleep[pack, _FAILURES] += 1
            sleep[pack, _UNTIL] = sweep + (1 << min(sleep[pack, _FAILURES] // 2, _LONGEST_SLEEP))
    return asked


@compiled_inner
def _take_sides(packs: NDArray[np.int64], sides: NDArray[np.int32]) -> int:
    """Light packs stand from the left, heavy ones from the right; how many are light."""
    num_light, heavy = 0, len(sides)
    for pack in range(len(sides)):
        if packs[pack, _WEIGHT] < MEAN_WEIGHT:
            sides[num_light] = pack
            num_light += 1
        else:
            heavy -= 1
            sides[heavy] = pack
    return num_light


@compiled_inner
def _is_over(packs: NDArray[np.int64], pack: int, bounds: NDArray[np.int64]) -> bool:
    for bound in range(len(bounds)):  # noqa: SIM110 - numba knows no any() of a generator
        if packs[pack, _TOKENS + bound] > bounds[bound, _LIMIT]:
            return True
    return False


@compiled_inner
def _exchange(
    packs: NDArray[np.int64],
    items: NDArray[np.int32],
    bounds: NDArray[np.int64],
    choices: NDArray[np.int32],
    pack: int,
    partner: int,
    indulgence: int,
    seed: np.uint64,
) -> bool:
    """Make the best exchange between two packs, if it is good enough."""
    our_first, our_count = _stretch(packs, pack, seed)
    their_first, their_count = _stretch(packs, partner, seed)
    num_ours = _choose(items, our_first, our_count, choices, _OUR_ROW)
    num_theirs = _choose(items, their_first, their_count, choices, 1 + len(bounds))
    num_theirs = (num_theirs + _LANES - 1) // _LANES * _LANES
    wanted, cost_now = _situation(packs, pack, partner, bounds)
    first = 0 if their_count > 0 else 1  # none against nothing is no exchange
    below = cost_now + indulgence
    ours, theirs = _cheapest(choices, bounds, first, num_ours, num_theirs, wanted, below, _BY_TOKENS)
    if ours >= 0 and theirs < 0:
        ours, theirs = _cheapest(choices, bounds, first, num_ours, num_theirs, wanted, below, len(bounds))
    if ours < 0:
        return False
    return _trade(packs, items, choices, pack, partner, our_first, their_first, ours, theirs)


@compiled_inner
def _cheapest(
    choices: NDArray[np.int32],
    bounds: NDArray[np.int64],
    first: int,
    num_ours: int,
    num_theirs: int,
    wanted: int,
    below: int,
    num_bounds: int,
) -> tuple[int, int]:
    """The exchange of least cost by the first bounds: our choice, or -1 if none is below the given cost, and theirs.

    Theirs is -1 where further bounds make it cost more.
    """
    ours = int(_NONE)
    for choice in range(first, num_ours):
        if choice > 0 and num_bounds == 1:
            cost = _least_by_tokens(choices, bounds, choice, num_theirs, wanted)
        else:
            cost = _fill_costs(choices, bounds, choice, num_theirs, wanted, num_bounds)
        if cost < below:
            ours, below = choice, cost
    if ours >= 0:
        _fill_costs(choices, bounds, ours, num_theirs, wanted, len(bounds))
        for theirs in range(num_theirs):
            if choices[-1, theirs] == below:
                return ours, theirs
    return ours, -1


@compiled_inner
def _situation(packs: NDArray[np.int64], pack: int, partner: int, bounds: NDArray[np.int64]) -> tuple[int, int]:
    """Fill in what may move within the bounds; the weight that should move, and what it costs if nothing moves.

    What is far off is cut, so that no cost exceeds 32 bits.
    """
    off = (packs[pack, _WEIGHT] - packs[partner, _WEIGHT]) // 2
    wanted = min(max(off, -_FAR_OFF), _FAR_OFF)
    cost_now = abs(wanted)
    for bound in range(len(bounds)):
        limit = bounds[bound, _LIMIT]
        low = min(packs[pack, _TOKENS + bound] - limit, 2 * limit)
        high = max(limit - packs[partner, _TOKENS + bound], -2 * limit)
        bounds[bound, _LOW], bounds[bound, _HIGH] = low, high
        cost_now += bounds[bound, _PRICE] * (max(low, 0) + max(-high, 0))
    return wanted, cost_now


@compiled_inner
def _least_by_tokens(
    choices: NDArray[np.int32], bounds: NDArray[np.int64], choice: int, num_theirs: int, wanted: int
) -> int:
    """The least of `_fill_costs` with tokens as the only bound, without a detour through memory."""
    weights, tokens = choices[1 + len(bounds)], choices[2 + len(bounds)]
    weight, given = np.int32(choices[0, choice] - wanted), choices[1, choice]
    price, low, high = np.int32(bounds[0, _PRICE]), np.int32(bounds[0, _LOW]), np.int32(bounds[0, _HIGH])
    least = np.int32(_NEVER)
    for other in range(num_theirs):
        moved = np.int32(given - tokens[other])
        over = np.int32(max(np.int32(low - moved), np.int32(0)) + max(np.int32(moved - high), np.int32(0)))
        cost = np.int32(abs(np.int32(weight - weights[other])) + np.int32(price * over))
        least = min(least, cost)
    return int(least)


@compiled_inner
def _fill_costs(
    choices: NDArray[np.int32], bounds: NDArray[np.int64], choice: int, num_theirs: int, wanted: int, num_bounds: int
) -> int:
    """What our choice costs against every choice of theirs, by the first bounds; returns the least."""
    columns = 1 + len(bounds)
    weights, costs = choices[columns], choices[2 * columns]
    weight = np.int32(choices[0, choice] - wanted)
    for other in range(num_theirs):
        costs[other] = abs(np.int32(weight - weights[other]))
    for bound in range(num_bounds):
        given, demands = choices[1 + bound, choice], choices[columns + 1 + bound]
        price, low, high = (
            np.int32(bounds[bound, _PRICE]),
            np.int32(bounds[bound, _LOW]),
            np.int32(bounds[bound, _HIGH]),
        )
        for other in range(num_theirs):
            moved = np.int32(given - demands[other])
            over = np.int32(max(np.int32(low - moved), np.int32(0)) + max(np.int32(moved - high), np.int32(0)))
            costs[other] += np.int32(price * over)
    if choice == 0:
        costs[0] = _NEVER  # none against none is no exchange
    least = np.int32(_NEVER)
    for other in range(num_theirs):
        least = min(least, costs[other])
    return int(least)


@compiled_inner
def _stretch(packs: NDArray[np.int64], pack: int, seed: np.uint64) -> tuple[int, int]:
    """The places of a pack that an exchange looks at: (first, count)."""
    first, count = packs[pack, _START], packs[pack, _COUNT]
    if count <= _WINDOW:
        return first, count
    return first + _below(_mixed(seed + np.uint64(pack)), count - _WINDOW + 1), _WINDOW


@compiled_inner
def _choose(items: NDArray[np.int32], first: int, count: int, choices: NDArray[np.int32], row: int) -> int:
    """Fill in what every choice of none, one or two samples amounts to, and return how many choices there are.

    Choice 0 is none; then comes sample by sample: alone, and with each before it.

    Args:
        items: Of a `PackTable`.
        first: First place to choose from.
        count: How many places.
        choices: Filled from the row on, and padded by repeating the last choice.
        row: The row of the weights.
    """
    num_choices = 1 + count + count * (count - 1) // 2
    padded = (num_choices + _LANES - 1) // _LANES * _LANES
    for column in range(items.shape[1] - 1):
        sums = choices[row + column]
        sums[0] = choice = 0
        for later in range(first, first + count):
            choice += 1
            alone = sums[choice] = items[later, 1 + column]
            for earlier in range(first, later):
                choice += 1
                sums[choice] = alone + items[earlier, 1 + column]
        for copy in range(num_choices, padded):
            sums[copy] = sums[choice]
    return num_choices


@compiled_inner
def _trade(
    packs: NDArray[np.int64],
    items: NDArray[np.int32],
    choices: NDArray[np.int32],
    pack: int,
    partner: int,
    our_first: int,
    their_first: int,
    ours: int,
    theirs: int,
) -> bool:
    """Carry an exchange out, unless a pack has no place left for it."""
    give, give_more = _members(ours, our_first)
    take, take_more = _members(theirs, their_first)
    gain = int(take >= 0) + int(take_more >= 0) - int(give >= 0) - int(give_more >= 0)
    if packs[pack, _START] + packs[pack, _COUNT] + gain > packs[pack + 1, _START]:
        return False
    if packs[partner, _START] + packs[partner, _COUNT] - gain > packs[partner + 1, _START]:
        return False
    columns = items.shape[1] - 1
    for column in range(columns):
        moved = choices[column, ours] - choices[columns + column, theirs]
        packs[pack, _WEIGHT + column] -= moved
        packs[partner, _WEIGHT + column] += moved
    # The later place goes first, so that closing its gap cannot move the earlier one.
    _hand_over(packs, items, pack, partner, give, take)
    _hand_over(packs, items, pack, partner, give_more, take_more)
    return True


@compiled_inner
def _members(choice: int, first: int) -> tuple[int, int]:
    """The places of a choice's samples, the later one first; -1 where there is none."""
    if choice == 0:
        return -1, -1
    later, earlier = first, choice - 2
    while first + earlier >= later:
        earlier -= later - first + 1
        later += 1
    return later, first + earlier if earlier >= 0 else -1


@compiled_inner
def _hand_over(
    packs: NDArray[np.int64], items: NDArray[np.int32], pack: int, partner: int, give: int, take: int
) -> None:
    """One sample for one, or one for none, by their places."""
    if give < 0:
        pack, partner, give, take = partner, pack, take, give
    if give >= 0 and take >= 0:
        _swap(items, give, take)
    elif give >= 0:
        packs[pack, _COUNT] -= 1
        _swap(items, give, packs[partner, _START] + packs[partner, _COUNT])
        _swap(items, give, packs[pack, _START] + packs[pack, _COUNT])
        packs[partner, _COUNT] += 1


@compiled_inner
def _swap(items: NDArray[np.int32], place: int, other: int) -> None:
    for column in range(items.shape[1]):
        kept = items[place, column]
        items[place, column] = items[other, column]
        items[other, column] = kept


@compiled_inner
def _mixed(word: np.uint64) -> np.uint64:
    """One step of SplitMix64."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@compiled_inner
def _below(chance: np.uint64, bound: int) -> int:
    """A number of 0..bound-1 from 32 random bits; 0 where there is none."""
    return int(np.int64(((chance >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)))
