"""Exchange descent: pairs of packs trade up to two samples each way until all packs are within bounds and equal.

A pack that is too heavy, too light or over a bound meets a partner drawn at random from the other side. Of all exchanges of
none, one or two samples of the one against none, one or two of the other (up to 37 x 37), the pair makes the one of least

    |weight moved - half the difference of their weights|  +  sum over bounds of price * what both are over that bound

and only if that is less than before. Bounds have a steep price instead of a wall, so that the descent may start from packs
that overflow and may pass through some. In the first sweeps an exchange may also be worse by a hair, which carries tiles and
other coarse weights across plateaus (threshold accepting: Dueck and Scheuer, 1990). A pack whose exchanges keep failing is
asked more and more rarely, the don't-look bits of local search for the travelling salesman (Bentley, 1992).

Everything is integers, 32 bits wide in the inner loop, so that compilers turn it into vector instructions and every machine
comes to the same plan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlmprep.planning.compiled import compiled, compiled_inner
from vlmprep.planning.problem import PackingProblem

__all__ = ["MEAN_WEIGHT", "exchange_descent"]

MEAN_WEIGHT = 1 << 18
"""What a pack of mean weight weighs in here."""
_PRICE = 128 * MEAN_WEIGHT
"""What it costs to be over a bound by all of it."""
_FAR_OFF = 1 << 28
"""Weight at which a difference is cut, so that costs stay within 32 bits."""
_INDULGENCE = MEAN_WEIGHT // 1000
"""By how much an exchange may be worse in the first sweep; falls to 0 over a quarter of the sweeps."""
_TOLERANCE = MEAN_WEIGHT // 250
"""By how much a pack may be off without asking for an exchange."""

_NEVER = 0x7FFFFFFF
"""A cost above all others."""
_WINDOW = 8
"""Samples of a pack that one exchange looks at; a pack with more shows a random stretch of them."""
_LANES = 16
"""Lists of choices are padded to a multiple of this, so that vector loops have no remainder."""
_ROOM = 4
"""Places by which a pack may outgrow the number of samples it started with."""


class _Packs(NamedTuple):
    """Packs that can trade samples: rows of a table with some free places at their ends."""

    items: NDArray[np.int32]
    """[places, 2 + num_bounds] sample number, weight, tokens, demands on further bounds."""
    starts: NDArray[np.int64]
    """[num_packs + 1] first place of every pack."""
    counts: NDArray[np.int32]
    """[num_packs] samples in every pack."""
    totals: NDArray[np.int64]
    """[num_packs, 1 + num_bounds] the sums of every pack: weight, tokens, further demands."""


class _Pair(NamedTuple):
    """What two packs have to choose from, as work space."""

    ours: NDArray[np.int32]
    """[1 + num_bounds, choices] weight, tokens and further demands of our choices."""
    theirs: NDArray[np.int32]
    """The same of the partner's choices."""
    low: NDArray[np.int32]
    """[num_bounds] what must move to the partner so that we are within a bound."""
    high: NDArray[np.int32]
    """[num_bounds] what may move to the partner before it is over a bound."""
    costs: NDArray[np.int32]
    """[choices] of one choice of ours against every one of theirs."""


