"""The options that several commands share, each said once: a dataclass for every stage that they decide about.

counting.py  what a ledger depends on
planning.py  what a plan depends on, beside the ledger
writing.py   what shards depend on, beside the plan
running.py   what runs the work, what is printed, and where options come from
"""

from __future__ import annotations

from vlmprep.cli.options.counting import CountOptions, ModelConfig, TrustRemoteCode
from vlmprep.cli.options.planning import PlanOptions
from vlmprep.cli.options.running import (
    Config,
    EngineOptions,
    Json,
    MaxRefused,
    OutputOptions,
    Work,
    Workers,
    asked,
)
from vlmprep.cli.options.writing import WriteOptions

__all__ = [
    "Config",
    "CountOptions",
    "EngineOptions",
    "Json",
    "MaxRefused",
    "ModelConfig",
    "OutputOptions",
    "PlanOptions",
    "TrustRemoteCode",
    "Work",
    "Workers",
    "WriteOptions",
    "asked",
]
