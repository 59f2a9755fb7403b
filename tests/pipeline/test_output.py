"""Output folders: nothing that vlmprep did not write is touched, and no stage writes into another's folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vlmprep.pipeline.output import output_folder
from vlmprep.pipeline.recognize import Kind
from vlmprep.schema.errors import StopRun

MARKS = {Kind.LEDGER: "ledger.json", Kind.PLAN: "plan.json", Kind.PACKSET: "manifest.json"}


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    "name", ["notes.txt", "shards/000000.tar", "chunks/x/000000.parquet", "settings.json", ".git/HEAD"]
)
def test_a_folder_of_somebody_else_is_left_as_it_is(tmp_path: Path, kind: Kind, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("precious")
    (tmp_path / ".notes.swap.tmp").write_text("precious too")
    before = contents(tmp_path)
    with pytest.raises(StopRun, match=f"is not empty and no {kind}"), output_folder(tmp_path, kind):
        pass
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("held", Kind)
def test_a_stage_stays_out_of_the_folder_of_another(tmp_path: Path, kind: Kind, held: Kind) -> None:
    (tmp_path / MARKS[held]).write_text("{}")
    if kind is held:
        with output_folder(tmp_path, kind) as root:
            assert root == tmp_path
        return
    with pytest.raises(StopRun, match=f"is a {held}, and a {kind} was to go there"), output_folder(tmp_path, kind):
        pass
    assert contents(tmp_path) == {tmp_path / MARKS[held]: b"{}"}


def test_what_dead_runs_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    with output_folder(tmp_path / "set", Kind.PACKSET) as root:
        (root / "ledger").mkdir()
        (root / "ledger" / ".settings.json.123.tmp").write_text("half")
        (root / ".notes.swap.tmp").write_text("an editor's")
        (root / "manifest.json").write_text("{}")
    with output_folder(tmp_path / "set", Kind.PACKSET) as root:
        assert not (root / "ledger" / ".settings.json.123.tmp").exists()
        assert (root / ".notes.swap.tmp").exists()


def test_a_run_that_died_at_its_first_file_can_be_started_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".settings.json.123.tmp").write_text("half")
    with output_folder(tmp_path, Kind.LEDGER) as root:
        assert [path.name for path in root.iterdir()] == [".lock"]


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    hold = (
        "import os, signal, sys; from pathlib import Path; from vlmprep.pipeline.output import output_folder; "
        "from vlmprep.pipeline.recognize import Kind; folder = output_folder(Path(sys.argv[1]), Kind.PLAN); "
        "folder.__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", hold, str(tmp_path)], check=False).returncode < 0
    assert (tmp_path / ".lock").exists()
    with output_folder(tmp_path, Kind.PLAN) as root:
        assert root == tmp_path


def test_a_file_in_the_way_stops_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StopRun, match="file cannot be written"), output_folder(tmp_path / "file", Kind.PLAN):
        pass
