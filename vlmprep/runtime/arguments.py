"""What a Loader is given, held against what it can be: before anything is read, in the words of its arguments."""

from __future__ import annotations

from operator import index as as_int
from typing import Any

import torch

__all__ = ["check_device", "check_numbers", "check_packs"]


def check_packs(packs: Any) -> None:
    """Refuse a path in the place of packs.

    Raises:
        TypeError: It is no pack set.
    """
    if not hasattr(packs, "manifest"):
        raise TypeError(
            f"a Loader takes packs, from vlmprep.open or vlmprep.blend, got {type(packs).__name__}: "
            "Loader(vlmprep.open(path), ...)"
        )


def check_numbers(**numbers: tuple[Any, int | None]) -> None:
    """Refuse what is no whole number, or too small.

    Args:
        numbers: By the argument's name: its value, and what it is at least; None is no number to check.

    Raises:
        TypeError: A value is no whole number.
        ValueError: A value is too small.
    """
    for name, (value, least) in numbers.items():
        if value is None:
            continue
        try:
            number = as_int(value)
        except TypeError as error:
            raise TypeError(f"{name} must be a whole number, got {value!r}") from error
        if least is not None and number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")


def check_device(device: torch.device | None) -> None:
    """Refuse a GPU that is not there.

    Raises:
        ValueError: torch sees none.
    """
    if device is not None and device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, but torch sees no GPU here: leave device out, or give 'cpu'")
