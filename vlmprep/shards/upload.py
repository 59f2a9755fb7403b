"""A shard's way to a store: the whole file, its index, and behind them the receipt; the local files go."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from vlmprep.schema.files import json_bytes
from vlmprep.schema.packset import receipt_name, shard_name
from vlmprep.shards.receipts import Receipt, SizeOf
from vlmprep.stores.folder import StoreFolder

__all__ = ["sizes_on", "upload_shard"]


def upload_shard(store: StoreFolder, root: Path, receipt: Receipt) -> None:
    """Publish a shard that was written and read back here.

    Args:
        store: The pack set on its store.
        root: Its working copy.
        receipt: The shard's; it is not written here before it is there.

    Raises:
        StoreTrouble: The store does not take it, or takes something else.
    """
    shard = root / shard_name(receipt.shard)
    index = shard.with_name(shard.name + ".idx")
    store.publish_file(shard_name(receipt.shard), shard, receipt.sha256)
    store.publish_bytes(f"{shard_name(receipt.shard)}.idx", index.read_bytes())
    store.publish_bytes(receipt_name(receipt.shard), json_bytes(asdict(receipt)))
    shard.unlink()
    index.unlink()


def sizes_on(store: StoreFolder) -> SizeOf:
    """The sizes of all shards as they are now."""
    found = store.files("shards")

    def size_of(name: str) -> int | None:
        return found[name].size if name in found else None

    return size_of
