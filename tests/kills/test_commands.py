"""`vlmprep pack` with workers, ended from outside while shards are being written: SIGKILL to all of it, or Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.running import run, run_alone
from tests.conftest import ProcessorDir
from tests.engines.test_local import wait_for
from tests.kills.server import kept_shards, tree
from tests.runs import chat, picture, write_jsonl
from tests.signals import hear_ctrl_c

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 15
"""Within which Ctrl-C ends a run; shared machines stall."""


@pytest.fixture(scope="module")
def words(processor_dir: ProcessorDir, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command, less its output and workers: a shard for nearly every row."""
    folder = tmp_path_factory.mktemp("rows")
    names = [picture(folder / f"{number}.png", 700 + number, 900) for number in range(60)]
    source = write_jsonl(folder / "rows.jsonl", [chat(name, "What is it?", f"It is {name}.", [name]) for name in names])
    options = ["--pack-size", "128", "--shard-bytes", "65536", "--quiet"]
    return ["pack", str(source), "--processor", str(processor_dir(max_pixels=50_176)), *options]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    assert run_alone(*words, "--out", str(out), "--workers", "0") == 0
    return tree(out)


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_with_workers_is_ended_and_resumed(
    ending: signal.Signals,
    status: int,
    words: list[str],
    whole: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "set"
    packing = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from vlmprep.cli.main import main; main()",
            *words,
            "--out",
            str(out),
            "--workers",
            "2",
        ],
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: list((out / "receipts").glob("*.json")))
    since = time.monotonic()
    os.killpg(packing.pid, ending)
    _, told = packing.communicate()
    assert time.monotonic() - since < SECONDS
    assert packing.returncode == status, told
    assert not (out / "manifest.json").exists(), "it was in the middle"
    if ending is signal.SIGINT:
        assert "Stopped. Everything finished so far is kept" in told
        assert "Traceback" not in told
        assert not list(out.rglob(".*.tmp")), "nothing half written is left"
    before = kept_shards(out)
    assert before
    assert run(*words, "--out", str(out), "--workers", "0", capsys=capsys).code == 0
    assert tree(out) == whole
    assert {name: shard for name, shard in kept_shards(out).items() if name in before} == before
