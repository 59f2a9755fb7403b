"""Which packs share a step: every pack once, steps of equal work, in no order of their work."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlmprep.schema import step_order as module
from vlmprep.schema.blocks import Integers
from vlmprep.schema.step_order import WINDOW_STEPS, step_order

WORK = st.lists(st.integers(0, 1000), max_size=120).map(lambda values: np.array(values, np.float64))
GLOBAL_BATCH = st.integers(1, 12)


def packs(num_packs: int, seed: int = 0) -> NDArray[np.float64]:
    """Work of packs like those that single samples nearly fill: most near the mean, few far above or below it."""
    random = np.random.default_rng(seed)
    work = 5500 * random.lognormal(0, 0.02, num_packs)
    work[random.random(num_packs) < 0.03] *= 1.4
    work[random.random(num_packs) < 0.01] *= 0.1
    return work


def steps_of(work: NDArray[Any], order: Integers, global_batch: int) -> NDArray[Any]:
    """[num_steps, global_batch] the work of each step's packs."""
    num_steps = len(work) // global_batch
    assert num_steps > 1
    return work[order[: num_steps * global_batch]].reshape(num_steps, global_batch)


def straggler_ratio(steps: NDArray[Any]) -> float:
    return float((steps.max(axis=1) / steps.mean(axis=1)).mean())


@given(WORK, GLOBAL_BATCH, st.integers(0, 5))
def test_every_pack_stands_once_and_those_of_no_step_stay_last(work, global_batch, seed):
    order = step_order(work, seed, 3, global_batch=global_batch)
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(len(work)))
    whole = len(work) // global_batch * global_batch
    assert order[whole:].tolist() == list(range(whole, len(work)))


@given(WORK, st.integers(2, 12))
def test_steps_of_a_window_do_not_overlap_in_work(work, global_batch):
    if len(work) < 2 * global_batch or len(work) // global_batch >= 2 * WINDOW_STEPS:
        return
    order = step_order(work, 1, global_batch=global_batch)
    steps = steps_of(work, order, global_batch)
    steps = steps[np.argsort(steps.sum(axis=1))]  # packs of one hundredth may stand in either order
    equal = 0.0101 * work.mean()
    assert (steps[:-1].max(axis=1) <= steps[1:].min(axis=1) + equal).all()


