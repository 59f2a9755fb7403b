"""Runs `vlmprep` in this process, as the console script does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from unittest.mock import patch

import pytest

__all__ = ["Result", "run", "run_alone"]


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_alone(*arguments: str) -> int:
    """Run a command line to its end; its exit status."""
    from vlmprep.cli.main import main

    with patch.object(sys, "argv", ["vlmprep", *arguments]), pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> Result:
    """Run a command line to its end, and read what it said."""
    capsys.readouterr()
    code = run_alone(*arguments)
    captured = capsys.readouterr()
    return Result(code=code, out=captured.out, err=captured.err)
