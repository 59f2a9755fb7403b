"""Longest first, each to the emptiest pack, against a heap of the standard library."""

from __future__ import annotations

import heapq

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprep.planning.longest_first import longest_first, longest_to_emptiest
from vlmprep.planning.problem import PackBounds, make_problem


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), max_size=80), st.integers(1, 12))
def test_spreads_tokens_as_a_heap_does(lengths, num_packs):
    problem = make_problem(lengths, [0] * len(lengths), PackBounds(pack_size=1000))
    heap = [0] * num_packs
    for length in sorted(lengths, reverse=True):
        heapq.heapreplace(heap, heap[0] + length)
    tokens = np.bincount(longest_to_emptiest(problem, num_packs), weights=lengths, minlength=num_packs)
    assert sorted(tokens.tolist()) == sorted(heap)


def test_equal_samples_keep_their_order_whatever_the_width_of_the_sort():
    for pack_size in (100, 1 << 20):
        problem = make_problem([5, 9, 5, 9, 1], [0] * 5, PackBounds(pack_size=pack_size))
        assert longest_first(problem).tolist() == [1, 3, 0, 2, 4]
