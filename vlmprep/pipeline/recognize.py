"""What a folder is: a ledger, a plan or a pack set, complete or not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from vlmprep.counting.ledger import LEDGER_FILE, SETTINGS_FILE
from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import read_json
from vlmprep.schema.packset import MANIFEST

__all__ = ["Found", "Kind", "is_ledger", "kind_of", "recognize"]


class Kind(StrEnum):
    """What the stages write."""

    LEDGER = "ledger"
    PLAN = "plan"
    PACKSET = "pack set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies in a folder."""

    kind: Kind
    complete: bool


LAST_FILES = {Kind.PACKSET: MANIFEST, Kind.LEDGER: LEDGER_FILE, Kind.PLAN: "plan.json"}
"""The file that each stage writes last."""
PLAN_PARTS = ("bins.arrow", "refused.arrow")


def recognize(root: Path) -> Found:
    """Tell a folder's kind from the files in it.

    Raises:
        StopRun: There is no such folder, or nothing in it that vlmprep made.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise StopRun(f"{root} {what}", "Give the folder of a ledger, a plan or a pack set.")
    if (found := kind_of(root)) is None:
        raise StopRun(
            f"{root} holds no ledger, plan or pack set",
            "Give a folder that `vlmprep estimate`, `vlmprep plan` or `vlmprep pack` was given as --out.",
        )
    return found


def kind_of(root: Path) -> Found | None:
    """What a folder holds; None where nothing in it shows that vlmprep made it."""
    for kind, name in LAST_FILES.items():
        if (root / name).is_file():
            return Found(kind=kind, complete=True)
    begun = _begun(root)
    return None if begun is None else Found(kind=begun, complete=False)


def is_ledger(path: Path) -> bool:
    """Whether a folder holds a ledger, complete or not."""
    return (path / LEDGER_FILE).is_file() or ((path / SETTINGS_FILE).is_file() and (path / "chunks").is_dir())


def _begun(root: Path) -> Kind | None:
    """What an interrupted run was about to make."""
    settings = _settings(root)
    if "fingerprint" in settings:
        return Kind.PACKSET if "writing" in settings else Kind.LEDGER
    if any((root / name).is_file() for name in PLAN_PARTS):
        return Kind.PLAN
    stages = [stage for stage in (root / "ledger", root / "plan") if stage.is_dir()]
    return Kind.PACKSET if any(_holds_output(stage) for stage in stages) else None


def _settings(root: Path) -> dict[str, Any]:
    """settings.json, where it is one of ours; other programs have files of that name too."""
    try:
        settings = read_json(root / SETTINGS_FILE)
    except ValueError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _holds_output(stage: Path) -> bool:
    return any((stage / name).is_file() for name in (SETTINGS_FILE, *LAST_FILES.values(), *PLAN_PARTS))
