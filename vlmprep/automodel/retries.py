"""Another batch in place of one that cannot be collated, and a word about every such case."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["RobustCollate"]

logger = logging.getLogger(__name__)

FAILURES_KEPT = 1_000


class RobustCollate:
    """Calls a collate function; where it fails, draws as many other examples and calls it again.

    Nothing of this is silent: every failure is logged with its reason, and kept in `failures`.

    Args:
        dataset: Where other examples come from.
        collate_fn: What is called.
        max_retries: How often it is called before giving up.
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[Sequence[Any]], Any], max_retries: int = 10) -> None:
        if max_retries < 1:
            raise ValueError(f"max_retries must be at least 1, got {max_retries}")
        self._dataset = dataset
        self._collate_fn = collate_fn
        self._max_retries = max_retries
        self.failures: list[str] = []
        """What failed, in order: the error of each batch that was replaced."""

    def __call__(self, examples: Sequence[Any]) -> Any:
        """Collate these examples, or others in their place.

        Raises:
            RuntimeError: Every attempt failed; the last one's error is the cause.
        """
        size = len(examples)
        for attempt in range(1, self._max_retries + 1):
            try:
                return self._collate_fn(examples)
            except Exception as error:  # noqa: BLE001 - whatever broken media and templates raise; it is recorded
                last = error
                self._record(error, attempt, size)
            if attempt < self._max_retries:
                examples = [self._dataset[random.randrange(len(self._dataset))] for _ in range(size)]
        raise RuntimeError(f"collating failed {self._max_retries} times; last error: {last}") from last

    def _record(self, error: Exception, attempt: int, size: int) -> None:
        reason = f"{type(error).__name__}: {error}"
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append(reason)
        logger.warning(
            "collating a batch of %d failed (%d of %d): %s; other examples take its place",
            size,
            attempt,
            self._max_retries,
            reason,
        )
