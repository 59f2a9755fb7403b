"""The number that plans are judged by."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from vlmprep.planning import straggler_ratio
from vlmprep.planning.merit import epoch_time, expected_straggler_ratio


def test_the_expectation_is_that_of_all_possible_steps():
    weights = np.array([3.0, 5.0, 5.0, 11.0])
    steps = [max(step) for step in product(weights, repeat=3)]
    assert expected_straggler_ratio(weights, ranks=3) == pytest.approx(np.mean(steps) / weights.mean())


def test_full_and_equal_packs_take_the_ideal_time():
    assert epoch_time(np.full(10, 7), 10.0, 0.5) == pytest.approx(1.0)
    assert epoch_time(np.full(12, 7), 10.0, 0.5) == pytest.approx(1.1)
    assert epoch_time(np.zeros(10), 10.0, 0.5) == pytest.approx(1.0)


def test_the_expectation_agrees_with_shuffled_epochs():
    # Not exactly: a step's mean is not the mean of all, which matters more the less equal packs are.
    work = np.random.default_rng(0).integers(800, 1000, 64_000)
    measured = np.mean([straggler_ratio(work, 64, seed=seed) for seed in range(4)])
    assert expected_straggler_ratio(work, 64) == pytest.approx(measured, rel=1e-3)


def test_the_straggler_ratio_is_the_mean_over_steps():
    # Two ranks: whatever the shuffle, every step has one 1 and one 3, or two equals.
    assert straggler_ratio(np.array([1, 3]), 2) == pytest.approx(1.5)
    assert straggler_ratio(np.array([2, 2, 2, 2]), 2) == 1.0
    assert straggler_ratio(np.array([4, 0, 0, 0]), 4) == pytest.approx(4.0)


def test_steps_without_work_count_as_one_and_idle_ranks_as_zero():
    assert straggler_ratio(np.zeros(8), 4) == 1.0
    assert straggler_ratio(np.array([5]), 4) == pytest.approx(4.0)
    assert straggler_ratio(np.array([]), 4) == 1.0


def test_the_last_packs_that_make_no_step_are_left_out():
    works = [straggler_ratio(np.array([1, 1, 1, 1, 9]), 4, seed=seed) for seed in range(40)]
    assert min(works) == 1.0  # the 9 is left out in some shuffles
    assert max(works) == pytest.approx(3.0)


def test_no_ranks_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        straggler_ratio(np.ones(3), 0)
