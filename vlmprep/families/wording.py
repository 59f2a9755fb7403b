"""How an error of another library is told in one line."""

from __future__ import annotations

__all__ = ["first_line"]

MAX_CHARACTERS = 300


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none; all that a reason has room for."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:MAX_CHARACTERS]
