"""The one way in which the planner compiles its inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.extending import register_jitable

__all__ = ["FEW_SAMPLES", "compiled", "compiled_inner", "in_proportion"]

FEW_SAMPLES = 2048
"""For so many samples, loops that look at every sample once are over sooner than they are compiled."""

_WITHOUT_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile with numba on the first call and keep the machine code for later processes.

    numba keeps what it compiled until the file of that function changes: functions that call each other, and the constants
    that they use, stand in one file. No fast-math: floating point keeps the order in which it is written, so a plan is the same
    on every machine.
    """
    return cast(_Function, numba.njit(cache=True)(function))


def compiled_inner(function: _Function) -> _Function:
    """A function that compiled ones call; to Python it stays as it is.

    It is kept as part of those that call it, without wrappers for Python and a place in the cache of its own: leaving them away
    takes a third off the time of compiling.
    """
    inner: _Function = register_jitable(**_WITHOUT_WRAPPERS)(function)
    return inner


def in_proportion(function: _Function, num_samples: int) -> _Function:
    """The function as compiled, or for few samples the same source as Python runs it.

    Both give the same result. A first plan of a thousand samples would wait longer for the compiler than for Python.
    """
    return function if num_samples > FEW_SAMPLES else getattr(function, "py_func", function)
