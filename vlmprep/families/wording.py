"""How an error of another library is told in one line."""

from __future__ import annotations

import re

__all__ = ["first_line"]

MAX_CHARACTERS = 300
RAISED_IN = re.compile(r"^(\w+, )?/\S+\.(cpp|cc|h):\d+, ")
"""Where in its own source torchvision says that it gave up."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none; all that a reason has room for."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return RAISED_IN.sub("", line)[:MAX_CHARACTERS]
