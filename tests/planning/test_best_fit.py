"""Best-fit decreasing against the textbook's form of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprep.planning.best_fit import best_fit_decreasing
from vlmprep.planning.problem import PackBounds, make_problem

lists_of_lengths = st.lists(st.integers(1, 100), max_size=80)


@settings(deadline=None)
@given(lists_of_lengths)
def test_leaves_packs_as_full_as_the_textbook(lengths):
    problem = make_problem(lengths, np.ones(len(lengths), np.int64), PackBounds(pack_size=100))
    tokens = np.bincount(best_fit_decreasing(problem), weights=lengths, minlength=0)
    assert sorted(tokens.tolist()) == sorted(_textbook(lengths, 100))


def _textbook(lengths, pack_size):
    packs: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [pack for pack in range(len(packs)) if packs[pack] + length <= pack_size]
        if fitting:
            packs[max(fitting, key=lambda pack: packs[pack])] += length
        else:
            packs.append(length)
    return packs


@settings(deadline=None)
@given(lists_of_lengths, lists_of_lengths)
def test_fills_packs_that_are_already_there(placed, unplaced):
    lengths = placed + unplaced
    problem = make_problem(lengths, np.zeros(len(lengths), np.int64), PackBounds(pack_size=100), fake_tokens=0)
    start = np.array([*range(len(placed)), *[-1] * len(unplaced)], np.int32)
    pack_of = best_fit_decreasing(problem, start)
    assert pack_of[: len(placed)].tolist() == list(range(len(placed)))
    assert (np.bincount(pack_of, weights=lengths) <= 100).all()
    assert (start == np.array([*range(len(placed)), *[-1] * len(unplaced)])).all()  # left as it was


def test_a_media_sample_may_use_the_room_of_the_fake_image():
    problem = make_problem([50, 50], [0, 10], PackBounds(pack_size=100), fake_tokens=8)
    assert best_fit_decreasing(problem).tolist() == [0, 0]


def test_text_leaves_room_for_the_fake_image():
    problem = make_problem([50, 50], [0, 0], PackBounds(pack_size=100), fake_tokens=8)
    assert best_fit_decreasing(problem).tolist() == [0, 1]
