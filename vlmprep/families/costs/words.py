"""Reading a config without guessing, and the arithmetic that all formulas share."""

from __future__ import annotations

from typing import Any

from vlmprep.schema.errors import StopRun

__all__ = ["area", "layer_linear", "linear", "named", "not_understood", "number", "numbers", "said", "value"]

NEXT = "Name the model's own config with --model-config, or plan with --balance vt, which needs none."


def said(config: Any, *names: str) -> Any:
    """The first of some fields that a config has, and None where it has none of them."""
    for name in names:
        if (found := getattr(config, name, None)) is not None:
            return found
    return None


def value(config: Any, *names: str) -> Any:
    """The first of some fields that a config has.

    Args:
        config: A part of a model's config.
        names: What the field is called, in this model and others.

    Raises:
        StopRun: It has none of them.
    """
    found = said(config, *names)
    if found is None:
        raise StopRun(f"the work of {named(config)} cannot be predicted: its config does not say {names[0]}", NEXT)
    return found


def not_understood(config: Any, what: str) -> StopRun:
    """The error for a config that says something no formula is known for."""
    return StopRun(f"the work of {named(config)} cannot be predicted: its config says {what}", NEXT)


def named(config: Any) -> str:
    """What a part of a model is called in messages."""
    return str(getattr(config, "model_type", "") or type(config).__name__)


def number(config: Any, *names: str) -> int:
    """The same as an integer.

    Raises:
        StopRun: It is none, or not there.
    """
    found = value(config, *names)
    if not isinstance(found, int) or isinstance(found, bool):
        raise not_understood(config, f"{names[0]} {found!r}")
    return found


def numbers(config: Any, *names: str) -> list[int]:
    """The same as a list of integers."""
    return [int(entry) for entry in value(config, *names)]


def area(config: Any, *names: str) -> int:
    """The product of a size that stands in a config as one number (a square's side) or as height and width."""
    found = value(config, *names)
    height, width = (found, found) if isinstance(found, int) else found
    return int(height) * int(width)


def linear(inputs: int, outputs: int) -> float:
    """Operations of one row through a matrix: a multiplication and an addition for each of its weights."""
    return 2.0 * inputs * outputs


def layer_linear(hidden: int, inner: int, *, gated: bool, attention: int | None = None) -> float:
    """Operations of one token in a usual encoder layer, without its attention scores.

    Args:
        hidden: Width of the layer.
        inner: Width inside its feed-forward part.
        gated: The feed-forward part has a second matrix beside the first.
        attention: Width of queries, keys and values each, all heads together; None: `hidden`.
    """
    width = hidden if attention is None else attention
    return 4 * linear(hidden, width) + (3 if gated else 2) * linear(hidden, inner)
