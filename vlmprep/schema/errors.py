"""The errors of vlmprep: *refuse this sample* (recorded, counted, budgeted) or *stop the run*."""

from __future__ import annotations

__all__ = ["RefuseSample", "StopRun", "VlmprepError"]


class VlmprepError(Exception):
    """Base of every error that vlmprep raises on purpose."""


class RefuseSample(VlmprepError):
    """One sample cannot be used; it is recorded with its reason and the run goes on.

    Args:
        code: Short kebab-case kind of the refusal, by which refusals are counted (`missing-media`).
        reason: What a person needs to know: what, got, expected, where.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.sample_id: str | None = None
        """The row's own id, where the row could be read that far."""
        self.kept: str | None = None
        """Columns of the row that were asked to be kept, likewise."""

    def __str__(self) -> str:
        return self.reason


class StopRun(VlmprepError):
    """The run cannot go on; everything committed so far stays valid and resumable.

    Args:
        message: What happened, with what was got and what was expected.
        hint: What to do next, in one sentence.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message
