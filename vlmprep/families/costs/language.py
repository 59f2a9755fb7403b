"""The language model's work, from its text config."""

from __future__ import annotations

from typing import Any

from vlmprep.schema.cost import CostModel

__all__ = ["language_terms"]


def language_terms(config: Any) -> CostModel:
    """The language model's part of a cost model."""
    raise NotImplementedError
