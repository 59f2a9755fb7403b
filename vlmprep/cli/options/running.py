"""What runs the work, what is printed, and where options come from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from vlmprep.cli.config import use_config
from vlmprep.engines.local import LocalEngine
from vlmprep.schema.engine import Engine

__all__ = ["Config", "EngineOptions", "Json", "MaxRefused", "OutputOptions", "Work", "Workers", "asked"]


class EngineName(StrEnum):
    """What runs the work."""

    LOCAL = "local"


DEFAULT_WORKERS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML file with any of these options by name; flags win.", callback=use_config, is_eager=True
    ),
]
Work = Annotated[
    Path | None,
    typer.Option(
        "--work",
        help="With --out on a store: local folder of what is not there yet; default: beneath the cache.",
        show_default=False,
    ),
]
MaxRefused = Annotated[
    float, typer.Option("--max-refused", help="Share of the rows that may be refused.", min=0.0, max=1.0)
]
Workers = Annotated[int, typer.Option("--workers", "-j", help="Worker processes; 0 works in this process.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What runs the work."""

    panel: ClassVar[str] = "Running"
    workers: Workers = DEFAULT_WORKERS
    engine: Annotated[EngineName, typer.Option("--engine", help="What runs the work.")] = EngineName.LOCAL

    def make(self) -> Engine:
        """The engine."""
        assert self.engine is EngineName.LOCAL, "the only engine so far"
        return LocalEngine(self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What is printed, and where options come from."""

    panel: ClassVar[str] = "Output"
    json: Json = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no tables.")] = False
    config: Config = None

    @property
    def silent(self) -> bool:
        """No progress bars."""
        return self.quiet or self.json


def asked(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Which of some parameters a command line or a config file gave."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
