"""samples.parquet: every source row accounted for exactly once, and what it says is in which pack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlmprep.pipeline.accounts import PACKED, UNUSED
from vlmprep.pipeline.verify.problem import Problem
from vlmprep.schema.ledger import REFUSED
from vlmprep.schema.packset import KEPT, SAMPLES, SAMPLES_FILE, receipt_name
from vlmprep.shardformat.manifest import Manifest
from vlmprep.shardformat.packinfo import SampleRef
from vlmprep.shards.receipts import Refusal

__all__ = ["Account", "account_problems", "read_account", "refusal_problems"]

REFERENCE = ["source", "row", "sample_id", "num_cut_tokens"]
"""What a pack says of a document's sample."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Account:
    """The table, and its packed rows in the order of the packs."""

    table: pa.Table
    """SAMPLES, every row; KEPT too where columns were kept."""
    packed: pa.Table
    """REFERENCE, by pack_id and document; KEPT too where columns were kept."""
    pack_ids: NDArray[np.int64]  # [num_packed], rising
    documents: NDArray[np.int64]  # [num_packed]

    def samples(self, first_pack: int, num_packs: int) -> tuple[tuple[SampleRef, ...], ...]:
        """What some consecutive packs hold, document by document."""
        bounds = np.searchsorted(self.pack_ids, np.arange(first_pack, first_pack + num_packs + 1))
        packed = self.packed.select(REFERENCE)
        rows = [SampleRef(**row) for row in packed.slice(bounds[0], bounds[-1] - bounds[0]).to_pylist()]
        starts = bounds - bounds[0]
        return tuple(tuple(rows[start:end]) for start, end in pairwise(starts))


def read_account(path: Path) -> Account | str:
    """Read samples.parquet; or say why it cannot be read."""
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # text that is no UTF-8, lists that end before they begin
    except FileNotFoundError:
        return "it is missing"
    except (OSError, pa.ArrowException) as error:
        return f"it cannot be read: {error}"
    if table.schema.remove_metadata() not in (SAMPLES, SAMPLES.append(KEPT)):
        return f"it has columns {table.schema.names}, expected {SAMPLES.names} of fixed types"
    packed = all_places(table)
    packed = packed.take(pc.sort_indices(packed, [("pack_id", "ascending"), ("document", "ascending")]))
    return Account(
        table=table,
        packed=packed.drop_columns(["pack_id", "document"]),
        pack_ids=packed["pack_id"].to_numpy(),
        documents=packed["document"].to_numpy(),
    )


def all_places(table: pa.Table) -> pa.Table:
    """REFERENCE, pack_id and document of every place that a packed row stands at; KEPT where the table has it."""
    placed = pc.and_(pc.is_valid(table["pack_id"]), pc.is_valid(table["document"]))
    rows = table.filter(pc.and_(pc.equal(table["status"], PACKED), placed)).combine_chunks()
    more = rows["more_places"].combine_chunks()
    columns = [name for name in (*REFERENCE, KEPT.name) if name in table.column_names]
    again = rows.select(columns).take(pc.list_parent_indices(more))
    for name, column in zip(("pack_id", "document"), pc.list_flatten(more).flatten(), strict=True):
        again = again.append_column(name, column)
    return pa.concat_tables([rows.select(again.column_names), again])


def account_problems(account: Account, manifest: Manifest) -> Iterator[Problem]:
    """What is wrong with the table by itself and against the manifest."""
    table = account.table
    for name, expected in (
        (PACKED, manifest.rows.packed),
        (REFUSED, manifest.rows.refused),
        (UNUSED, manifest.rows.unused),
    ):
        found = pc.sum(pc.equal(table["status"], name)).as_py() or 0
        if found != expected:
            yield problem(f"{found} rows are {name}, the manifest says {expected}")
    yield from row_problems(table)
    yield from repeated_rows(table)
    yield from document_problems(account, manifest.num_packs)


