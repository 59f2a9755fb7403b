"""samples.parquet: what became of every source row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.planfile import Plan
from vlmprep.schema.files import publish
from vlmprep.schema.ledger import REFUSED
from vlmprep.schema.packset import SAMPLES
from vlmprep.shardformat.manifest import RowCounts
from vlmprep.shards.receipts import Receipt

__all__ = ["write_accounts"]

PACKED = "packed"
UNUSED = "unused"


def write_accounts(path: Path, ledger: Ledger, plan: Plan, receipts: Sequence[Receipt]) -> RowCounts:
    """Publish samples.parquet.

    A row is refused where the ledger, the plan or a shard's receipt says so, packed where the plan placed it, else unused.

    Args:
        path: Where it goes.
        ledger: Every row, in order.
        plan: Which samples make which pack.
        receipts: Of all shards, with what they could not pack.
    """
    table = ledger.read(["source", "row", "sample_id", "status", "reason", "reason_code"])
    reasons, codes = table["reason"].to_pylist(), table["reason_code"].to_pylist()
    refused = np.asarray(table["status"].to_numpy() == REFUSED, dtype=np.bool_)
    for sample, code, reason in _later_refusals(plan, receipts):
        refused[sample], codes[sample], reasons[sample] = True, code, reason
    pack_of = np.full(table.num_rows, -1, dtype=np.int64)
    pack_of[plan.samples] = np.repeat(np.arange(plan.num_packs), np.diff(plan.offsets))
    kept = plan.samples[~refused[plan.samples]]
    documents = np.zeros(table.num_rows, dtype=np.int32)
    documents[kept] = _count_within(pack_of[kept])
    packed = (pack_of >= 0) & ~refused
    status = np.where(refused, REFUSED, np.where(packed, PACKED, UNUSED))
    accounts = pa.table(
        [
            table["source"],
            table["row"],
            table["sample_id"],
            pa.array(status),
            pa.array(pack_of, mask=~packed),
            pa.array(documents, mask=~packed),
            pa.array(reasons, pa.string()),
            pa.array(codes, pa.string()),
        ],
        schema=SAMPLES,
    )
    with publish(path) as attempt:
        pq.write_table(accounts, attempt, compression="zstd")
    counts = {name: int(np.count_nonzero(status == name)) for name in (PACKED, REFUSED, UNUSED)}
    return RowCounts(packed=counts[PACKED], refused=counts[REFUSED], unused=counts[UNUSED])


def _later_refusals(plan: Plan, receipts: Sequence[Receipt]) -> list[tuple[int, str, str]]:
    """(sample, code, reason) of what the plan and the pack stage refused."""
    planned = [(row["sample"], row["reason_code"], row["reason"]) for row in plan.refused.to_pylist()]
    return planned + [(r.sample, r.code, r.reason) for receipt in receipts for r in receipt.refused]


def _count_within(groups: np.ndarray) -> np.ndarray:
    """1, 2, 3, ... within each run of equal numbers: [0, 0, 4, 4, 4] -> [1, 2, 1, 2, 3]."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(starts, len(groups)))
    return np.arange(1, len(groups) + 1) - np.repeat(starts, lengths)
