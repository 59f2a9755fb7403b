"""The `vlmprep` command: runs what was asked for; errors become a message and an exit code."""

from __future__ import annotations

import os
import sys

import typer

import vlmprep.cli.commands  # noqa: F401 - registers the commands
from vlmprep.cli.app import app
from vlmprep.cli.console import people
from vlmprep.schema.errors import VlmprepError

__all__ = ["main"]

STOPPED, USAGE, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run a command; 0 success, 1 stopped, 2 usage, 130 Ctrl-C."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice is for programmers; workers inherit this
    sys.exit(_run())


def _run() -> int:
    try:
        code = typer.main.get_command(app).main(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except VlmprepError as error:
        _show(*(str(error).split("\n", 1)))
        return STOPPED
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        _show(
            f"{error.strerror or error}{place}", "What was finished is kept; mend this and run the same command again."
        )
        return STOPPED
    except Exception as error:  # noqa: BLE001 - the last boundary: a person gets a sentence, and the trace on request
        return _usage_or_defect(error)
    if code == INTERRUPTED:  # typer's newer versions turn Ctrl-C into this exit code themselves
        people.print("\n[bold]Stopped.[/bold] Everything finished so far is kept; run the same command again to go on.")
    return int(code or 0)


def _usage_or_defect(error: Exception) -> int:
    """Click's own errors show themselves; they are told by what they can do, as typer carries a copy of click or not."""
    show = getattr(error, "show", None)
    if show is not None and hasattr(error, "exit_code"):
        show()
        return USAGE
    if os.environ.get("VLMPREP_DEBUG"):
        raise error
    _show(
        f"{type(error).__name__}: {error}",
        "This is a defect of vlmprep; please report it with the trace that VLMPREP_DEBUG=1 shows.",
    )
    return STOPPED


def _show(message: str, hint: str = "") -> None:
    people.print(f"[bold red]Stopped:[/bold red] {_plain(message)}", highlight=False, soft_wrap=True)
    if hint:
        people.print(_plain(hint), highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
