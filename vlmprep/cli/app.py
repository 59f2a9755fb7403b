"""The application that every command registers itself with."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(
    name="vlmprep",
    help="Turn raw vision-language conversations into full, equal, tokenized packs, once, before training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
