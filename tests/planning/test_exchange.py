"""The exchange descent by itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprep.planning.exchange import MEAN_WEIGHT, exchange_descent
from vlmprep.planning.problem import PackBounds, make_problem


def descended(lengths, weights, pack_of, *, pack_size, num_sweeps=64, seed=0, **bounds):
    problem = make_problem(lengths, weights, PackBounds(pack_size=pack_size, **bounds))
    num_packs = int(max(pack_of)) + 1
    scaled = np.rint(np.array(weights) * (MEAN_WEIGHT * num_packs / max(sum(weights), 1))).astype(np.int32)
    return exchange_descent(problem, np.array(pack_of, np.int32), scaled, num_packs, num_sweeps, seed=seed)


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


def test_finds_the_exchange_of_two_for_one():
    # 30 + 30 against 59 + 1 in tokens; only giving both thirties for the 59 and more would overflow: 8 + 2 for 10 is left.
    lengths, weights = [30, 30, 58, 2], [9, 9, 1, 1]
    after = descended(lengths, weights, [0, 0, 1, 1], pack_size=62)
    assert sorted(np.bincount(after, weights=weights).tolist()) == sorted(
        np.bincount([0, 0, 1, 1], weights=weights).tolist()
    )
    lengths, weights = [20, 20, 20, 40, 20], [5, 5, 5, 4, 1]
    after = descended(lengths, weights, [0, 0, 0, 1, 1], pack_size=60)
    assert np.bincount(after, weights=weights).tolist() == [10, 10] or np.ptp(np.bincount(after, weights=weights)) <= 2


def test_an_empty_pack_takes_part():
    after = descended([10, 10, 10, 10, 10], [5, 5, 5, 5, 5], [0, 0, 0, 0, 2], pack_size=20)
    assert np.bincount(after, minlength=3).max() <= 2
