"""What the cost model of a tiny model says of counted media."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vlmprep.families.costs.table import ENCODERS
from vlmprep.schema.cost import COST_COUNTS, CostModel
from vlmprep.schema.media import MediaCount

__all__ = ["predicted", "terms"]


def terms(config: Any) -> dict[str, Any]:
    """Fields of the cost model that a model's encoders give, added up."""
    found: Counter[str] = Counter()
    for part in ENCODERS[config.model_type]:
        found.update(part(config))
    return dict(found)


def predicted(config: Any, counts: Sequence[MediaCount]) -> float:
    """Operations of the encoders for these media, from their counts and the config alone."""
    model = CostModel(per_token=0.0, per_token_pair=0.0, **terms(config))
    columns = {
        name: np.array([getattr(count if name == "num_visual_tokens" else count.work, name) for count in counts])
        for name in COST_COUNTS
        if name != "num_tokens"
    }
    return float(model.encoders(columns).sum())
