"""How equal steps become where packs cannot be: the straggler ratio that a loader with grouped steps reaches."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from vlmprep.planning import PackPlan, plan_packs, straggler_ratio
from vlmprep.planning.mixes import MIXES
from vlmprep.schema.keyed_order import keyed_order
from vlmprep.schema.step_order import step_order

NUM_SAMPLES = 100_000
RANKS = (8, 64, 512)


@lru_cache
def planned(name: str) -> PackPlan:
    mix = MIXES[name](NUM_SAMPLES, 0)
    return plan_packs(mix.lengths, mix.visual_tokens, pack_size=mix.pack_size)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", ["chat-8k-hard", "document-32k", "tiles-8k", "video-32k"])
def test_no_rank_waits_where_steps_are_grouped(name, ranks):
    plan = planned(name)
    grouped = plan.straggler_ratio(ranks, group_by="vt")
    assert grouped <= {"chat-8k-hard": 1.03, "document-32k": 1.01, "tiles-8k": 1.01, "video-32k": 1.01}[name]
    assert grouped - 1 < 0.6 * (plan.straggler_ratio(ranks) - 1)
    assert plan.straggler_ratio(ranks, what="tokens", group_by="vt") <= 1.01


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", ["chat-8k-hard", "tiles-8k"])
def test_grouping_sorts_no_epoch(name, ranks):
    visual = planned(name).pack_visual_tokens
    num_steps = len(visual) // ranks
    for seed in range(3):
        order = keyed_order(len(visual), seed, 0)
        order = order[step_order(visual[order], seed, 0, global_batch=ranks)]
        assert abs(np.corrcoef(visual[order], np.arange(len(visual)))[0, 1]) <= 0.02
        steps = visual[order[: num_steps * ranks]].reshape(num_steps, ranks)
        assert steps.mean(axis=1).std() <= 1.3 * visual.std()
        # 512 ranks make 30 steps of these samples: means of 15 scatter more.


def test_grouping_by_one_work_is_told_in_another():
    work, other = np.repeat([1, 9], 200), np.tile([2, 6], 200)
    assert straggler_ratio(work, 2, group_by=work) < 1.05
    assert straggler_ratio(other, 2, group_by=other) < 1.05
    assert straggler_ratio(work, 2, group_by=other) > 1.3
    assert straggler_ratio(work, 2, group_by=np.zeros(400)) == straggler_ratio(work, 2) > 1.3


def test_idle_ranks_stay_idle_however_packs_are_grouped():
    assert straggler_ratio(np.array([5, 5]), 4, group_by=np.array([5, 5])) == pytest.approx(2.0)
    assert straggler_ratio(np.array([]), 4, group_by=np.array([])) == 1.0
