"""Real torch.distributed processes (gloo) for tests: started together, watched, killed with all their workers when they hang.

python -m tests.ranks FOLDER      imports what the work needs and forks into its ranks
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed

__all__ = ["Outcome", "run_ranks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a rank ended."""

    kind: str
    """`done`, `raised`, `killed` (the process is gone without a word) or `hung`."""
    value: Any = None
    """What the work returned, or the last lines of its error."""


def run_ranks(
    work: Callable[..., Any], num_ranks: int, root: Path, *arguments: Any, patience: float = 90
) -> list[Outcome]:
    """Run `work(rank, *arguments)` in processes of one process group.

    Args:
        work: A function of a module; what the module imports is imported once for all ranks.
        num_ranks: Processes.
        root: Folder where they meet; a new one for every run.
        arguments: Picklable.
        patience: Seconds after which ranks that have not ended are counted as hung, and killed.
    """
    root.mkdir(parents=True)
    (root / "work").write_bytes(pickle.dumps((work, num_ranks, patience, arguments)))
    ranks = subprocess.Popen([sys.executable, "-m", "tests.ranks", str(root)], start_new_session=True)
    end = time.monotonic() + patience
    outcomes = [_outcome(root / f"{rank}.told", root / f"{rank}.gone", end) for rank in range(num_ranks)]
    with suppress(ProcessLookupError):
        os.killpg(ranks.pid, signal.SIGKILL)  # and whatever workers they left
    ranks.wait()
    return outcomes


def _outcome(told: Path, gone: Path, end: float) -> Outcome:
    while time.monotonic() < end and not gone.exists() and not told.exists():
        time.sleep(0.02)
    if told.exists():
        kind, value = pickle.loads(told.read_bytes())
        return Outcome(kind=kind, value=value)
    return Outcome(kind="killed" if gone.exists() else "hung")


def _fork_ranks(root: Path) -> None:
    work, num_ranks, patience, arguments = pickle.loads((root / "work").read_bytes())
    torch.set_num_threads(1)
    rank_of: dict[int, int] = {}
    for rank in range(num_ranks):
        child = os.fork()
        if child == 0:
            _rank(root, rank, num_ranks, timedelta(seconds=patience), partial(work, rank, *arguments))
            return
        rank_of[child] = rank
    while rank_of:
        ended, _ = os.wait()
        (root / f"{rank_of.pop(ended)}.gone").touch()


def _rank(root: Path, rank: int, num_ranks: int, timeout: timedelta, work: Callable[[], Any]) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{root / 'meet'}", rank=rank, world_size=num_ranks, timeout=timeout
    )
    try:
        outcome = ("done", work())
    except Exception:  # noqa: BLE001 - whatever it is, the test decides what it means
        outcome = ("raised", traceback.format_exc()[-2000:])
    attempt = root / f"{rank}.attempt"
    attempt.write_bytes(pickle.dumps(outcome))
    attempt.rename(root / f"{rank}.told")
    if outcome[0] == "done":
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    _fork_ranks(Path(sys.argv[1]))
