"""Looking at what the stages wrote: a ledger, a plan or a pack set, finished or not.

recognize.py   what a folder is
ledger.py      rows, refusals and lengths of a ledger
plan.py        what a plan promises
packset.py     what a pack set holds, from its index and its account alone
unfinished.py  what is there of half-finished output, and which command goes on with it
pack.py        one pack, read back into documents and text
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from vlmprep.pipeline.inspect.ledger import LedgerReport, inspect_ledger
from vlmprep.pipeline.inspect.packset import PackSetReport, inspect_packset
from vlmprep.pipeline.inspect.plan import PlanReport, inspect_plan
from vlmprep.pipeline.inspect.unfinished import UnfinishedReport, inspect_unfinished
from vlmprep.pipeline.recognize import Kind, recognize

__all__ = ["LedgerReport", "PackSetReport", "PlanReport", "Report", "UnfinishedReport", "inspect_output"]

Report: TypeAlias = LedgerReport | PlanReport | PackSetReport | UnfinishedReport


def inspect_output(root: Path) -> Report:
    """Say what a folder holds.

    Raises:
        StopRun: It holds nothing that vlmprep made, or what it holds cannot be read.
    """
    found = recognize(root)
    if not found.complete:
        return inspect_unfinished(root, found.kind)
    if found.kind is Kind.LEDGER:
        return inspect_ledger(root)
    return inspect_plan(root) if found.kind is Kind.PLAN else inspect_packset(root)