def row_problems(table: pa.Table) -> Iterator[Problem]:
    """Rows whose entries do not go together."""
    is_packed, is_refused = pc.equal(table["status"], PACKED), pc.equal(table["status"], REFUSED)
    known = pc.is_in(table["status"], pa.array([PACKED, REFUSED, UNUSED]))
    yield from named_rows(table, pc.invert(known), "its status is not packed, refused or unused")
    for name in ("source", "row", "sample_id"):
        yield from named_rows(table, pc.is_null(table[name]), f"it has no {name}")
    for name in ("pack_id", "document"):
        has = pc.is_valid(table[name])
        yield from named_rows(table, pc.and_(is_packed, pc.invert(has)), f"it is packed, but has no {name}")
        yield from named_rows(table, pc.and_(pc.invert(is_packed), has), f"it is not packed, but has a {name}")
    for name in ("num_uses", "num_cut_tokens"):
        yield from named_rows(
            table, pc.xor(is_packed, pc.is_valid(table[name])), f"its {name} does not go with its status"
        )
    places = pc.add(1, pc.fill_null(pc.list_value_length(table["more_places"]), 0))
    wrong = pc.and_(is_packed, pc.fill_null(pc.not_equal(table["num_uses"], places), False))
    yield from named_rows(table, wrong, "its num_uses is not the number of its places")
    for name in ("reason", "reason_code"):
        has = pc.is_valid(table[name])
        yield from named_rows(table, pc.and_(is_refused, pc.invert(has)), f"it is refused without a {name}")
        yield from named_rows(table, pc.and_(pc.invert(is_refused), has), f"it is not refused, but has a {name}")


def named_rows(table: pa.Table, wrong: pa.ChunkedArray, what: str) -> Iterator[Problem]:
    """A problem for every row where `wrong` is true."""
    for row in table.select(["source", "row", "sample_id"]).filter(wrong).to_pylist():
        yield problem(f"{row['source']} row {row['row']} ({row['sample_id']}): {what}")


def repeated_rows(table: pa.Table) -> Iterator[Problem]:
    """Source rows that are accounted for more than once."""
    counts = table.select(["source", "row"]).group_by(["source", "row"]).aggregate([([], "count_all")])
    for entry in counts.filter(pc.greater(counts["count_all"], 1)).to_pylist():
        yield problem(f"{entry['source']} row {entry['row']} is there {entry['count_all']} times")


def document_problems(account: Account, num_packs: int) -> Iterator[Problem]:
    """Packs that do not exist, and packs whose documents are not numbered 1..n."""
    pack_ids = account.pack_ids
    for pack_id in np.unique(pack_ids[(pack_ids < 0) | (pack_ids >= num_packs)]).tolist():
        yield problem(f"rows are in pack {pack_id}, there are {num_packs} packs")
    is_first = np.ones(len(pack_ids), dtype=np.bool_)
    is_first[1:] = np.diff(pack_ids) != 0
    starts = np.flatnonzero(is_first)
    within = np.arange(len(pack_ids)) - np.repeat(starts, np.diff(np.append(starts, len(pack_ids))))
    for pack_id in np.unique(pack_ids[account.documents != within + 1]).tolist():
        found = account.documents[pack_ids == pack_id].tolist()
        yield problem(f"its documents are numbered {found}, expected 1 to {len(found)}", pack_id=pack_id)


def refusal_problems(account: Account, refused: Mapping[int, Sequence[Refusal]], *, believe: bool) -> Iterator[Problem]:
    """Samples that a shard's receipt refuses and the table does not, or for another reason.

    Args:
        account: The table.
        refused: What receipts refuse, by shard.
        believe: The table is what was written, so the receipt is not where they differ.
    """
    for shard, refusals in refused.items():
        file = receipt_name(shard) if believe else SAMPLES_FILE
        for refusal in refusals:
            row: dict[str, Any] = {}
            if 0 <= refusal.sample < account.table.num_rows:
                row = account.table.slice(refusal.sample, 1).to_pylist()[0]
            if (row.get("status"), row.get("reason_code"), row.get("reason")) != (
                REFUSED,
                refusal.code,
                refusal.reason,
            ):
                name = f"{row['source']} row {row['row']} ({row['sample_id']})" if row else f"sample {refusal.sample}"
                what = (
                    f"{name} was refused while packing ({refusal.code}) by its receipt, {SAMPLES_FILE} does not say so"
                )
                yield Problem(file=file, what=what)


def problem(what: str, pack_id: int | None = None) -> Problem:
    """A problem of this file."""
    return Problem(file=SAMPLES_FILE, pack_id=pack_id, what=what)
