"""How values of a row are shown in the reason for refusing it: short, on one line, whatever they are."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = ["clipped", "kind_of", "names", "shown"]

MAX_CHARACTERS = 200
MAX_NAMES = 12
MAX_NAME_CHARACTERS = 60
KINDS = {
    "NoneType": "null",
    "bool": "true or false",
    "dict": "an object",
    "float": "a number",
    "int": "a number",
    "list": "a list",
    "str": "text",
}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_CHARACTERS


def shown(value: Any) -> str:
    """A value as a person recognizes it, however long or deep it is."""
    return clipped(_SHORT.repr(value))


def clipped(text: str) -> str:
    """A text with its middle left out where it is long."""
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def names(columns: Iterable[str]) -> str:
    """Names in quotes, the first dozen of them, each cut off where it is long."""
    every = [f"{name!r:.{MAX_NAME_CHARACTERS}}" for name in columns]
    return ", ".join(every[:MAX_NAMES] + ["..."] * (len(every) > MAX_NAMES))


def kind_of(value: Any) -> str:
    """What JSON calls a value's type, with its article."""
    return "an empty list" if value == [] else KINDS.get(type(value).__name__, type(value).__name__)
