"""The local engine: every unit once, few in flight, start-up once a worker, and no worker left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vlmprep.engines.local import UNITS_PER_WORKER, LocalEngine
from vlmprep.schema.at_work import at_work
from vlmprep.schema.errors import RefuseSample, StopRun


@dataclass(frozen=True)
class Square:
    """Squares numbers; some are fatal."""

    log: Path

    def open(self) -> Callable[[int], int]:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")

        def square(number: int) -> int:
            if number == -1:
                raise StopRun("minus one", "Leave it out.")
            if number == -2:
                os.kill(os.getpid(), signal.SIGKILL)
            return number * number

        return square


@dataclass(frozen=True)
class Rows:
    """Units of ten rows; the worker ends at row 23, and another is asleep by then."""

    log: Path

    def open(self) -> Callable[[int], int]:
        def rows(unit: int) -> int:
            for row in range(10 * unit, 10 * unit + 10):
                at_work(f"row {row} of ä.jsonl")
                if row == 23:
                    wait_for(lambda: self.log.exists(), 30)
                    os._exit(9)
                if row == 0:
                    self.log.touch()
                    time.sleep(60)
            return unit

        return rows


@dataclass(frozen=True)
class NoStart:
    """Does not get as far as work, in one of two ways."""

    dies: bool

    def open(self) -> Callable[[int], int]:
        if self.dies:
            os._exit(7)
        raise OSError("no processor")


@dataclass(frozen=True)
class Sleep:
    """Says who it is and sleeps."""

    log: Path

    def open(self) -> Callable[[int], int]:
        def sleep(number: int) -> int:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(60)
            return number

        return sleep


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_unit_runs_once_and_every_worker_starts_up_once(tmp_path: Path, num_workers: int) -> None:
    results = list(LocalEngine(num_workers).run(Square(tmp_path / "log"), range(20)))
    assert sorted(results) == [number * number for number in range(20)]
    started = (tmp_path / "log").read_text().split()
    assert 1 <= len(started) == len(set(started)) <= max(num_workers, 1)


def test_units_are_drawn_as_they_are_needed(tmp_path: Path) -> None:
    drawn = 0

    def units() -> Iterator[int]:
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield number

    results = LocalEngine(2).run(Square(tmp_path / "log"), units())
    next(results)
    assert drawn <= 2 * UNITS_PER_WORKER + 2
    results.close()  # a generator, so that what is in flight can be given up


def test_a_stop_in_a_worker_arrives_as_it_was_raised(tmp_path: Path) -> None:
    with pytest.raises(StopRun, match="minus one") as stop:
        list(LocalEngine(1).run(Square(tmp_path / "log"), [1, -1, 2]))
    assert stop.value.hint == "Leave it out."


def test_a_killed_worker_stops_the_run_with_a_word(tmp_path: Path) -> None:
    with pytest.raises(StopRun) as stop:
        list(LocalEngine(1).run(Square(tmp_path / "log"), [1, -2]))
    assert stop.value.message == "a worker process died (ended by SIGKILL)"
    assert "fewer --workers" in stop.value.hint


def test_a_worker_that_ends_in_the_middle_leaves_the_row_that_it_was_at(tmp_path: Path) -> None:
    with pytest.raises(StopRun) as stop:
        list(LocalEngine(2).run(Rows(tmp_path / "log"), [0, 1, 2, 3]))
    assert stop.value.message == "a worker process died (exit code 9) at row 23 of ä.jsonl"
    assert "take that row out" in stop.value.hint


@pytest.mark.parametrize(("dies", "code"), [(True, 7), (False, 0)])
def test_a_worker_that_does_not_start_says_so(dies: bool, code: int) -> None:
    with pytest.raises(StopRun) as stop:
        list(LocalEngine(1).run(NoStart(dies), [1]))
    assert stop.value.message == f"a worker process died (exit code {code}) at its start"
    assert "--workers 0" in stop.value.hint


def test_what_no_worker_of_an_engine_is_at_is_not_noted() -> None:
    at_work("row 1")  # nobody listens, nothing happens


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(StopRun, match="--workers is -1"):
        LocalEngine(-1)


def test_refusals_survive_the_way_between_processes() -> None:
    import pickle

    refusal = pickle.loads(pickle.dumps(RefuseSample("code", "reason")))
    assert (refusal.code, refusal.reason) == ("code", "reason")


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from tests.engines.test_local import Sleep\n"
        "from vlmprep.engines.local import LocalEngine\n"
        "if __name__ == '__main__':\n"
        f"    list(LocalEngine(2).run(Sleep(Path({str(tmp_path / 'log')!r})), range(4)))\n"
    )
    (tmp_path / "run.py").write_text(script)
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen([sys.executable, tmp_path / "run.py"], env={**os.environ, "PYTHONPATH": str(root)})
    workers = wait_for(lambda: two_lines(tmp_path / "log"))
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not any(alive(int(worker)) for worker in workers))


def two_lines(path: Path) -> list[str]:
    lines = path.read_text().split() if path.exists() else []
    return lines if len(lines) == 2 else []


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for(what: Callable[[], object], seconds: float = 90) -> list[str]:
    """Poll until `what` is true; its value."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return value if isinstance(value, list) else [str(value)]
