"""Promises of the planner that hold for every input."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprep.planning import plan_packs
from vlmprep.planning.merit import epoch_time

PACK_SIZE = 64
FAKE_TOKENS = 5
BALANCES = ("none", "vt", "compute")
# The first plan of a process compiles, or loads what was compiled.
relaxed = settings(deadline=None, max_examples=60)


@st.composite
def samples(draw, min_size=0):
    """Lengths, visual tokens and images that fit into PACK_SIZE, with room for a fake image where there is no medium."""
    visual = draw(st.lists(st.one_of(st.just(0), st.integers(1, PACK_SIZE)), min_size=min_size, max_size=60))
    text = [draw(st.integers(0 if v else 1, PACK_SIZE - (v or FAKE_TOKENS))) for v in visual]
    images = [draw(st.integers(1, 4)) if v else 0 for v in visual]
    return np.array(visual, np.int64) + np.array(text, np.int64), np.array(visual, np.int64), np.array(images, np.int64)


@relaxed
@given(samples(), st.sampled_from(BALANCES), st.integers(0, 3))
def test_every_sample_stands_in_one_pack_and_no_pack_overflows(drawn, balance, seed):
    lengths, visual, _ = drawn
    costs = lengths * 0.3 + visual**2
    plan = plan_packs(
        lengths, visual, pack_size=PACK_SIZE, balance=balance, seed=seed, fake_tokens=FAKE_TOKENS, costs=costs
    )
    assert sorted(plan.samples.tolist()) == list(range(len(lengths)))
    assert (plan.offsets[0], plan.offsets[-1]) == (0, len(lengths))
    assert len(plan.bins) == plan.num_packs == len(plan.needs_fake)
    for pack, members in enumerate(plan.bins):
        assert members.size
        assert members.tolist() == sorted(members.tolist())
        assert plan.pack_tokens[pack] == lengths[members].sum()
        assert plan.pack_visual_tokens[pack] == visual[members].sum()
        assert plan.pack_costs[pack] == pytest.approx(costs[members].sum())
        assert plan.needs_fake[pack] == (not visual[members].any())
        assert plan.pack_tokens[pack] + plan.needs_fake[pack] * FAKE_TOKENS <= PACK_SIZE


@relaxed
@given(samples(min_size=1), st.sampled_from(BALANCES), st.integers(0, 6), st.integers(0, 40))
def test_no_pack_exceeds_a_bound(drawn, balance, more_images, more_visual):
    lengths, visual, images = drawn
    costs = visual * 1.7 + lengths * 0.1
    bounds = {
        "max_images": int(images.max()) + more_images,
        "max_visual_tokens": int(visual.max()) + more_visual,
        "max_cost": float(costs.max()) * 1.5,
    }
    plan = plan_packs(lengths, visual, pack_size=PACK_SIZE, balance=balance, images=images, costs=costs, **bounds)
    assert sorted(plan.samples.tolist()) == list(range(len(lengths)))
    for members in plan.bins:
        assert lengths[members].sum() <= PACK_SIZE
        assert images[members].sum() <= bounds["max_images"]
        assert visual[members].sum() <= bounds["max_visual_tokens"]
        assert costs[members].sum() <= bounds["max_cost"]


@relaxed
@given(samples(min_size=1), st.sampled_from(["vt", "compute"]), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_a_balanced_plan_is_no_worse_than_best_fit_decreasing(drawn, balance, fill_weight):
    lengths, visual, _ = drawn
    costs = lengths + 2.0 * visual
    settings = {"pack_size": PACK_SIZE, "costs": costs}
    balanced = plan_packs(lengths, visual, balance=balance, fill_weight=fill_weight, **settings)
    unbalanced = plan_packs(lengths, visual, balance="none", **settings)
    fewest = lengths.sum() / PACK_SIZE
    work = {"vt": "pack_visual_tokens", "compute": "pack_costs"}[balance]
    if not visual.any() and balance == "vt":
        assert balanced.num_packs == unbalanced.num_packs
    elif not balanced.needs_fake.any() and not unbalanced.needs_fake.any():  # else media may have been spread since
        ours, theirs = (epoch_time(getattr(plan, work), fewest, fill_weight) for plan in (balanced, unbalanced))
        assert ours <= theirs * (1 + 1e-9)


@relaxed
@given(samples(min_size=1), st.sampled_from(BALANCES), st.integers(0, 1 << 70))
def test_the_same_input_and_seed_give_the_same_bytes(drawn, balance, seed):
    lengths, visual, _ = drawn
    first, second = (
        plan_packs(
            np.array(lengths, dtype), visual, pack_size=PACK_SIZE, balance=balance, seed=seed, costs=lengths * 1.0
        )
        for dtype in (np.int64, np.uint16)
    )
    assert first.samples.tobytes() == second.samples.tobytes()
    assert first.offsets.tobytes() == second.offsets.tobytes()


def test_the_seed_shuffles_the_packs():
    lengths = np.arange(1, 61)
    orders = {
        plan_packs(lengths, lengths, pack_size=64, balance="none", seed=seed).samples.tobytes() for seed in range(8)
    }
    assert len(orders) == 8


@pytest.mark.parametrize("balance", BALANCES)
def test_nothing_to_pack_gives_an_empty_plan(balance):
    plan = plan_packs([], [], pack_size=PACK_SIZE, balance=balance, costs=[])
    assert (plan.num_packs, plan.fill, plan.bins, plan.straggler_ratio(8)) == (0, 0.0, [], 1.0)


@pytest.mark.parametrize("balance", BALANCES)
def test_one_sample_makes_one_pack(balance):
    plan = plan_packs([7], [3], pack_size=PACK_SIZE, balance=balance, costs=[0.5])
    assert [pack.tolist() for pack in plan.bins] == [[0]]
    assert (plan.fill, plan.straggler_ratio(1), plan.min_packs) == (7 / 64, 1.0, 1)


@pytest.mark.parametrize("balance", BALANCES)
def test_equal_samples_make_full_and_equal_packs(balance):
    plan = plan_packs([16] * 400, [8] * 400, pack_size=PACK_SIZE, balance=balance, costs=[2.0] * 400)
    assert plan.num_packs == plan.min_packs == 100
    assert plan.fill == 1.0
    assert [plan.straggler_ratio(ranks) for ranks in (1, 8, 64)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("balance", BALANCES)
def test_samples_as_long_as_a_pack_stand_alone(balance):
    plan = plan_packs([64] * 9, [60] * 9, pack_size=64, balance=balance, costs=[1.0] * 9)
    assert plan.num_packs == 9


def test_text_alone_is_packed_as_full_as_can_be():
    plan = plan_packs([40, 24, 30, 34, 50, 14], [0] * 6, pack_size=64)
    assert plan.fill == 1.0
    assert plan.needs_fake.all()


# Perfect packings: halves and quarters of work that fit only one way.
@pytest.mark.parametrize(
    ("lengths", "visual", "packs"),
    [
        ([60, 60, 4, 4], [50, 20, 0, 30], 2),  # 60 + 4: 50 + 0 and 20 + 30
        ([32, 32, 32, 32], [30, 10, 20, 20], 2),  # 30 + 10 and 20 + 20
        ([40, 40, 12, 12, 12, 12], [10, 40, 12, 12, 1, 5], 2),  # 10 + 12 + 12 against 40 + 1 + 5 is the best there is
    ],
)
def test_small_problems_are_solved_to_the_optimum(lengths, visual, packs):
    plan = plan_packs(lengths, visual, pack_size=64)
    spread = np.ptp(plan.pack_visual_tokens)
    assert plan.num_packs == packs
    assert spread == min(_spreads_of_two_packs(np.array(lengths), np.array(visual)))


def _spreads_of_two_packs(lengths, visual):
    for choice in range(1 << len(lengths)):
        left = np.array([choice >> i & 1 for i in range(len(lengths))], bool)
        if lengths[left].sum() <= 64 and lengths[~left].sum() <= 64:
            yield abs(int(visual[left].sum()) - int(visual[~left].sum()))


def test_no_pack_needs_a_fake_where_media_go_round():
    random = np.random.default_rng(0)
    lengths = random.integers(10, 400, 3000)
    visual = np.where(random.random(3000) < 0.3, lengths // 2, 0)
    for balance in ("vt", "compute"):
        plan = plan_packs(lengths, visual, pack_size=1024, balance=balance, fake_tokens=16, costs=lengths * 1.0)
        assert np.count_nonzero(visual) > plan.num_packs
        assert not plan.needs_fake.any()


def test_every_medium_saves_a_fake_where_media_are_rare():
    random = np.random.default_rng(0)
    lengths = random.integers(10, 400, 3000)
    visual = np.where(random.random(3000) < 0.05, lengths // 2, 0)
    for balance in ("vt", "compute"):
        plan = plan_packs(lengths, visual, pack_size=1024, balance=balance, fake_tokens=16, costs=lengths * 1.0)
        assert plan.needs_fake.sum() == plan.num_packs - np.count_nonzero(visual)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [1, 65, 66]}, r"lengths\[1\] is 65, expected at most pack_size = 64 tokens \(and 1 more"),
        ({"lengths": [1, 0, 3]}, r"lengths\[1\] is 0, expected at least 1"),
        ({"visual_tokens": [0, -2, 3]}, r"visual_tokens\[1\] is -2"),
        ({"visual_tokens": [0, 2]}, r"visual_tokens must have one entry per sample \(3\), got 2"),
        ({"lengths": [1.5, 2.0, 3.0]}, "lengths must be a flat array of integers, got float64"),
        ({"lengths": [60, 2, 3], "fake_tokens": 5}, r"lengths\[0\] is 60, .*pack_size - fake_tokens = 59"),
        ({"fake_tokens": 64}, "fake_tokens must be from 0 to"),
        ({"max_visual_tokens": 2}, r"visual_tokens\[2\] is 3, expected at most max_visual_tokens = 2"),
        ({"max_images": 2}, "max_images needs the number of images"),
        ({"max_images": 2, "images": [0, 1, 3]}, r"images\[2\] is 3, expected at most max_images = 2"),
        ({"max_cost": 2.0}, "max_cost needs the cost"),
        ({"max_cost": 2.0, "costs": [1.0, 2.5, 1.0]}, r"costs\[1\] is 2.5, expected at most max_cost = 2.0"),
        ({"costs": [1.0, float("nan"), 1.0]}, r"costs\[1\] is nan"),
        ({"balance": "compute"}, "balance='compute' needs the cost"),
        ({"balance": "tokens"}, "balance must be none, vt or compute, got 'tokens'"),
        ({"pack_size": 0}, "pack_size must be from 1"),
        ({"fill_weight": 1.5}, "fill_weight must be from 0 to 1"),
        ({"max_images": -1, "images": [0, 0, 0]}, "max_images must be at least 0"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_number(changes, message):
    arguments = {"lengths": [4, 5, 6], "visual_tokens": [0, 2, 3], "pack_size": 64} | changes
    with pytest.raises(ValueError, match=message):
        plan_packs(arguments.pop("lengths"), arguments.pop("visual_tokens"), **arguments)


@relaxed
@given(samples(min_size=1), st.sampled_from(BALANCES), st.randoms(use_true_random=False))
def test_the_order_of_equal_samples_changes_only_their_numbers(drawn, balance, random):
    lengths, visual, _ = drawn
    order = np.lexsort((visual, lengths))
    blocks = np.split(order, np.flatnonzero(np.diff(lengths[order]) | np.diff(visual[order])) + 1)
    renamed = np.arange(len(lengths))
    for block in blocks:
        renamed[block] = random.sample(block.tolist(), len(block))
    costs = lengths + 0.5 * visual
    first, second = (
        plan_packs(lengths[each], visual[each], pack_size=PACK_SIZE, balance=balance, costs=costs[each])
        for each in (np.arange(len(lengths)), renamed)
    )
    assert first.samples.tobytes() == second.samples.tobytes()
    assert first.offsets.tobytes() == second.offsets.tobytes()


@relaxed
@given(samples(min_size=2), st.randoms(use_true_random=False))
def test_the_fewest_packs_do_not_depend_on_the_order_of_the_samples(drawn, random):
    """How full they are may, where samples are exchanged so that every pack has a picture: equal lengths go by their order."""
    lengths, visual, _ = drawn
    order = np.array(random.sample(range(len(lengths)), len(lengths)))

    def tokens(visual):
        plans = (
            plan_packs(lengths[each], visual[each], pack_size=PACK_SIZE, balance="none")
            for each in (np.arange(len(lengths)), order)
        )
        return [sorted(plan.pack_tokens.tolist()) for plan in plans]

    first, second = tokens(visual)
    assert len(first) == len(second)
    first, second = tokens(np.zeros_like(visual))
    assert first == second


PROGRAM = """
import hashlib
from vlmprep.planning import plan_packs
from vlmprep.planning.mixes import MIXES
for name in ("chat-8k", "tiles-4k"):
    mix = MIXES[name](4000, 1)
    for balance in ("none", "vt", "compute"):
        costs = mix.lengths + 2.0 * mix.visual_tokens
        plan = plan_packs(mix.lengths, mix.visual_tokens, pack_size=mix.pack_size, balance=balance, seed=7, costs=costs)
        print(hashlib.sha256(plan.samples.tobytes() + plan.offsets.tobytes()).hexdigest())
