"""Options in groups: a command that takes a dataclass takes its fields as options, so that several commands share them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

__all__ = ["grouped"]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread every parameter whose type is a dataclass into options, one per field; the command gets the dataclass.

    Args:
        command: A function with annotated parameters; fields of a group are annotated as typer wants options, and its
            `panel` is their heading in --help.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}

    @wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{entry.name: given.pop(entry.name) for entry in fields(group)})
        command(**given)

    parameters = list(_spread(inspect.signature(command), hints))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _spread(signature: inspect.Signature, hints: dict[str, Any]) -> Iterator[inspect.Parameter]:
    for parameter in signature.parameters.values():
        hint = hints[parameter.name]
        if isinstance(hint, type) and is_dataclass(hint):
            inside = get_type_hints(hint, include_extras=True)
            yield from (_option(entry, inside[entry.name], str(vars(hint)["panel"])) for entry in fields(hint))
        else:
            yield parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY)


def _option(entry: Field[Any], hint: Any, panel: str) -> inspect.Parameter:
    """One field as an option that --help shows in its group's panel."""
    type_, option = get_args(hint)
    option = copy(option)
    option.rich_help_panel = panel
    default = inspect.Parameter.empty if entry.default is MISSING else entry.default
    return inspect.Parameter(
        entry.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type_, option]
    )
