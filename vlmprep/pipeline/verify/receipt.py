"""A shard's receipt against the manifest and the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path

from vlmprep.pipeline.verify.problem import Problem
from vlmprep.schema.files import read_json
from vlmprep.schema.packset import PACKS_FILE, receipt_name
from vlmprep.shardformat.manifest import ShardRecord
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
    receipt: Receipt, shard: int, record: ShardRecord, first_pack: int, rows: Sequence[PackRecord]
) -> Iterator[Problem]:
    """Where a receipt and what others say of its shard differ.

    Args:
        receipt: The shard's receipt.
        shard: The shard's number.
        record: What the manifest says of it.
        first_pack: Its first pack, by the manifest.
        rows: Its rows of the index; none where that cannot be read.
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
            yield Problem(file=PACKS_FILE, pack_id=pack_id, what=differences(row, noted))


def differences(row: PackRecord, noted: PackRecord) -> str:
    """Where a row of the index differs from its receipt."""
    one, other = asdict(row), asdict(noted)
    return "; ".join(
        f"{name} is {one[name]}, its receipt says {other[name]}" for name in one if one[name] != other[name]
    )
