"""What the pipeline asks of an engine: to run the units of a job somewhere, once each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = ["Engine", "Job", "Worker"]

Unit = TypeVar("Unit")
Result = TypeVar("Result")
UnitIn = TypeVar("UnitIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)

Worker: TypeAlias = Callable[[Unit], Result]


class Job(Protocol[UnitIn, ResultOut]):
    """A picklable description of work; `open` pays the start-up (loading a processor) once per worker."""

    def open(self) -> Callable[[UnitIn], ResultOut]:
        """The function that runs one unit; units and results are small, what they produce lies in files."""
        ...


class Engine(Protocol):
    """Runs units of a job, a bounded number at a time."""

    def run(self, job: Job[Any, Any], units: Iterable[Any]) -> Generator[Any]:
        """Yield one result per unit as they finish, in any order; closing it ends the work in progress."""
        ...
