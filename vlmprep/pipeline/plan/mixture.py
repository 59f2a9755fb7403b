"""How often every row of a ledger is used.

A source's ratio is its `sample_ratio` times the weight given for it. At most 1, it draws a sample by the reference's own
rule, `random.Random(42).sample` over all rows; above, every row is used as often as the ratio's whole part says, and the
rows of such a sample once more.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.schema.errors import StopRun

__all__ = ["check_weights", "num_uses", "uses_of_rows"]

SAMPLE_RATIO_SEED = 42
"""The reference's own seed for `sample_ratio`."""


def check_weights(ledger: Ledger, weights: Mapping[str, float]) -> None:
    """Hold the names of weights against the sources.

    Raises:
        StopRun: A name is no source's.
    """
    known = [source["name"] for source in ledger.summary["sources"]]
    if unknown := sorted(set(weights) - set(known)):
        raise StopRun(
            f"--weight names {', '.join(unknown)}, which is no source of the ledger {ledger.root}",
            f"Its sources are {', '.join(known)}.",
        )


def uses_of_rows(ledger: Ledger, weights: Mapping[str, float]) -> NDArray[np.int32]:
    """How often every row is used, refused ones included.

    Args:
        ledger: Its sources have a `sample_ratio`.
        weights: By name of a source; 1 where it is not named.

    Returns:
        [rows] in the ledger's order.
    """
    sources: list[dict[str, Any]] = ledger.summary["sources"]
    rows_of = ledger.rows_of_sources()
    ratios = [source["sample_ratio"] * weights.get(source["name"], 1.0) for source in sources]
    if all(ratio == 1 for ratio in ratios):
        return np.broadcast_to(np.int32(1), sum(rows_of))
    return np.concatenate(
        [np.zeros(0, np.int32)] + [num_uses(rows, ratio) for rows, ratio in zip(rows_of, ratios, strict=True)]
    )


def num_uses(num_rows: int, ratio: float) -> NDArray[np.int32]:
    """How often each row of a source is used.

    Args:
        num_rows: Rows of the source.
        ratio: Uses per row on average, at least 0.

    Returns:
        [num_rows] `int(num_rows * ratio)` uses in all.
    """
    total = int(num_rows * ratio)
    whole, more = divmod(total, num_rows) if num_rows else (0, 0)
    uses = np.full(num_rows, whole, np.int32)
    if more:
        uses[random.Random(SAMPLE_RATIO_SEED).sample(range(num_rows), more)] += 1
    return uses
