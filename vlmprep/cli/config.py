"""`--config FILE.yaml`: every option by its name; flags on the command line win."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml

__all__ = ["use_config"]


def use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make a YAML file the defaults of a command.

    Raises:
        typer.BadParameter: The file is no mapping, or names an option that the command does not have.
    """
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error
    content = {} if content is None else content  # a file of comments alone
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{path} holds {type(content).__name__}, expected a mapping of options")
    given = {str(name).replace("-", "_"): value for name, value in content.items()}
    known = {
        flag.removeprefix("--").replace("-", "_"): parameter.name
        for parameter in context.command.params
        for flag in parameter.opts
        if len(flag) > len("-j") and parameter.name != "config"
    }
    if unknown := sorted(set(given) - set(known)):
        raise typer.BadParameter(
            f"{path} names unknown options {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    defaults = {known[name]: value for name, value in given.items()}
    context.default_map = {**(context.default_map or {}), **defaults}
    return path
