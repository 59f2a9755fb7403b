"""The one way in which the planner compiles its inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile with numba on the first call and keep the machine code for later processes.

    numba keeps what it compiled until the file of that function changes: functions that call each other stand in one file.
    No fast-math: floating point keeps the order in which it is written, so a plan is the same on every machine.
    """
    return cast(_Function, numba.njit(cache=True)(function))
