"""What a worker is at, noted where another process reads it after this one died.

A decoder that ends its process takes every Python object with it, and the run would not know which row it was.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["at_work", "note_with"]

_note: Callable[[str], object] | None = None


def note_with(note: Callable[[str], object] | None) -> None:
    """Let an engine hear what this process is at; None: nobody listens."""
    global _note
    _note = note


def at_work(what: str) -> None:
    """Say what is begun, in words that end "a worker died at ...": `row 7 of photos.jsonl`; empty: nothing."""
    if _note is not None:
        _note(what)
