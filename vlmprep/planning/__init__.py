"""From exact token counts to a plan of full and equal packs; pure: arrays in, plan out."""

from __future__ import annotations

from vlmprep.planning.plan import PackPlan, straggler_ratio
from vlmprep.planning.planner import Balance, compile_ahead, plan_packs

__all__ = ["Balance", "PackPlan", "compile_ahead", "plan_packs", "straggler_ratio"]