"""


def test_processes_threads_and_processors_give_the_same_plan(tmp_path):
    settings = (
        {"PYTHONHASHSEED": "1", "NUMBA_NUM_THREADS": "1"},
        {"PYTHONHASHSEED": "2", "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env=os.environ | each, capture_output=True, text=True, check=True
        ).stdout
        for each in settings
    ]
    assert len(set(printed)) == 1
    assert len(set(printed[0].split())) == 6


def test_one_giant_of_visual_tokens_leaves_the_others_equal():
    lengths, visual = np.full(801, 16), np.full(801, 4)
    lengths[400], visual[400] = 64, 64
    plan = plan_packs(lengths, visual, pack_size=64)
    assert plan.num_packs == 201
    assert sorted(np.unique(plan.pack_visual_tokens)) == [16, 64]


def test_samples_that_are_each_at_a_bound_stand_alone():
    plan = plan_packs([8] * 30, [4] * 30, pack_size=64, images=[4] * 30, max_images=4)
    assert [pack.size for pack in plan.bins] == [1] * 30
    with_text = plan_packs([8] * 60, [4, 0] * 30, pack_size=64, images=[4, 0] * 30, max_images=4)
    assert with_text.num_packs == 30
    assert np.ptp(with_text.pack_visual_tokens) == 0


@pytest.mark.parametrize("balance", BALANCES)
def test_without_any_media_every_pack_keeps_room_for_its_fake_image(balance):
    plan = plan_packs([16] * 40, [0] * 40, pack_size=64, balance=balance, fake_tokens=5, costs=[1.0] * 40)
    assert plan.needs_fake.all()
    assert plan.num_packs == 14  # three to a pack: four leave no room
    assert plan.pack_tokens.max() == 48


def test_samples_that_are_all_too_long_are_counted():
    with pytest.raises(ValueError, match=r"lengths\[0\] is 65, .*\(and 9 more samples\)"):
        plan_packs([65] * 10, [0] * 10, pack_size=64)


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
def test_a_few_samples_reach_the_best_of_all_plans(number):
    random = np.random.default_rng(number)
    for _ in range(20):
        visual = random.integers(1, 30, number)
        lengths = visual + random.integers(1, 30, number)
        plan = plan_packs(lengths, visual, pack_size=64, fill_weight=1.0)
        assert plan.num_packs == _fewest_packs(lengths.tolist(), 64)


def _fewest_packs(lengths, pack_size):
    """Over all ways to put every sample into a pack that is there, or into a new one."""
    if not lengths:
        return 0

    def fewest(index, packs):
        if index == len(lengths):
            return len(packs)
        length = lengths[index]
        ways = [fewest(index + 1, [*packs, length])]
        for pack, tokens in enumerate(packs):
            if tokens + length <= pack_size:
                ways.append(fewest(index + 1, [*packs[:pack], tokens + length, *packs[pack + 1 :]]))
        return min(ways)

    return fewest(0, [])
