"""Ledgers and plans of another format are refused in words, by every command that would read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ProcessorDir
from tests.runs import chat, count, write_jsonl
from vlmprep.counting.ledger import Ledger, open_ledger
from vlmprep.pipeline.plan import open_plan
from vlmprep.pipeline.plan.make import make_plan
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.schema.errors import StopRun


@pytest.fixture
def ledger(processor_dir: ProcessorDir, tmp_path: Path) -> Ledger:
    source = write_jsonl(tmp_path / "rows.jsonl", [chat(f"s{i}", "Who?", f"It is {i}.", []) for i in range(3)])
    return count(source, processor_dir(), tmp_path / "ledger")


def rewrite(path: Path, version: int | None) -> None:
    """Give a JSON file another version, or none as before there was one."""
    content: dict[str, Any] = json.loads(path.read_text())
    del content["version"]
    path.write_text(json.dumps(content if version is None else {**content, "version": version}))


@pytest.mark.parametrize(("version", "said"), [(None, "format 1"), (99, "format 99")])
def test_a_ledger_of_another_format_is_not_read(ledger: Ledger, version: int | None, said: str) -> None:
    assert open_ledger(ledger.root).digest == ledger.digest
    rewrite(ledger.root / "settings.json", version)
    with pytest.raises(StopRun, match=rf"{said}.*reads and writes 2"):
        open_ledger(ledger.root)


def test_counting_does_not_go_on_with_a_ledger_of_another_format(
    ledger: Ledger, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    rewrite(ledger.root / "settings.json", 1)
    with pytest.raises(StopRun, match="version was 1, now 2"):
        count(tmp_path / "rows.jsonl", processor_dir(), ledger.root)


@pytest.mark.parametrize(("version", "said"), [(None, "format 1"), (99, "format 99")])
def test_a_plan_of_another_format_is_not_read(ledger: Ledger, tmp_path: Path, version: int | None, said: str) -> None:
    settings = PlanSettings(pack_size=256)
    made = make_plan(ledger, settings, tmp_path / "plan")
    assert open_plan(made.root).summary == made.summary
    rewrite(made.root / "plan.json", version)
    with pytest.raises(StopRun, match=rf"{said}.*reads and writes 2"):
        open_plan(made.root)
    with pytest.raises(StopRun, match=said):
        make_plan(ledger, settings, made.root)
