"""Ctrl-C ends a run within seconds, whatever its workers are at, and it is the parent alone that hears it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines.test_local import alive, two_lines, wait_for
from tests.signals import hear_ctrl_c

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 15
"""Much less than the minute that every unit takes; shared machines stall."""


@contextmanager
def sleepers(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two workers in the middle of a minute's work that holds no Python code, in a process group of their own."""
    script = (
        "from pathlib import Path\n"
        "from tests.engines.test_local import Sleep\n"
        "from vlmprep.engines.local import LocalEngine\n"
        "if __name__ == '__main__':\n"
        f"    list(LocalEngine(2).run(Sleep(Path({str(tmp_path / 'log')!r})), range(4)))\n"
    )
    (tmp_path / "run.py").write_text(script)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "run.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield parent
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)


def children(process: int) -> list[str]:
    """Processes that a process started as workers."""
    own = Path(f"/proc/{process}/task/{process}/children")
    found = own.read_text().split() if own.exists() else []
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def check_ended(parent: subprocess.Popen[str], workers: list[str], since: float) -> None:
    _, told = parent.communicate(timeout=90)
    assert time.monotonic() - since < SECONDS
    assert parent.returncode == -signal.SIGINT, "as Python ends on KeyboardInterrupt"
    assert workers
    assert not any(alive(int(worker)) for worker in workers)
    assert told.count("Traceback") == 1, told


def test_ctrl_c_ends_workers_in_the_middle_of_long_work(tmp_path: Path) -> None:
    with sleepers(tmp_path) as parent:
        workers = wait_for(lambda: two_lines(tmp_path / "log"))
        os.killpg(parent.pid, signal.SIGINT)
        check_ended(parent, workers, time.monotonic())


@pytest.mark.skipif(not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(), reason="no /proc of Linux")
def test_ctrl_c_while_workers_start_is_heard_by_the_parent_alone(tmp_path: Path) -> None:
    with sleepers(tmp_path) as parent:
        workers = wait_for(lambda: children(parent.pid))
        time.sleep(0.3)  # into their imports
        os.killpg(parent.pid, signal.SIGINT)
        check_ended(parent, workers, time.monotonic())
