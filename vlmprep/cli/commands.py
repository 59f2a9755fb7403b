"""Importing this module registers every command of `vlmprep`."""

from __future__ import annotations

from vlmprep.cli import demo, estimate, inspect, pack, plan, verify

__all__ = ["demo", "estimate", "inspect", "pack", "plan", "verify"]
