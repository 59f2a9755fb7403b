"""Looking at what the stages wrote: a ledger, a plan or a pack set, finished or not.

recognize.py   what a folder is
ledger.py      rows, refusals and lengths of a ledger
plan.py        what a plan promises
packset.py     what a pack set holds, from its index and its account alone
unfinished.py  what is there of half-finished output, and which command goes on with it
pack.py        one pack, read back into documents and text
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from vlmprep.pipeline.inspect.ledger import LedgerReport, inspect_ledger
from vlmprep.pipeline.inspect.packset import PackSetReport, inspect_packset
from vlmprep.pipeline.inspect.plan import PlanReport, inspect_plan
from vlmprep.pipeline.inspect.unfinished import UnfinishedReport, inspect_unfinished
from vlmprep.pipeline.places import local_folder
from vlmprep.pipeline.recognize import Kind, recognize
from vlmprep.stores.urls import is_url

__all__ = ["LedgerReport", "PackSetReport", "PlanReport", "Report", "UnfinishedReport", "inspect_output"]

Report: TypeAlias = LedgerReport | PlanReport | PackSetReport | UnfinishedReport


def inspect_output(place: Path | str) -> Report:
    """Say what a folder, or a URL of one, holds.

    Raises:
        StopRun: It holds nothing that vlmprep made, or what it holds cannot be read.
    """
    root = local_folder(place)
    report = _inspect(root)
    return _renamed(report, str(place)) if is_url(str(place)) else report


def _renamed(report: Report, place: str) -> Report:
    """A report of a copy, with the name of what it is a copy of."""
    match report:
        case LedgerReport():
            return replace(report, ledger=place)
        case PlanReport():
            return replace(report, plan=place)
        case PackSetReport():
            return replace(report, packset=place)
    return replace(report, folder=place)


def _inspect(root: Path) -> Report:
    found = recognize(root)
    if not found.complete:
        return inspect_unfinished(root, found.kind)
    if found.kind is Kind.LEDGER:
        return inspect_ledger(root)
    return inspect_plan(root) if found.kind is Kind.PLAN else inspect_packset(root)
