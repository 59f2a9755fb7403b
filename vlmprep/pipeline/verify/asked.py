"""What a pack set is to be held against, beside itself; who asks for nothing loads nothing that models need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Against"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What a pack set is held against."""

    processor: str
    """Folder or hub name."""
    num_samples: int
    """Documents to make anew; all of them where there are no more."""
    ledger: Path | None = None
    """What it was packed from; None: the one inside the pack set."""
    seed: int = 0
    """Of the choice of documents."""
