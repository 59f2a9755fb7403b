"""What is compiled ahead is what later plans run, and Python gives what compiled loops give."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprep.planning import compiled
from vlmprep.planning.best_fit import best_fit_decreasing
from vlmprep.planning.longest_first import longest_to_emptiest
from vlmprep.planning.media import spread_media
from vlmprep.planning.pack_table import lay_out, read_off
from vlmprep.planning.problem import PackBounds, make_problem
from vlmprep.planning.trades import sweep_once

PROGRAM = """
from numba.core import event
from vlmprep.planning import compile_ahead, plan_packs
from vlmprep.planning.mixes import MIXES

compile_ahead()
with event.install_recorder("numba:compile") as compilations:
    for name in ("chat-8k", "tiles-4k", "text-8k"):
        mix = MIXES[name](3000, 0)
        for balance in ("none", "vt", "compute"):
            plan_packs(
                mix.lengths,
                mix.visual_tokens,
                pack_size=mix.pack_size,
                balance=balance,
                costs=mix.lengths * 1.0,
                fake_tokens=6,
                max_visual_tokens=mix.pack_size,
            )
print(len(compilations.buffer))
"""


def test_nothing_is_left_to_compile_after_compiling_ahead():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "0"


lists_of_samples = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 40), st.integers(0, 2)), min_size=1, max_size=60
)


@given(lists_of_samples, st.integers(1, 8))
def test_few_samples_are_laid_out_as_many_are(samples, num_packs):
    text, visual, images = np.array(samples).T
    visual = np.minimum(visual, 90 - text + 5)
    problem = make_problem(text + visual, visual, PackBounds(pack_size=100, max_images=3), fake_tokens=5, images=images)
    few = _laid_out(problem, num_packs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "FEW_SAMPLES", 0)
        many = _laid_out(problem, num_packs)
    assert [each.tobytes() for each in few] == [each.tobytes() for each in many]


def _laid_out(problem, num_packs):
    best = best_fit_decreasing(problem)
    started = best_fit_decreasing(problem, np.where(best % 2 == 0, best // 2, -1).astype(np.int32))
    spread = longest_to_emptiest(problem, num_packs)
    table = lay_out(spread, np.column_stack([problem.visual_tokens, problem.lengths]), num_packs)
    assert (read_off(table, problem.num_samples) == spread).all()
    return best, started, spread, spread_media(problem, best), table.packs, table.items


def test_many_samples_are_not_left_to_python():
    assert compiled.in_proportion(sweep_once, compiled.FEW_SAMPLES + 1) is sweep_once
    assert not hasattr(compiled.in_proportion(sweep_once, compiled.FEW_SAMPLES), "py_func")
