"""Arrays of all packs, worked on a piece at a time: NumPy would make 64-bit copies of all places at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Integers", "blocks", "gather", "place_type"]

_BLOCK = 1 << 18
Value = TypeVar("Value", bound=np.generic)

Integers: TypeAlias = NDArray[np.integer[Any]]
"""Numbers of packs, or places of them: int32, int64 beyond 2^31."""


def blocks(n: int) -> Iterator[slice]:
    """Slices that cover 0..n-1, one after the other."""
    for start in range(0, n, _BLOCK):
        yield slice(start, min(start + _BLOCK, n))


def gather(values: NDArray[Value], places: Integers) -> NDArray[Value]:
    """[n] `values[places]`."""
    gathered = np.empty(len(places), values.dtype)
    for block in blocks(len(places)):
        gathered[block] = values[places[block]]
    return gathered


def place_type(n: int) -> np.dtype[np.signedinteger[Any]]:
    """The smaller of int32 and int64 that holds 0..n-1."""
    return np.dtype(np.int32 if n <= 1 << 31 else np.int64)
