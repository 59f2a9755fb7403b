"""How long work tells a person how far it is; silent unless someone listens."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """Listener to one run."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """A stage begins: `total` units of work, `done` of which an earlier run did."""
        ...

    def advance(self, amount: int = 1) -> None:
        """Some units more are done."""
        ...

    def finish(self) -> None:
        """The stage is over."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should read."""
        ...


class Silent:
    """Nobody listens."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Ignore it."""

    def advance(self, amount: int = 1) -> None:
        """Ignore it."""

    def finish(self) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
