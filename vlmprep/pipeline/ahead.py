"""The planner's loops compiled while rows are counted, so that the first plan of an installation does not wait for that."""

from __future__ import annotations

from functools import cache
from threading import Thread

__all__ = ["start_compiling"]


@cache
def start_compiling() -> None:
    """Compile in the background, once in a process; machine code that lies there from an earlier one is only loaded.

    The thread is no daemon: a process that ends before it is done waits for it, some seconds at most.
    """
    Thread(target=_compile, name="compile-planner").start()


def _compile() -> None:
    from vlmprep.planning import compile_ahead

    compile_ahead()
