"""What is there of half-finished output, and which command goes on with it."""

from __future__ import annotations

import shlex
import urllib.parse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlmprep.counting.ledger import LEDGER_FILE, SETTINGS_FILE
from vlmprep.pipeline.recognize import Kind
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.schema.files import read_json
from vlmprep.schema.packset import shard_name

__all__ = ["Stage", "UnfinishedReport", "inspect_unfinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How far one stage came."""

    name: str
    """ledger, plan or shards."""
    finished: bool
    done: str
    """What there is, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedReport:
    """Output of a run that was interrupted or is still at work."""

    folder: str
    kind: Kind
    stages: tuple[Stage, ...]
    """In the order in which they are made."""
    command: str
    """Goes on with it; words in capitals are to be filled in as they were."""


def inspect_unfinished(root: Path, kind: Kind) -> UnfinishedReport:
    """Count what a run left behind.

    Args:
        root: The folder.
        kind: What it was to become.
    """
    if kind is Kind.LEDGER:
        stages = [ledger_stage(root)]
        command = f"vlmprep estimate SOURCE... {_processor_flag(root)} --out {shlex.quote(str(root))}"
    elif kind is Kind.PLAN:
        stages = [plan_stage(root)]
        command = f"vlmprep plan LEDGER --out {shlex.quote(str(root))}"
    else:
        stages = [*_stages_within(root), shards_stage(root)]
        command = _pack_command(root)
    return UnfinishedReport(folder=str(root), kind=kind, stages=tuple(stages), command=command)


def ledger_stage(root: Path) -> Stage:
    """How many rows of how many sources are counted."""
    if (summary := read_json(root / LEDGER_FILE)) is not None:
        rows = summary["rows"]
        return Stage(name="ledger", finished=True, done=f"{rows['all']:,} rows counted, {rows['ok']:,} of them usable")
    sources = {urllib.parse.unquote(chunk.parent.name) for chunk in _chunks(root)}
    num_rows = sum(_num_rows(chunk) for chunk in _chunks(root))
    return Stage(name="ledger", finished=False, done=f"{num_rows:,} rows of {len(sources)} sources counted so far")


def plan_stage(root: Path) -> Stage:
    """Whether there is a plan; an unfinished one is made anew."""
    if (summary := read_json(root / "plan.json")) is not None:
        return Stage(name="plan", finished=True, done=f"{summary['statistics']['num_packs']:,} packs planned")
    return Stage(name="plan", finished=False, done="not made yet")


def shards_stage(root: Path) -> Stage:
    """How many shards are committed, with how many packs; `X.tar.idx` holds one offset per pack and one more."""
    packs = [_num_packs(root, int(receipt.stem)) for receipt in sorted((root / "receipts").glob("[0-9]*.json"))]
    committed = [count for count in packs if count is not None]
    done = f"{sum(committed):,} packs in {len(committed):,} shards written so far" if committed else "none written yet"
    return Stage(name="shards", finished=False, done=done)


def _stages_within(root: Path) -> list[Stage]:
    """Ledger and plan where they lie inside the pack set; they have folders of their own when given by name."""
    begun = read_json(root / SETTINGS_FILE) is not None
    stages = []
    if (root / "ledger").is_dir():
        stages.append(ledger_stage(root / "ledger"))
    if (root / "plan").is_dir() or not begun:
        stages.append(plan_stage(root / "plan"))
    return stages


def _pack_command(root: Path) -> str:
    settings: dict[str, Any] = read_json(root / SETTINGS_FILE) or {}
    plan = settings.get("plan") or (read_json(root / "plan" / "plan.json") or {}).get("settings", {})
    flags = _flags(plan, asdict(PlanSettings())) + _flags(settings.get("writing", {}), asdict(PackSettings()))
    source = f"SOURCE... {_processor_flag(root / 'ledger')}" if (root / "ledger").is_dir() else "LEDGER"
    return " ".join(["vlmprep pack", source, *flags, f"--out {shlex.quote(str(root))}"])


def _flags(settings: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Options that were given other values than their defaults."""
    return [
        f"--{name.replace('_', '-')} {shlex.quote(str(settings[name]))}"
        for name, default in defaults.items()
        if name in settings and settings[name] != default
    ]


def _processor_flag(ledger: Path) -> str:
    settings = read_json(ledger / SETTINGS_FILE)
    return f"--processor {shlex.quote(settings['processor']['processor']) if settings else 'P'}"


def _chunks(root: Path) -> list[Path]:
    return sorted((root / "chunks").glob("*/[0-9]*.parquet"))


def _num_rows(chunk: Path) -> int:
    try:
        return int(pq.read_metadata(chunk).num_rows)
    except (OSError, pa.ArrowInvalid):
        return 0


def _num_packs(root: Path, shard: int) -> int | None:
    """Packs of a committed shard; None where it or its index is missing."""
    tar = root / shard_name(shard)
    index = tar.with_name(tar.name + ".idx")
    return index.stat().st_size // 8 - 1 if tar.is_file() and index.is_file() else None
