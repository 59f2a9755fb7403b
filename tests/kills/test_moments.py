"""A run that is killed, wherever it stands, is gone on with by the same command, and ends as if nobody had killed it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ProcessorDir

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = (
    *("ledger/settings.json", "ledger/chunks/rows/000000.parquet", "ledger/ledger.json"),
    *("plan/plan.json", "settings.json"),
    *("shards/000000.tar", "shards/000000.tar.idx", "receipts/000000.json"),
    *("shards/000001.tar", "shards/000001.tar.idx", "receipts/000001.json"),
    *("packs.arrow", "samples.parquet", ".nv-meta/.info.json", ".nv-meta/split.yaml", ".nv-meta/dataset.yaml"),
    "manifest.json",
)
"""In the order of publication, without the plan's tables."""


@pytest.fixture(scope="module")
def served(processor_dir: ProcessorDir, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the server of killed runs says."""
    where = (processor_dir(max_pixels=50_176), tmp_path_factory.mktemp("kills"))
    command = [sys.executable, "-m", "tests.kills.server", *map(str, where), "files", "chain"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


def renamed(served: list[dict[str, Any]]) -> list[str]:
    """Every file that an undisturbed run publishes."""
    return [path for what, path in served[0]["events"] if what == "rename"]


def test_every_file_is_published_by_renaming_in_the_order_of_commit(served: list[dict[str, Any]]) -> None:
    files = renamed(served)
    tables = [path for path in files if path.startswith("plan/") and path.endswith(".arrow")]
    assert tables
    assert [path for path in files if path not in tables] == list(PUBLISHED)
    assert max(map(files.index, tables)) < files.index("plan/plan.json")
    locks = {".lock", "ledger/.lock", "plan/.lock"}
    assert set(served[0]["tree"]) == {*files, *locks}, "and nothing else is left"


def test_killed_at_any_moment_the_same_command_ends_with_the_same_bytes(served: list[dict[str, Any]]) -> None:
    runs = served[1:-1]
    assert len(runs) == 4 + 2 * len(renamed(served))
    assert [run for run in runs if run["differs"] or not run["killed"]] == []


def test_shards_with_a_receipt_are_kept_as_they_lie(served: list[dict[str, Any]]) -> None:
    runs = served[1:-1]
    assert {run["with_receipt"] for run in runs} == {0, 1, 2}
    assert [run for run in runs if run["kept"] != run["with_receipt"]] == []


def test_killed_again_and_again_it_still_ends(served: list[dict[str, Any]]) -> None:
    assert served[-1]["kills"] > 3
    assert served[-1]["differs"] == []
