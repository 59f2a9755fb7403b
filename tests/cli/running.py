"""Runs `vlmprep` in this process, as the console script does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from unittest.mock import patch

import pytest

__all__ = ["Result", "run"]


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> Result:
    """Run a command line to its end."""
    from vlmprep.cli.main import main

    capsys.readouterr()
    with patch.object(sys, "argv", ["vlmprep", *arguments]), pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return Result(code=int(ended.value.code or 0), out=captured.out, err=captured.err)