def exchange_descent(
    problem: PackingProblem,
    pack_of: NDArray[np.int32],
    weights: NDArray[np.int32],
    num_packs: int,
    num_sweeps: int,
    *,
    seed: int,
) -> NDArray[np.int32]:
    """Make packs equal in weight and bring them within the bounds.

    Args:
        problem: The samples and bounds.
        pack_of: [n] int32, the pack of every sample to start from; not changed.
        weights: [n] int32, what is to be equal, in a unit in which `MEAN_WEIGHT` is the mean of a pack.
        num_packs: Packs, also those that are still empty.
        num_sweeps: How often every pack that needs it may ask for an exchange.
        seed: Of the partners drawn.

    Returns:
        [n] int32, the pack of every sample. Some packs may still be over a bound.
    """
    demands = np.column_stack([weights, problem.lengths, problem.demands]).astype(np.int32)
    limits = np.concatenate([np.array([problem.common_capacity], np.int64), problem.limits])
    prices = (_PRICE // np.maximum(limits, 1)).astype(np.int32)
    packs = _lay_out(pack_of, demands, num_packs)
    pair = _work_space(num_bounds=len(limits))
    failures, wakes, sides = (np.zeros(num_packs, np.int32) for _ in range(3))
    for sweep in range(num_sweeps):
        asked = _sweep(
            packs,
            limits,
            prices,
            max(0, _INDULGENCE * (num_sweeps - 4 * sweep) // num_sweeps),
            failures,
            wakes,
            sweep,
            np.uint64(seed & (1 << 64) - 1),
            sides,
            pair,
        )
        if not asked and not (wakes > sweep).any():
            break
    final = np.empty_like(pack_of)
    _read_off(packs, final)
    return final


def _lay_out(pack_of: NDArray[np.int32], demands: NDArray[np.int32], num_packs: int) -> _Packs:
    counts = np.bincount(pack_of, minlength=num_packs)
    starts = np.zeros(num_packs + 1, np.int64)
    np.cumsum(counts + _ROOM, out=starts[1:])
    packs = _Packs(
        items=np.zeros((starts[-1], 1 + demands.shape[1]), np.int32),
        starts=starts,
        counts=np.zeros(num_packs, np.int32),
        totals=np.zeros((num_packs, demands.shape[1]), np.int64),
    )
    _fill(packs, pack_of, demands)
    return packs


def _work_space(num_bounds: int) -> _Pair:
    most = 1 + _WINDOW + _WINDOW * (_WINDOW - 1) // 2
    most = (most + _LANES - 1) // _LANES * _LANES
    return _Pair(
        ours=np.zeros((1 + num_bounds, most), np.int32),
        theirs=np.zeros((1 + num_bounds, most), np.int32),
        low=np.zeros(num_bounds, np.int32),
        high=np.zeros(num_bounds, np.int32),
        costs=np.zeros(most, np.int32),
    )


@compiled
def _fill(packs: _Packs, pack_of: NDArray[np.int32], demands: NDArray[np.int32]) -> None:
    for sample in range(len(pack_of)):
        pack = pack_of[sample]
        place = packs.starts[pack] + packs.counts[pack]
        packs.counts[pack] += 1
        packs.items[place, 0] = sample
        for column in range(demands.shape[1]):
            packs.items[place, 1 + column] = demands[sample, column]
            packs.totals[pack, column] += demands[sample, column]


@compiled
def _read_off(packs: _Packs, pack_of: NDArray[np.int32]) -> None:
    for pack in range(len(packs.counts)):
        start = packs.starts[pack]
        for place in range(start, start + packs.counts[pack]):
            pack_of[packs.items[place, 0]] = pack


@compiled
def _sweep(
    packs: _Packs,
    limits: NDArray[np.int64],
    prices: NDArray[np.int32],
    indulgence: int,
    failures: NDArray[np.int32],
    wakes: NDArray[np.int32],
    sweep: int,
    seed: np.uint64,
    sides: NDArray[np.int32],
    pair: _Pair,
) -> int:
    """Every pack that needs an exchange and is awake meets one partner; returns how many did."""
    num_packs = len(packs.counts)
    num_light, heavy = 0, num_packs  # in `sides`, light packs stand from the left, heavy ones from the right
    for pack in range(num_packs):
        if packs.totals[pack, 0] < MEAN_WEIGHT:
            sides[num_light] = pack
            num_light += 1
        else:
            heavy -= 1
            sides[heavy] = pack
    asked = 0
    for pack in range(num_packs):
        off = packs.totals[pack, 0] - MEAN_WEIGHT
        over = _is_over(packs, pack, limits)
        if wakes[pack] > sweep or (abs(off) <= _TOLERANCE and not over):
            continue
        chance = _mixed(_mixed(seed + np.uint64(sweep)) + np.uint64(pack))
        partner = pack
        if over:
            partner = _below(chance, num_packs)
        elif off < 0 and num_light < num_packs:
            partner = int(sides[num_light + _below(chance, num_packs - num_light)])
        elif off > 0 and num_light > 0:
            partner = int(sides[_below(chance, num_light)])
        if partner == pack:
            continue
        asked += 1
        if _exchange(packs, pack, partner, limits, prices, indulgence, chance, pair):
            failures[pack] = failures[partner] = 0
            wakes[partner] = 0
        else:
            failures[pack] += 1
            wakes[pack] = sweep + (1 << min(failures[pack] // 2, 20))
    return asked


@compiled_inner
def _is_over(packs: _Packs, pack: int, limits: NDArray[np.int64]) -> bool:
    for bound in range(len(limits)):  # noqa: SIM110 - numba knows no any() of a generator
        if packs.totals[pack, 1 + bound] > limits[bound]:
            return True
    return False


@compiled_inner
def _exchange(
    packs: _Packs,
    pack: int,
    partner: int,
    limits: NDArray[np.int64],
    prices: NDArray[np.int32],
    indulgence: int,
    chance: np.uint64,
    pair: _Pair,
) -> bool:
    """Make the best exchange between two packs, if it is good enough."""
    our_first, our_count = _stretch(packs, pack, _mixed(chance))
    their_first, their_count = _stretch(packs, partner, _mixed(chance + np.uint64(1)))
    num_ours = _choices(packs.items, our_first, our_count, pair.ours)
    num_theirs = _choices(packs.items, their_first, their_count, pair.theirs)
    num_theirs = (num_theirs + _LANES - 1) // _LANES * _LANES
    wanted, cost_now = _situation(packs, pack, partner, limits, prices, pair)
    first = int(their_count == 0)  # none against nothing is no exchange
    below, by_tokens = cost_now + indulgence, prices[:1]
    ours, cost = _cheapest_by_tokens(pair, first, num_ours, num_theirs, wanted, by_tokens, below)
    if ours < 0:
        return False
    theirs = _choice_of_cost(pair, ours, num_theirs, wanted, by_tokens, cost)
    if not _is_within(pair, ours, theirs):
        ours, cost = _cheapest(pair, first, num_ours, num_theirs, wanted, prices, below)
        if ours < 0:
            return False
        theirs = _choice_of_cost(pair, ours, num_theirs, wanted, prices, cost)
    return _trade(packs, pack, partner, our_first, their_first, pair, ours, theirs)


@compiled_inner
def _situation(
    packs: _Packs, pack: int, partner: int, limits: NDArray[np.int64], prices: NDArray[np.int32], pair: _Pair
) -> tuple[np.int32, int]:
    """Fill in what may move within the bounds; the weight that should move, and what it costs if nothing moves.

    What is far off is cut, so that no cost exceeds 32 bits.
    """
    off = (packs.totals[pack, 0] - packs.totals[partner, 0]) // 2
    wanted = np.int32(min(max(off, -_FAR_OFF), _FAR_OFF))
    cost_now = int(abs(wanted))
    for bound in range(len(limits)):
        limit = limits[bound]
        pair.low[bound] = min(packs.totals[pack, 1 + bound] - limit, 2 * limit)
        pair.high[bound] = max(limit - packs.totals[partner, 1 + bound], -2 * limit)
        cost_now += int(prices[bound]) * (max(pair.low[bound], 0) + max(-pair.high[bound], 0))
    return wanted, cost_now


@compiled_inner
def _is_within(pair: _Pair, ours: int, theirs: int) -> bool:
    """Whether an exchange leaves both packs within the bounds beside tokens; then these cannot make another one cheaper."""
    for bound in range(1, len(pair.low)):
        moved = pair.ours[1 + bound, ours] - pair.theirs[1 + bound, theirs]
        if moved < pair.low[bound] or moved > pair.high[bound]:
            return False
    return True


@compiled_inner
def _cheapest_by_tokens(
    pair: _Pair, first: int, num_ours: int, num_theirs: int, wanted: np.int32, prices: NDArray[np.int32], below: int
) -> tuple[int, int]:
    """Our choice of least cost, as if tokens were the only bound, or -1 if none is below the given cost; and the cost."""
    ours = -1
    for choice in range(first, num_ours):
        if choice == 0:
            _fill_costs(pair, choice, num_theirs, wanted, prices)
            cost = _least_cost(pair.costs, num_theirs)
        else:
            cost = _least_cost_by_tokens(pair, choice, num_theirs, wanted, prices[0])
        if cost < below:
            ours, below = choice, cost
    return ours, below


@compiled_inner
def _cheapest(
    pair: _Pair, first: int, num_ours: int, num_theirs: int, wanted: np.int32, prices: NDArray[np.int32], below: int
) -> tuple[int, int]:
    """Our choice of least cost, or -1 if none is below the given cost; and the cost."""
    ours = -1
    for choice in range(first, num_ours):
        _fill_costs(pair, choice, num_theirs, wanted, prices)
        cost = _least_cost(pair.costs, num_theirs)
        if cost < below:
            ours, below = choice, cost
    return ours, below


@compiled_inner
def _choice_of_cost(
    pair: _Pair, ours: int, num_theirs: int, wanted: np.int32, prices: NDArray[np.int32], cost: int
) -> int:
    """Their first choice that has this cost against ours."""
    _fill_costs(pair, ours, num_theirs, wanted, prices)
    theirs = 0
    while pair.costs[theirs] != cost:
        theirs += 1
    return theirs


@compiled_inner
def _stretch(packs: _Packs, pack: int, chance: np.uint64) -> tuple[int, int]:
    """The places of a pack that an exchange looks at: (first, count)."""
    count = int(packs.counts[pack])
    if count <= _WINDOW:
        return int(packs.starts[pack]), count
    return int(packs.starts[pack]) + _below(chance, count - _WINDOW + 1), _WINDOW


@compiled_inner
def _choices(items: NDArray[np.int32], first: int, count: int, sums: NDArray[np.int32]) -> int:
    """Fill in what every choice of none, one or two samples amounts to, and return how many choices there are.

    Choice 0 is none, choice 1 + i the sample i, then come the pairs (later, earlier): (1, 0), (2, 0), (2, 1), (3, 0)...

    Args:
        items: The packs' table.
        first: First place to choose from.
        count: How many places.
        sums: [1 + num_bounds, choices]; filled, and padded by repeating the last choice.
    """
    num_choices = 1 + count + count * (count - 1) // 2
    padded = (num_choices + _LANES - 1) // _LANES * _LANES
    for column in range(len(sums)):
        row = sums[column]
        row[0] = 0
        choice = 1 + count
        for later in range(count):
            row[1 + later] = items[first + later, 1 + column]
            for earlier in range(later):
                row[choice] = row[1 + later] + row[1 + earlier]
                choice += 1
        for choice in range(num_choices, padded):
            row[choice] = row[num_choices - 1]
    return num_choices


@compiled_inner
def _least_cost_by_tokens(pair: _Pair, choice: int, num_theirs: int, wanted: np.int32, price: np.int32) -> int:
    """The least of `_fill_costs` with tokens as the only bound, without a detour through memory."""
    weights, tokens = pair.theirs[0], pair.theirs[1]
    weight, given = np.int32(pair.ours[0, choice] - wanted), pair.ours[1, choice]
    low, high = pair.low[0], pair.high[0]
    least = np.int32(_NEVER)
    for other in range(num_theirs):
        moved = np.int32(given - tokens[other])
        over = np.int32(max(np.int32(low - moved), np.int32(0)) + max(np.int32(moved - high), np.int32(0)))
        cost = np.int32(abs(np.int32(weight - weights[other])) + np.int32(price * over))
        least = min(least, cost)
    return int(least)


@compiled_inner
def _fill_costs(pair: _Pair, choice: int, num_theirs: int, wanted: np.int32, prices: NDArray[np.int32]) -> None:
    """What our choice costs against every choice of theirs, by the bounds that have a price."""
    costs, weights = pair.costs, pair.theirs[0]
    weight = np.int32(pair.ours[0, choice] - wanted)
    for other in range(num_theirs):
        costs[other] = abs(np.int32(weight - weights[other]))
    for bound in range(len(prices)):
        given, demands = pair.ours[1 + bound, choice], pair.theirs[1 + bound]
        low, high, price = pair.low[bound], pair.high[bound], prices[bound]
        for other in range(num_theirs):
            moved = np.int32(given - demands[other])
            over = np.int32(max(np.int32(low - moved), np.int32(0)) + max(np.int32(moved - high), np.int32(0)))
            costs[other] += np.int32(price * over)
    if choice == 0:
        costs[0] = _NEVER  # none against none is no exchange


@compiled_inner
def _least_cost(costs: NDArray[np.int32], num_theirs: int) -> int:
    least = np.int32(_NEVER)
    for other in range(num_theirs):
        least = min(least, costs[other])
    return int(least)


@compiled_inner
def _trade(
    packs: _Packs, pack: int, partner: int, our_first: int, their_first: int, pair: _Pair, ours: int, theirs: int
) -> bool:
    """Carry an exchange out, unless a pack has no place left for it."""
    give, give_more = _members(ours, packs, pack)
    take, take_more = _members(theirs, packs, partner)
    gain = int(take >= 0) + int(take_more >= 0) - int(give >= 0) - int(give_more >= 0)
    if packs.starts[pack] + packs.counts[pack] + gain > packs.starts[pack + 1]:
        return False
    if packs.starts[partner] + packs.counts[partner] - gain > packs.starts[partner + 1]:
        return False
    for column in range(packs.totals.shape[1]):
        moved = pair.ours[column, ours] - pair.theirs[column, theirs]
        packs.totals[pack, column] -= moved
        packs.totals[partner, column] += moved
    # The later place goes first, so that closing its gap cannot move the earlier one.
    _hand_over(packs, pack, partner, our_first, give, their_first, take)
    _hand_over(packs, pack, partner, our_first, give_more, their_first, take_more)
    return True


@compiled_inner
def _members(choice: int, packs: _Packs, pack: int) -> tuple[int, int]:
    """The samples of a choice, by their place in the stretch, the later one first; -1 where there is none."""
    count = min(int(packs.counts[pack]), _WINDOW)
    if choice <= count:
        return choice - 1, -1
    later, earlier = 1, choice - count - 1
    while earlier >= later:
        earlier -= later
        later += 1
    return later, earlier


@compiled_inner
def _hand_over(packs: _Packs, pack: int, partner: int, our_first: int, give: int, their_first: int, take: int) -> None:
    if give >= 0 and take >= 0:
        for column in range(packs.items.shape[1]):
            kept = packs.items[our_first + give, column]
            packs.items[our_first + give, column] = packs.items[their_first + take, column]
            packs.items[their_first + take, column] = kept
    elif give >= 0:
        _move(packs, pack, our_first + give, partner)
    elif take >= 0:
        _move(packs, partner, their_first + take, pack)


@compiled_inner
def _move(packs: _Packs, source: int, place: int, target: int) -> None:
    free = packs.starts[target] + packs.counts[target]
    last = packs.starts[source] + packs.counts[source] - 1
    for column in range(packs.items.shape[1]):
        packs.items[free, column] = packs.items[place, column]
        packs.items[place, column] = packs.items[last, column]
    packs.counts[source] -= 1
    packs.counts[target] += 1


@compiled_inner
def _mixed(word: np.uint64) -> np.uint64:
    """One step of SplitMix64."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@compiled_inner
def _below(chance: np.uint64, bound: int) -> int:
    """A number of 0..bound-1 from 32 random bits."""
    return int(np.int64(((chance >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)))
