"""samples.parquet: what became of every source row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.plan.file import Plan
from vlmprep.schema.files import publish
from vlmprep.schema.ledger import REFUSED
from vlmprep.schema.packset import KEPT, SAMPLES
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
    places = _places(plan, ledger.summary["rows"]["all"], refusals)
    counts: Counter[str] = Counter()
    first = 0
    keeps = bool(ledger.settings["limits"].get("keep"))
    schema, columns = (SAMPLES.append(KEPT), (*COLUMNS, KEPT.name)) if keeps else (SAMPLES, COLUMNS)
    with publish(path) as attempt, pq.ParquetWriter(attempt, schema, compression="zstd") as writer:
        for table in _row_groups(ledger.chunks(columns)):
            rows = slice(first, first + table.num_rows)
            accounts = _account(table, places.of(rows), _within(refusals, rows))
            counts.update({pair["values"]: pair["counts"] for pair in accounts["status"].value_counts().to_pylist()})
            if keeps:
                accounts = accounts.append_column(KEPT, table[KEPT.name])
            writer.write_table(accounts)
            first += table.num_rows
    return RowCounts(packed=counts[PACKED], refused=counts[REFUSED], unused=counts[UNUSED])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Where rows stand in packs."""

    pack_of: NDArray[np.int64]
    """[rows] the first pack that holds the row, -1 for none."""
    document_of: NDArray[np.int32]
    """[rows] its document there."""
    num_uses: NDArray[np.int32]
    """[rows]"""
    num_cut_tokens: NDArray[np.int32]
    """[rows]"""
    more: NDArray[np.int64]
    """[places, 3] row, pack and document of every further place, by rising row."""

    def of(self, rows: slice) -> Places:
        """Those of some rows, which count from 0 then."""
        between = np.searchsorted(self.more[:, 0], (rows.start, rows.stop))
        return Places(
            pack_of=self.pack_of[rows],
            document_of=self.document_of[rows],
            num_uses=self.num_uses[rows],
            num_cut_tokens=self.num_cut_tokens[rows],
            more=self.more[slice(*between)] - np.array([rows.start, 0, 0]),
        )

    def more_places(self) -> pa.ListArray:
        """The further places of every row; null where there are none."""
        first = np.searchsorted(self.more[:, 0], np.arange(len(self.pack_of) + 1)).astype(np.int32)
        type_ = SAMPLES.field("more_places").type
        columns = [pa.array(self.more[:, 1]), pa.array(self.more[:, 2].astype(np.int32))]
        places = pa.StructArray.from_arrays(columns, fields=list(type_.value_type))
        return pa.ListArray.from_arrays(pa.array(first), places, type=type_, mask=pa.array(np.diff(first) == 0))


def _places(plan: Plan, num_rows: int, refusals: Mapping[int, object]) -> Places:
    refused = np.zeros(num_rows, dtype=np.bool_)
    refused[list(refusals)] = True
    written = ~refused[plan.samples]
    rows = plan.samples[written]
    packs = np.repeat(np.arange(plan.num_packs), np.diff(plan.offsets))[written]
    documents = _count_within(packs)
    pack_of = np.full(num_rows, -1, dtype=np.int64)
    document_of = np.zeros(num_rows, dtype=np.int32)
    pack_of[rows[::-1]], document_of[rows[::-1]] = packs[::-1], documents[::-1]  # of several places the first stays
    again = (pack_of[rows] != packs) | (document_of[rows] != documents)
    num_cut_tokens = np.zeros(num_rows, np.int32)
    num_cut_tokens[plan.cuts["sample"].to_numpy()] = plan.cuts["num_cut_tokens"].to_numpy()
    more = np.stack([rows[again], packs[again], documents[again]], axis=1)
    return Places(
        pack_of=pack_of,
        document_of=document_of,
        num_uses=np.bincount(rows, minlength=num_rows).astype(np.int32),
        num_cut_tokens=num_cut_tokens,
        more=more[np.argsort(more[:, 0], kind="stable")],
    )


def _account(table: pa.Table, places: Places, refusals: Mapping[int, tuple[str, str]]) -> pa.Table:
    """Some rows of samples.parquet.

    Args:
        table: These rows in the ledger: COLUMNS.
        places: Of these rows.
        refusals: By place in the table, (code, reason) of what the ledger did not refuse yet.
    """
    codes, reasons = table["reason_code"].to_pylist(), table["reason"].to_pylist()
    refused = pc.equal(table["status"], REFUSED).to_numpy()
    for place, (code, reason) in refusals.items():
        refused[place], codes[place], reasons[place] = True, code, reason
    packed = places.pack_of >= 0
    status = pa.array(STATUSES).take(pa.array(np.where(refused, STATUSES.index(REFUSED), packed)))
    return pa.table(
        [
            table["source"],
            table["row"],
            table["sample_id"],
            status,
            pa.array(places.pack_of, mask=~packed),
            pa.array(places.document_of, mask=~packed),
            pa.array(places.num_uses, mask=~packed),
            places.more_places(),
            pa.array(places.num_cut_tokens, mask=~packed),
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
