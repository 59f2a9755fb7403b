"""The exchange descent by itself."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprep.planning import exchange, trades
from vlmprep.planning.exchange import Effort, exchange_descent
from vlmprep.planning.problem import PackBounds, make_problem
from vlmprep.planning.trades import MEAN_WEIGHT


def descended(lengths, weights, pack_of, *, pack_size, num_sweeps=64, seed=0, **bounds):
    problem = make_problem(lengths, weights, PackBounds(pack_size=pack_size, **bounds))
    num_packs = int(max(pack_of)) + 1
    scaled = np.rint(np.array(weights) * (MEAN_WEIGHT * num_packs / max(sum(weights), 1))).astype(np.int32)
    effort = Effort(num_sweeps=num_sweeps, indulgent_sweeps=num_sweeps // 4, free_meetings=10**6, most_meetings=10**6)
    return exchange_descent(problem, np.array(pack_of, np.int32), scaled, num_packs, effort, seed=seed)


@settings(deadline=None)
@given(st.data(), st.integers(2, 9), st.integers(0, 5))
def test_loses_no_sample_and_opens_no_pack(data, num_packs, seed):
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=num_packs, max_size=150))
    pack_of = [data.draw(st.integers(0, num_packs - 1)) for _ in sizes]
    pack_of[0] = num_packs - 1
    after = descended(sizes, [size // 2 for size in sizes], pack_of, pack_size=100, seed=seed)
    assert after.shape == (len(sizes),)
    assert 0 <= after.min() <= after.max() < num_packs


def test_packs_within_bounds_stay_within_them():
    random = np.random.default_rng(0)
    lengths, weights = random.integers(1, 30, 900), random.integers(0, 30, 900)
    pack_of = np.arange(900) % 100
    capacity = int(np.bincount(pack_of, weights=lengths).max())
    after = descended(lengths, weights, pack_of, pack_size=capacity)
    assert np.bincount(after, weights=lengths).max() <= capacity
    before_spread, spread = (np.bincount(each, weights=weights).std() for each in (pack_of, after))
    assert spread < 0.1 * before_spread


def test_packs_over_a_bound_come_within_it_where_there_is_room():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 30, 900)
    pack_of = np.minimum(np.arange(900) // 9, 99)
    capacity = int(lengths.sum() / 100 * 1.03)
    assert np.bincount(pack_of, weights=lengths).max() > capacity
    after = descended(lengths, lengths, pack_of, pack_size=capacity)
    assert np.bincount(after, weights=lengths).max() <= capacity


def test_a_second_bound_is_kept_too():
    random = np.random.default_rng(0)
    visual = random.integers(0, 30, 900)
    lengths = visual + random.integers(1, 30, 900)
    pack_of = np.arange(900) // 9
    limit = int(visual.sum() / 100 * 1.05)
    assert np.bincount(pack_of, weights=visual).max() > limit
    after = descended(lengths, visual, pack_of, pack_size=int(lengths.sum() / 100 * 1.05), max_visual_tokens=limit)
    assert np.bincount(after, weights=visual).max() <= limit


sides = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=5)


@settings(deadline=None)
@given(sides, sides)
def test_ends_where_no_exchange_of_up_to_two_for_two_helps(left, right):
    samples = np.array(left + right)
    lengths, weights = samples.T
    capacity = max(sum(length for length, _ in side) for side in (left, right))
    after = descended(lengths, weights, [0] * len(left) + [1] * len(right), pack_size=capacity)
    difference = abs(np.subtract(*np.bincount(after, weights=weights, minlength=2)))
    if difference <= 0.01 * weights.sum():
        return  # equal enough: nobody asks for an exchange
    ours, theirs = (_choices(np.flatnonzero(after == pack)) for pack in (0, 1))
    reachable = []
    for gives, takes in product(ours, theirs):
        swapped = after.copy()
        swapped[gives], swapped[takes] = 1, 0
        if np.bincount(swapped, weights=lengths, minlength=2).max() <= capacity:
            reachable.append(abs(np.subtract(*np.bincount(swapped, weights=weights, minlength=2))))
    assert len(reachable) >= 1
    assert difference == min(reachable)


def _choices(members):
    return [list(choice) for size in range(3) for choice in combinations(members, size)]


def test_an_empty_pack_takes_part():
    after = descended([10, 10, 10, 10, 10], [5, 5, 5, 5, 5], [0, 0, 0, 0, 2], pack_size=20)
    assert np.bincount(after, minlength=3).max() <= 2


def sweeps_of_a_descent(monkeypatch, weights, *, free_meetings):
    """Sweeps made on packs of three equal samples, and what a pack is off the mean afterwards on average."""
    problem = make_problem(np.ones_like(weights), np.zeros_like(weights), PackBounds(pack_size=3))
    num_packs = len(weights) // 3
    scaled = np.rint(weights * (MEAN_WEIGHT * num_packs / weights.sum())).astype(np.int32)
    effort = Effort(num_sweeps=60, indulgent_sweeps=0, free_meetings=free_meetings, most_meetings=10**9)
    swept, sweep_once = [], trades.sweep_once

    def counted(*given):
        swept.append(1)
        return sweep_once(*given)

    monkeypatch.setattr(exchange, "sweep_once", counted)
    pack_of = np.arange(len(weights), dtype=np.int32) // 3
    after = exchange_descent(problem, pack_of, scaled, num_packs, effort, seed=0)
    packs = np.bincount(after, weights=scaled, minlength=num_packs)
    return len(swept), float(np.abs(packs / MEAN_WEIGHT - 1).mean())


def test_a_descent_ends_where_meetings_are_no_longer_worth_it(monkeypatch):
    # Every pack holds three samples of 10 or of 11, all within bounds: after some exchanges, sums differ by one for ever.
    weights = np.repeat([10, 10, 11, 11], 750)
    until_worthless, off = sweeps_of_a_descent(monkeypatch, weights, free_meetings=0)
    to_the_end, least = sweeps_of_a_descent(monkeypatch, weights, free_meetings=10**9)
    assert until_worthless < 20 < to_the_end
    assert 0 < off <= 1.02 * least


def test_a_descent_goes_on_while_meetings_are_worth_it(monkeypatch):
    weights = np.random.default_rng(0).integers(1, 1000, 3000)
    few, _ = sweeps_of_a_descent(monkeypatch, weights, free_meetings=0)
    assert few > 8
