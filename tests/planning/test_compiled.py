"""Compiling ahead covers what later plans run."""

from __future__ import annotations

import subprocess
import sys

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
