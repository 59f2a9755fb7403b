"""A shard's receipt against the manifest and the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path

from vlmprep.pipeline.verify.problem import Problem
from vlmprep.schema.files import read_json
from vlmprep.schema.packset import PACKS_FILE, receipt_name
from vlmprep.shardformat.shardrecords import ShardRecord
from vlmprep.shards.receipts import PackRecord, Receipt, Refusal

__all__ = ["load_receipt", "receipt_problems"]


def load_receipt(root: Path, shard: int) -> Receipt | Problem:
    """Read a receipt, whatever job it is of; or say why it cannot be read."""
    name = receipt_name(shard)
    try:
        value = read_json(root / name)
        if value is None:
            return Problem(file=name, what="it is missing")
        packs = tuple(PackRecord(**pack) for pack in value["packs"])
        refused = tuple(Refusal(**refusal) for refusal in value["refused"])
        return Receipt(**{**value, "packs": packs, "refused": refused})
    except (ValueError, KeyError, TypeError, OSError) as error:
        return Problem(file=name, what=f"it is no receipt: {type(error).__name__}: {error}")


def receipt_problems(
    receipt: Receipt,
    shard: int,
    record: ShardRecord,
    first_pack: int,
    rows: Sequence[PackRecord],
    *,
    believe_index: bool,
) -> Iterator[Problem]:
    """Where a receipt and what others say of its shard differ.

    Args:
        receipt: The shard's receipt.
        shard: The shard's number.
        record: What the manifest says of it.
        first_pack: Its first pack, by the manifest.
        rows: Its rows of the index; none where that cannot be read.
        believe_index: The index is what was written, so the receipt is not where they differ.
    """
    name = receipt_name(shard)
    expected = {"shard": shard, "first_pack": first_pack, "size": record.size, "sha256": record.sha256}
    for entry, value in expected.items():
        if getattr(receipt, entry) != value:
            yield Problem(file=name, what=f"{entry} is {getattr(receipt, entry)}, the manifest says {value}")
    if len(receipt.packs) != record.num_packs:
        yield Problem(file=name, what=f"it lists {len(receipt.packs)} packs, the manifest {record.num_packs}")
    for pack_id, (noted, row) in enumerate(zip_longest(receipt.packs, rows), start=first_pack):
        if noted is not None and row is not None and noted != row:
            what = differences(noted, row, PACKS_FILE) if believe_index else differences(row, noted, "its receipt")
            yield Problem(file=name if believe_index else PACKS_FILE, pack_id=pack_id, what=what)


def differences(wrong: PackRecord, right: PackRecord, whose: str) -> str:
    """Where a row of index or receipt differs from the other's."""
    one, other = asdict(wrong), asdict(right)
    return "; ".join(f"{name} is {one[name]}, {whose} says {other[name]}" for name in one if one[name] != other[name])
