"""The one way in which the planner compiles its inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled", "compiled_inner"]

_WITHOUT_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile with numba on the first call and keep the machine code for later processes.

    numba keeps what it compiled until the file of that function changes: functions that call each other stand in one file.
    No fast-math: floating point keeps the order in which it is written, so a plan is the same on every machine.
    """
    return cast(_Function, numba.njit(cache=True)(function))


def compiled_inner(function: _Function) -> _Function:
    """Compile a function that only compiled ones call, without wrappers for Python and a place in the cache of its own.

    It is kept as part of those that call it; leaving the rest away takes a third off the time of compiling.
    """
    return cast(_Function, numba.njit(**_WITHOUT_WRAPPERS)(function))
