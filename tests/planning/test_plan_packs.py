"""Promises of the planner that hold for every input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprep.planning import plan_packs

PACK_SIZE = 64
FAKE_TOKENS = 5
BALANCES = ("none", "vt", "compute")


@st.composite
def samples(draw):
    """Lengths and visual tokens that fit into PACK_SIZE, with room for a fake image where there is no medium."""
    visual = draw(st.lists(st.one_of(st.just(0), st.integers(1, PACK_SIZE)), max_size=60))
    text = [draw(st.integers(0 if v else 1, PACK_SIZE - (v or FAKE_TOKENS))) for v in visual]
    return np.array(visual, np.int64) + np.array(text, np.int64), np.array(visual, np.int64)


@given(samples(), st.sampled_from(BALANCES), st.integers(0, 3))
def test_every_sample_stands_in_one_pack_and_no_pack_overflows(lengths_and_visual, balance, seed):
    lengths, visual = lengths_and_visual
    plan = plan_packs(
        lengths, visual, pack_size=PACK_SIZE, balance=balance, seed=seed, fake_tokens=FAKE_TOKENS, costs=lengths * 0.3
    )
    assert sorted(plan.samples.tolist()) == list(range(len(lengths)))
    assert plan.offsets[0] == 0
    assert plan.offsets[-1] == len(lengths)
    assert len(plan.bins) == plan.num_packs == len(plan.needs_fake)
    for pack, members in enumerate(plan.bins):
        assert members.size
        assert plan.pack_tokens[pack] == lengths[members].sum()
        assert plan.pack_visual_tokens[pack] == visual[members].sum()
        assert plan.needs_fake[pack] == (not visual[members].any())
        assert plan.pack_tokens[pack] + plan.needs_fake[pack] * FAKE_TOKENS <= PACK_SIZE


@pytest.mark.parametrize("balance", BALANCES)
def test_nothing_to_pack_gives_an_empty_plan(balance):
    plan = plan_packs([], [], pack_size=PACK_SIZE, balance=balance, costs=[])
    assert (plan.num_packs, plan.fill, plan.bins, plan.straggler_ratio(8)) == (0, 0.0, [], 1.0)
