from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.running import run
from tests.packed import PackedDemo
from vlmprep.cli.verify import counted, pack_range, runs_of
from vlmprep.pipeline.verify import Problem


@pytest.fixture
def broken(packed_demo: PackedDemo, tmp_path: Path) -> Path:
    """A copy whose second shard is another's, so that many packs are wrong."""
    packset = Path(shutil.copytree(packed_demo.packset, tmp_path / "packset"))
    shutil.copy(packset / "shards/000000.tar", packset / "shards/000001.tar")
    (packset / "receipts/000002.json").unlink()
    return packset


def test_a_whole_pack_set_is_said_to_be_well(packed_demo: PackedDemo, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("verify", str(packed_demo.packset), "--workers", "0", capsys=capsys)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("All is well: ")
    quiet = run("verify", str(packed_demo.packset), "--workers", "0", "--quiet", capsys=capsys)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    document = json.loads(run("verify", str(packed_demo.packset), "-j", "0", "--json", capsys=capsys).out)
    assert document["ok"] is True
    assert document["problems"] == []
    assert document["num_packs"] > 10


def test_problems_are_named_and_end_with_exit_code_1(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("verify", str(broken), "--workers", "0", capsys=capsys)
    assert result.code == 1
    assert "shards/000001.tar" in result.out
    assert "receipts/000002.json" in result.out
    assert "it is missing" in result.out
    assert "is not what it should be" in result.err
    assert "in 2 files" in result.err
    assert "Restore these files from a copy" in result.err
    assert max(map(len, result.out.splitlines())) <= 80


def test_at_most_as_many_are_shown_as_asked_for_and_json_lists_all(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = run("verify", str(broken), "--workers", "0", "--json", capsys=capsys)
    problems = json.loads(listed.out)["problems"]
    assert listed.code == 1
    assert len(problems) > 5
    assert all(set(problem) == {"file", "pack_id", "what"} for problem in problems)

    shown = run("verify", str(broken), "--workers", "0", "--show", "2", capsys=capsys)
    assert f"... and {len(problems) - 2} more" in shown.out
    assert f"{len(problems)} problems" in shown.err
    assert problems[0]["what"][:20] in shown.out
    assert problems[2]["what"][:20] not in shown.out


def test_packs_in_a_row_with_the_same_problem_share_a_line() -> None:
    def problem(pack_id: int | None, what: str = "torn") -> Problem:
        return Problem(file="shards/000000.tar", pack_id=pack_id, what=what)

    problems = [problem(None), problem(0), problem(1), problem(2), problem(4), problem(5, "bent"), problem(6, "bent")]
    runs = list(runs_of(problems))
    assert [problem for run in runs for problem in run] == problems
    assert [pack_range(run) for run in runs] == ["", "0 to 2", "4", "5 to 6"]


def test_quiet_says_only_that_something_is_wrong(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("verify", str(broken), "--workers", "0", "--quiet", capsys=capsys)
    assert (result.code, result.out) == (1, "")
    assert "is not what it should be" in result.err


def test_a_folder_without_manifest_stops(packed_demo: PackedDemo, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("verify", str(packed_demo.ledger), capsys=capsys)
    assert result.code == 1
    assert "no manifest.json" in result.err


def test_numbers_go_with_their_nouns() -> None:
    assert [counted(number, "shard") for number in (1, 2, 1000)] == ["1 shard", "2 shards", "1,000 shards"]


def test_documents_made_anew_from_their_sources(packed_demo: PackedDemo, capsys: pytest.CaptureFixture[str]) -> None:
    against = ("verify", str(packed_demo.packset), "-j", "0", "--against", str(packed_demo.processor), "--samples", "3")
    result = run(*against, capsys=capsys)
    assert result.code == 0
    assert "3 documents made anew, the same bit for bit" in " ".join(result.out.split())
    document = json.loads(run(*against, "--json", capsys=capsys).out)
    assert (document["ok"], document["num_rebuilt"], document["differences"]) == (True, 3, [])
    alone = run("verify", str(packed_demo.packset), "--samples", "3", capsys=capsys)
    assert alone.code == 2
    assert "--samples goes with --against" in alone.err
