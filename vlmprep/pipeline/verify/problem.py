"""One thing that is wrong with a pack set."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, and where."""

    file: str
    """Path inside the pack set."""
    pack_id: int | None = None
    """None where it is about the file as a whole."""
    what: str
    """What was found and what was expected."""