@given(WORK, GLOBAL_BATCH)
def test_packs_of_a_step_stand_as_they_were_shuffled(work, global_batch):
    order = step_order(work, 1, global_batch=global_batch)
    steps = order[: len(work) // global_batch * global_batch].reshape(-1, global_batch)
    assert (np.diff(steps, axis=1) > 0).all()


@pytest.mark.parametrize("level", [0.0, 1.0, 5302.7])
def test_equal_packs_stay_as_they_were_shuffled(level):
    work = level * np.random.default_rng(0).uniform(0.9961, 1.0039, 1000)
    assert np.array_equal(step_order(work, 5, global_batch=8), np.arange(1000))


def test_nearly_equal_packs_stay_mixed():
    # Two kinds of packs: within a kind, packs share a step at random, whatever their last per mille.
    random = np.random.default_rng(0)
    is_heavy = random.random(20_000) < 0.5
    work = np.where(is_heavy, 7685, 6405) + random.uniform(-5, 5, 20_000)
    steps = steps_of(work, step_order(work, 0, global_batch=8), 8)
    heavy = steps[steps.min(axis=1) > 7000]
    assert len(heavy) > 1000
    random_spread = work[is_heavy].std() / np.sqrt(8)
    assert heavy.mean(axis=1).std() == pytest.approx(random_spread, rel=0.1)


@pytest.mark.parametrize("global_batch", [8, 64, 512])
def test_steps_are_equal_inside_and_stand_in_no_order(global_batch):
    work = packs(16_000)
    shuffled = steps_of(work, np.arange(len(work)), global_batch)
    order = step_order(work, 3, 0, global_batch=global_batch)
    steps = steps_of(work, order, global_batch)
    assert straggler_ratio(shuffled) > 1.08
    assert straggler_ratio(steps) < 1.03
    assert abs(np.corrcoef(work[order], np.arange(len(work)))[0, 1]) < 0.02
    assert steps.mean(axis=1).std() < 1.3 * work.std()


def test_few_steps_with_one_outlier_do_not_drift_from_light_to_heavy():
    # Of 25 steps, one is nearly without work: wherever it stood by chance, it would tilt the epoch.
    work = np.full(25 * 64, 5000.0)
    work[:64] = 10
    work = np.random.default_rng(0).permutation(work) * np.random.default_rng(1).uniform(0.98, 1.02, len(work))
    drifts = []
    for seed in range(20):
        order = step_order(work, seed, global_batch=64)
        drifts.append(abs(np.corrcoef(work[order], np.arange(len(work)))[0, 1]))
    assert max(drifts) < 0.02


def test_packs_that_fill_no_step_are_a_fair_draw():
    left = []
    for seed in range(200):
        work = packs(8 * 40 + 7, seed)
        left.append(work[step_order(work, seed, global_batch=8)][-7:].mean() / work.mean())
    assert np.mean(left) == pytest.approx(1, abs=0.01)


def test_windows_are_fair_draws_so_a_heavy_pack_meets_others_every_time():
    work = packs(8 * WINDOW_STEPS * 20)
    heaviest = int(work.argmax())
    mates = set()
    for seed in range(10):
        shuffled = np.random.default_rng(seed).permutation(len(work))
        order = shuffled[step_order(work[shuffled], seed, global_batch=8)]
        [place] = np.flatnonzero(order == heaviest)
        mates |= set(order[place // 8 * 8 :][:8].tolist())
    assert len(mates) > 50


def test_the_order_is_of_the_key_and_of_nothing_else():
    work = packs(2000)
    order = step_order(work, 3, 4, global_batch=16)
    assert np.array_equal(order, step_order(work.copy(), 3, 4, global_batch=16))
    assert np.array_equal(order, step_order(work * 4, 3, 4, global_batch=16))
    others = {step_order(work, *key, global_batch=16).tobytes() for key in [(3,), (3, 5), (4, 4), (4, 3)]}
    assert len(others | {order.tobytes()}) == 5


def test_the_order_has_not_changed():
    # Made from integers that no library version changes. Another digest is another order of every epoch: say so in the
    # changelog, and give the loader's state a new version.
    work = (np.arange(5000) * 2654435761 % 3989 + 17) * 1.25
    digest = hashlib.sha256(step_order(work, 3, 1, global_batch=8).astype("<i8").tobytes()).hexdigest()[:16]
    assert digest == "427b9aa953151bf9"


def test_the_order_does_not_depend_on_how_many_packs_are_sorted_at_a_time(monkeypatch):
    work = packs(8 * WINDOW_STEPS * 9 + 5)
    orders = set()
    for at_a_time in (1, 3 * 8 * WINDOW_STEPS, 1 << 30):  # a window, three of them, all
        monkeypatch.setattr(module, "_AT_A_TIME", at_a_time)
        orders.add(step_order(work, 3, global_batch=8).tobytes())
    assert len(orders) == 1


def test_one_pack_a_step_has_nothing_to_share():
    assert step_order(packs(100), 1, global_batch=1).tolist() == list(range(100))


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e300])
def test_the_unit_of_work_does_not_matter(scale):
    work = packs(800)
    steps = steps_of(work, step_order(work * scale, 1, global_batch=8), 8)
    assert straggler_ratio(steps) < 1.05 < straggler_ratio(steps_of(work, np.arange(800), 8))


def test_one_pack_far_beyond_all_others_takes_no_order_from_them():
    work = packs(8001)
    work[17] = 1e9
    order = step_order(work, 1, global_batch=8)
    others = np.delete(steps_of(work, order, 8), np.flatnonzero(order == 17) // 8, axis=0)
    assert len(others) >= 999
    assert straggler_ratio(others) < 1.3


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_impossible_work_is_refused(bad):
    with pytest.raises(ValueError, match="finite and at least 0"):
        step_order(np.array([1.0, bad, 2.0]), 0, global_batch=2)


def test_an_empty_step_is_refused():
    with pytest.raises(ValueError, match="global_batch must be at least 1, got 0"):
        step_order(np.ones(3), 0, global_batch=0)
