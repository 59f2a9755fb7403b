"""What every sample costs: its visual tokens, or the operations that the model's config predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.cost import COST_COUNTS, CostModel
from vlmprep.schema.family import FamilySettings

__all__ = ["TERA", "Costing", "costing_of"]

TERA = 1e12
"""Predicted work is told in 10^12 floating point operations of a forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costing:
    """How samples are costed."""

    model: CostModel | None
    """None: by their visual tokens."""

    @property
    def unit(self) -> str:
        """What a cost counts."""
        return "visual tokens" if self.model is None else "TFLOP"

    @property
    def counts(self) -> tuple[str, ...]:
        """Columns of a ledger that costs are computed from."""
        return ("num_visual_tokens",) if self.model is None else COST_COUNTS

    def costs(self, counts: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """What samples cost.

        Args:
            counts: [n] each, by the names in `counts`; num_tokens after the shift.

        Returns:
            [n] float64.
        """
        if self.model is None:
            return counts["num_visual_tokens"].astype(np.float64)
        return self.model.costs(counts) / TERA

    def cost_of(self, counts: Mapping[str, int]) -> float:
        """What one sample costs, by the same names."""
        return float(self.costs({name: np.array([counts[name]]) for name in self.counts})[0])

    def to_json(self) -> dict[str, Any]:
        """What a plan says of it."""
        return {"unit": self.unit, "model": None if self.model is None else self.model.to_json()}


def costing_of(
    balance: str, processor: FamilySettings, model_config: str | None = None, *, family: str | None = None
) -> Costing:
    """How samples are costed under a setting of `--balance`.

    Args:
        balance: `compute` reads the model's config.
        processor: Says where that lies.
        model_config: Folder, file or hub name of another config.
        family: Name of the family that the samples were counted for; None: they are not counted yet.

    Raises:
        StopRun: There is no config, it does not say enough, or it is of another family's model.
    """
    if balance != "compute":
        return Costing(model=None)
    from vlmprep.families.costs import load_cost_model  # brings transformers, which other plans do not need

    return Costing(model=load_cost_model(processor, model_config, family=family))
