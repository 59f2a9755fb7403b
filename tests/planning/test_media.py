"""Media are spread over the packs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprep.planning.best_fit import best_fit_decreasing
from vlmprep.planning.media import spread_media
from vlmprep.planning.problem import PackBounds, make_problem


def fakes(problem, pack_of):
    return int((np.bincount(pack_of, weights=problem.visual_tokens) == 0).sum())


@settings(deadline=None)
@given(st.data())
def test_bounds_are_kept_and_fakes_never_grow(data):
    visual = data.draw(st.lists(st.sampled_from([0, 0, 4, 9]), min_size=1, max_size=60))
    lengths = [v + data.draw(st.integers(1, 30)) for v in visual]
    problem = make_problem(lengths, visual, PackBounds(pack_size=50, max_visual_tokens=18), fake_tokens=5)
    before = best_fit_decreasing(problem)
    after = spread_media(problem, before)
    assert sorted(np.unique(after)) == sorted(np.unique(before))
    assert fakes(problem, after) <= fakes(problem, before)
    media = np.bincount(after, weights=visual)
    assert (np.bincount(after, weights=lengths) + 5 * (media == 0) <= 50).all()
    assert (media <= 18).all()


def test_a_pack_of_text_gets_a_medium_from_a_pack_of_media():
    problem = make_problem([25, 25, 25, 25], [9, 9, 0, 0], PackBounds(pack_size=50))
    start = np.array([0, 0, 1, 1], np.int32)
    assert fakes(problem, start) == 1
    assert fakes(problem, spread_media(problem, start)) == 0
    assert start.tolist() == [0, 0, 1, 1]


def test_nothing_moves_where_nothing_fits():
    problem = make_problem([20, 30, 26, 24], [9, 9, 0, 0], PackBounds(pack_size=50))
    start = np.array([0, 0, 1, 1], np.int32)
    assert spread_media(problem, start).tolist() == [0, 0, 1, 1]
