"""Ledger to plan: which samples are used, which fit, and what pack each goes to.

mixture.py     how often every row is used: sample_ratio, weights
candidates.py  what can be laid into packs and what it takes there; what cannot, and why
cuts.py        what is left of samples that are longer than a pack
bounds.py      what no pack may exceed
costs.py       what every sample costs
make.py        the stage: candidates to packs to files
forecast.py    what a plan promises
budget.py      how many rows may be refused
file.py        the plan on disk
"""

from __future__ import annotations

from vlmprep.pipeline.plan.budget import check_refusal_budget, num_refused
from vlmprep.pipeline.plan.file import Plan, open_plan
from vlmprep.pipeline.plan.make import make_plan

__all__ = ["Plan", "check_refusal_budget", "make_plan", "num_refused", "open_plan"]
