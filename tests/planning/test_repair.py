"""Packs over their bounds are brought within them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprep.planning.problem import PackBounds, make_problem
from vlmprep.planning.repair import repair, without_gaps


@settings(deadline=None)
@given(st.data(), st.integers(1, 6))
def test_any_start_becomes_a_plan(data, num_packs):
    visual = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=40))
    lengths = [v + data.draw(st.integers(1, 20)) for v in visual]
    start = without_gaps(np.array([data.draw(st.integers(0, num_packs - 1)) for _ in visual], np.int32))
    problem = make_problem(lengths, visual, PackBounds(pack_size=50, max_visual_tokens=30), fake_tokens=5)
    pack_of = repair(problem, start)
    tokens = np.bincount(pack_of, weights=lengths)
    media = np.bincount(pack_of, weights=visual)
    assert (np.bincount(pack_of) > 0).all()
    assert (tokens + 5 * (media == 0) <= 50).all()
    assert (media <= 30).all()


def test_packs_within_bounds_are_left_alone():
    problem = make_problem([20, 30, 25, 25], [1, 1, 1, 1], PackBounds(pack_size=50))
    assert repair(problem, np.array([0, 0, 1, 1], np.int32)).tolist() == [0, 0, 1, 1]


def test_the_shortest_sample_that_is_enough_leaves():
    problem = make_problem([40, 12, 3, 2], [1, 1, 1, 1], PackBounds(pack_size=50))
    assert repair(problem, np.array([0, 0, 0, 0], np.int32)).tolist() == [0, 1, 0, 0]


def test_empty_packs_are_closed():
    assert without_gaps(np.array([3, 1, -1, 3], np.int32)).tolist() == [1, 0, -1, 1]
