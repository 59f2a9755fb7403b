"""What becomes of samples that fail: the policy, and the account of every failure.

raise       the error goes to whoever asked (default)
refuse      a pack is served without the sample; it is counted, and told once
substitute  another sample, drawn at random, takes its place, as in the reference; counted and told too
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal, TypeAlias, get_args

import torch

from vlmprep.schema.errors import RefuseSample

__all__ = ["Failures", "Policy", "check_policy", "reason_of"]

logger = logging.getLogger(__name__)

Policy: TypeAlias = Literal["raise", "refuse", "substitute"]


def check_policy(policy: str, *known: str) -> None:
    """Raises ValueError where a policy is none of those offered; of all, where none are named."""
    offered = known or get_args(Policy)
    if policy not in offered:
        raise ValueError(f"failures must be one of {', '.join(offered)}, got {policy!r}")


def reason_of(error: Exception) -> tuple[str, str]:
    """Code and reason of a failure; an error that is no refusal counts under its type."""
    if isinstance(error, RefuseSample):
        return error.code, error.reason
    return type(error).__name__, str(error)


class Failures:
    """Which samples failed: one byte a sample, shared with the workers of a DataLoader, forked or spawned.

    Args:
        num_samples: Of the data set.
    """

    def __init__(self, num_samples: int) -> None:
        self._failed = torch.zeros(num_samples, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        self.reasons: dict[int, str] = {}
        """Of each sample that failed in this process; workers have their own."""
        self.codes: Counter[str] = Counter()
        """Kinds of these failures."""

    @property
    def samples(self) -> list[int]:
        """Samples that failed, in this process or in a worker of it."""
        return [int(number) for number in self._failed.nonzero()[:, 0]]

    def __len__(self) -> int:
        return int(self._failed.count_nonzero())

    def record(self, sample: int, error: Exception, what_now: str) -> None:
        """Count a failure; tell it unless it was told before.

        Args:
            sample: Its number.
            error: What went wrong.
            what_now: What is done about it, for the log.
        """
        told = bool(self._failed[sample])
        self._note(sample, error)
        if not told:
            code, reason = reason_of(error)
            logger.warning("sample %d fails (%s: %s); %s", sample, code, reason, what_now)

    def leave_out(self, errors: dict[int, Exception], of: int) -> None:
        """Count samples that a plan leaves out, and tell them in one message."""
        if not errors:
            return
        for sample, error in errors.items():
            self._note(sample, error)
        kinds = Counter(reason_of(error)[0] for error in errors.values())
        first, example = next(iter(errors.items()))
        logger.warning(
            "%d of %d samples are left out of every pack: %s; the first is sample %d: %s",
            len(errors),
            of,
            ", ".join(f"{count} {code}" for code, count in kinds.most_common()),
            first,
            reason_of(example)[1],
        )

    def _note(self, sample: int, error: Exception) -> None:
        code, reason = reason_of(error)
        if sample not in self.reasons:
            self.codes[code] += 1
        self.reasons.setdefault(sample, f"{code}: {reason}")
        self._failed[sample] = 1
