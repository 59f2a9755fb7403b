"""Steps read and collated ahead by threads: nothing is copied between processes.

Reading, digests and unpacking let other threads run; so does most of collating.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from vlmprep.runtime.batch import Batch
from vlmprep.runtime.sampler import Step

__all__ = ["read_in_threads"]


def read_in_threads(
    read: Callable[[Step], Batch], steps: Iterable[Step], *, num_threads: int, num_ahead: int, pin_memory: bool
) -> Iterator[Batch]:
    """Batches in the order of their steps.

    Args:
        read: Reads and collates a step.
        steps: In order.
        num_threads: That read.
        num_ahead: Batches that are read or wait at any time.
        pin_memory: Copy batches into page-locked memory.
    """

    def work(step: Step) -> Batch:
        return _pinned(read(step)) if pin_memory else read(step)

    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="vlmprep") as threads:
        try:
            for step in steps:
                waiting.append(threads.submit(work, step))
                if len(waiting) >= num_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _pinned(batch: Batch) -> Batch:
    for name, value in batch.items():
        if isinstance(value, Tensor):
            batch[name] = value.pin_memory()
    return batch
