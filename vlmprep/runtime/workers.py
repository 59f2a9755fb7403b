"""What reads and collates ahead of the loop: threads, or worker processes.

Reading, digests and unpacking let other threads run, and what threads read is not copied. Packs that are made or decoded when
they are asked for, and collates that nobody here knows, may be busy in Python: they get processes of their own. docs/loader.md
has measured both.
"""

from __future__ import annotations

import gc
from typing import Any, Literal, TypeAlias, get_args

from torch.utils.data import DataLoader

from vlmprep.runtime.blend import Blend
from vlmprep.runtime.packs import Packs
from vlmprep.runtime.packset import PackSet
from vlmprep.shardformat.members import ENCODED

__all__ = ["ProcessLoader", "WorkerKind", "check_workers", "collect_own", "kind_for"]

WorkerKind: TypeAlias = Literal["processes", "threads"]


def check_workers(num_workers: int, kind: str | None, prefetch_factor: int | None) -> None:
    """Refuse what is not offered.

    Raises:
        ValueError: There is no such kind, or nothing that could read ahead.
    """
    if kind is not None and kind not in get_args(WorkerKind):
        raise ValueError(f"worker_kind must be one of {', '.join(get_args(WorkerKind))}, or None, got {kind!r}")
    if prefetch_factor is not None and (prefetch_factor < 1 or not num_workers):
        raise ValueError(
            f"prefetch_factor is the number of batches that each worker reads ahead, at least 1: got {prefetch_factor} "
            f"with num_workers={num_workers}. Leave it out, or give num_workers=1 or more."
        )


def kind_for(packs: Packs, collate: Any) -> WorkerKind:
    """The better kind of workers.

    Args:
        packs: That are read.
        collate: Name, or a callable.
    """
    sets = packs.sets if isinstance(packs, Blend) else (packs,)
    return "threads" if isinstance(collate, str) and all(map(_is_read, sets)) else "processes"


def _is_read(packs: Packs) -> bool:
    """Whether packs are read as they are, not made or decoded when they are asked for."""
    return isinstance(packs, PackSet) and packs.manifest.settings.get("pixels") != ENCODED


class ProcessLoader(DataLoader[Any]):
    """torch's loader, whose forked workers never collect the garbage that they have from their parent.

    A collection would write to all of that heap, 50 MB of it then no longer shared; and would destroy what belongs to threads
    that the fork left behind, for which FFmpeg waits for ever. Wants `collect_own` as its `worker_init_fn`.
    """

    def __iter__(self) -> Any:
        collects = gc.isenabled()
        gc.disable()  # in the workers, too, until they begin
        try:
            return super().__iter__()
        finally:
            if collects:
                gc.enable()


def collect_own(worker: int) -> None:
    """Collect garbage again, what is there already left out."""
    gc.freeze()
    gc.enable()
