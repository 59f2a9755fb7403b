"""Importing this module registers every command of `vlmprep`."""

from __future__ import annotations

from vlmprep.cli import estimate, pack, plan

__all__ = ["estimate", "pack", "plan"]
