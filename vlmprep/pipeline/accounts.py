"""samples.parquet: what became of every source row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.planfile import Plan
from vlmprep.schema.files import publish
from vlmprep.schema.ledger import REFUSED
from vlmprep.schema.packset import SAMPLES
from vlmprep.shardformat.manifest import RowCounts
from vlmprep.shards.receipts import Refusal

__all__ = ["write_accounts"]

PACKED = "packed"
UNUSED = "unused"
STATUSES = (UNUSED, PACKED, REFUSED)
ROW_GROUP_ROWS = 65_536
COLUMNS = ("source", "row", "sample_id", "status", "reason", "reason_code")


def write_accounts(path: Path, ledger: Ledger, plan: Plan, late: Iterable[Refusal]) -> RowCounts:
    """Publish samples.parquet.

    A row is refused where the ledger, the plan or the pack stage says so, packed where the plan placed it, else unused.

    Args:
        path: Where it goes.
        ledger: Every row, in order.
        plan: Which samples make which pack.
        late: What could not be packed.
    """
    refusals = {row["sample"]: (row["reason_code"], row["reason"]) for row in plan.refused.to_pylist()}
    refusals |= {refusal.sample: (refusal.code, refusal.reason) for refusal in late}
    pack_of, document_of = _places(plan, ledger.summary["rows"]["all"], refusals)
    counts: Counter[str] = Counter()
    first = 0
    with publish(path) as attempt, pq.ParquetWriter(attempt, SAMPLES, compression="zstd") as writer:
        for table in _row_groups(ledger.chunks(COLUMNS)):
            rows = slice(first, first + table.num_rows)
            accounts = _account(table, pack_of[rows], document_of[rows], _within(refusals, rows))
            counts.update({pair["values"]: pair["counts"] for pair in accounts["status"].value_counts().to_pylist()})
            writer.write_table(accounts)
            first += table.num_rows
    return RowCounts(packed=counts[PACKED], refused=counts[REFUSED], unused=counts[UNUSED])


def _places(plan: Plan, num_rows: int, refusals: Mapping[int, object]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """For each row, its pack and its document's number there; -1 and 0 where it is in none."""
    refused = np.zeros(num_rows, dtype=np.bool_)
    refused[list(refusals)] = True
    written = ~refused[plan.samples]
    kept = plan.samples[written]
    packs = np.repeat(np.arange(plan.num_packs), np.diff(plan.offsets))[written]
    pack_of = np.full(num_rows, -1, dtype=np.int64)
    pack_of[kept] = packs
    document_of = np.zeros(num_rows, dtype=np.int32)
    document_of[kept] = _count_within(packs)
    return pack_of, document_of


def _account(
    table: pa.Table, pack_of: NDArray[np.int64], document_of: NDArray[np.int32], refusals: Mapping[int, tuple[str, str]]
) -> pa.Table:
    """Some rows of samples.parquet.

    Args:
        table: These rows in the ledger: COLUMNS.
        pack_of: [rows] -1 where a row is in no pack.
        document_of: [rows].
        refusals: By place in the table, (code, reason) of what the ledger did not refuse yet.
    """
    codes, reasons = table["reason_code"].to_pylist(), table["reason"].to_pylist()
    refused = pc.equal(table["status"], REFUSED).to_numpy()
    for place, (code, reason) in refusals.items():
        refused[place], codes[place], reasons[place] = True, code, reason
    packed = pack_of >= 0
    status = pa.array(STATUSES).take(pa.array(np.where(refused, STATUSES.index(REFUSED), packed)))
    return pa.table(
        [
            table["source"],
            table["row"],
            table["sample_id"],
            status,
            pa.array(pack_of, mask=~packed),
            pa.array(document_of, mask=~packed),
            pa.array(reasons, pa.string()),
            pa.array(codes, pa.string()),
        ],
        schema=SAMPLES,
    )


def _row_groups(chunks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """A ledger's chunks, the small ones joined up to a sensible row group."""
    waiting: list[pa.Table] = []
    for table in chunks:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _within(refusals: Mapping[int, tuple[str, str]], rows: slice) -> dict[int, tuple[str, str]]:
    """The refusals of some rows, by place among them."""
    return {sample - rows.start: refusal for sample, refusal in refusals.items() if rows.start <= sample < rows.stop}


def _count_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """1, 2, 3, ... within each run of equal numbers: [0, 0, 4, 4, 4] -> [1, 2, 1, 2, 3]."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(starts, len(groups)))
    return np.arange(1, len(groups) + 1) - np.repeat(starts, lengths)
