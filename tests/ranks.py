"""Real torch.distributed processes (gloo) for tests: started together, watched, killed with all their workers when they hang.

python -m tests.ranks FOLDER RANK      what each of them runs
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
from pathlib import Path
from typing import Any

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
        work: A function of a module.
        num_ranks: Processes.
        root: Folder where they meet; a new one for every run.
        arguments: Picklable.
        patience: Seconds after which ranks that have not ended are counted as hung, and killed.
    """
    root.mkdir(parents=True)
    (root / "work").write_bytes(pickle.dumps((work, num_ranks, patience, arguments)))
    ranks = [
        subprocess.Popen([sys.executable, "-m", "tests.ranks", str(root), str(rank)], start_new_session=True)
        for rank in range(num_ranks)
    ]
    end = time.monotonic() + patience
    outcomes = [_outcome(process, root / str(rank), end) for rank, process in enumerate(ranks)]
    for process in ranks:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever workers it left
        process.wait()
    return outcomes


def _outcome(process: subprocess.Popen[bytes], told: Path, end: float) -> Outcome:
    while time.monotonic() < end and process.poll() is None and not told.exists():
        time.sleep(0.02)
    if told.exists():
        kind, value = pickle.loads(told.read_bytes())
        return Outcome(kind=kind, value=value)
    return Outcome(kind="hung" if process.poll() is None else "killed")


def _rank(root: Path, rank: int) -> None:
    import torch
    from torch import distributed

    work, num_ranks, patience, arguments = pickle.loads((root / "work").read_bytes())
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{root / 'meet'}",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=patience),
    )
    try:
        outcome = ("done", work(rank, *arguments))
    except Exception:  # noqa: BLE001 - whatever it is, the test decides what it means
        outcome = ("raised", traceback.format_exc()[-2000:])
    attempt = root / f"{rank}.attempt"
    attempt.write_bytes(pickle.dumps(outcome))
    attempt.rename(root / str(rank))
    if outcome[0] == "done":
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), int(sys.argv[2]))
