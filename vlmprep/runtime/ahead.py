"""Batches made ready for the model ahead of the loop: on a GPU, the next ones are copied and restored while the model works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from vlmprep.runtime.batch import Batch

__all__ = ["CudaSide", "Side", "ready_ahead", "side_of"]


class Side(Protocol):
    """Where work runs beside the model's."""

    def run(self, work: Callable[[], Batch]) -> tuple[Batch, Any]:
        """Begin work; returns its result, not yet to be touched, and what tells when it is done."""
        ...

    def hand_over(self, batch: Batch, done: Any) -> Batch:
        """Let the model's work wait for it."""
        ...


class CudaSide:
    """A stream of its own on a GPU. Copies from pinned memory then run beside the model's kernels."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[], Batch]) -> tuple[Batch, torch.cuda.Event]:
        """Begin work on the side stream."""
        with torch.cuda.stream(self._stream):
            batch = work()
            return batch, self._stream.record_event()

    def hand_over(self, batch: Batch, done: torch.cuda.Event) -> Batch:
        """Make the current stream wait, and keep memory until it is done with it."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(done)
        for value in batch.values():
            for tensor in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
                if isinstance(tensor, Tensor) and tensor.is_cuda:
                    tensor.record_stream(current)
        return batch


def side_of(device: torch.device | None) -> Side | None:
    """A side of the device; None where everything runs in the order it is asked for."""
    return CudaSide(device) if device is not None and device.type == "cuda" else None


def ready_ahead(
    batches: Iterable[Batch], finish: Callable[[Batch], Batch], side: Side | None, num_ahead: int
) -> Iterator[Batch]:
    """Finish batches, `num_ahead` of them before they are asked for.

    Args:
        batches: As they are read.
        finish: Makes a batch ready for the model.
        side: Where it runs; None: when asked, here.
        num_ahead: Batches that wait on the side.
    """
    if side is None or num_ahead < 1:
        yield from map(finish, batches)
        return
    waiting: deque[tuple[Batch, Any]] = deque()
    for read in batches:
        waiting.append(side.run(partial(finish, read)))
        if len(waiting) > num_ahead:
            yield side.hand_over(*waiting.popleft())
    while waiting:
        yield side.hand_over(*waiting.popleft())
