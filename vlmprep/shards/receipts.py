"""Receipts: what a committed shard holds, written after it; a shard without a valid receipt does not count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from vlmprep.schema.files import read_json, write_json
from vlmprep.schema.packset import receipt_name, shard_name

__all__ = ["PackRecord", "Receipt", "Refusal", "SizeOf", "parse_receipt", "read_receipt", "write_receipt"]

SizeOf: TypeAlias = Callable[[str], int | None]
OFFSET_BYTES = 8
"""Of a number in the index for Megatron-Energon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRecord:
    """One row of packs.arrow, less the shard."""

    offset: int
    size: int
    xxh3: int
    num_tokens: int
    num_visual_tokens: int
    num_label_tokens: int
    num_samples: int
    num_images: int
    num_videos: int
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A planned sample that could not be packed."""

    sample: int
    """Its number in the ledger."""
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One committed shard."""

    shard: int
    first_pack: int
    size: int
    """Bytes."""
    sha256: str
    job: str
    """Digest of everything that the shard's bytes depend on: plan, settings, fingerprint."""
    packs: tuple[PackRecord, ...]
    refused: tuple[Refusal, ...]


def write_receipt(root: Path, receipt: Receipt) -> None:
    """Publish a shard's receipt."""
    write_json(root / receipt_name(receipt.shard), asdict(receipt))


def read_receipt(root: Path, shard: int, job: str, size_of: SizeOf | None = None) -> Receipt | None:
    """The receipt of a shard that this job committed and that still lies there, with its index, in full length; else None.

    Args:
        root: Where receipts lie.
        shard: Its number.
        job: Digest of everything that its bytes depend on.
        size_of: Bytes of a file of the pack set, None where there is none; default: of one beneath `root`.
    """
    try:
        receipt = parse_receipt(read_json(root / receipt_name(shard)))
    except (ValueError, KeyError, TypeError):  # none, or none of ours: the shard is written again
        return None
    if receipt.job != job or receipt.shard != shard:
        return None
    shard_file = shard_name(shard)
    sizes = {shard_file: receipt.size, f"{shard_file}.idx": OFFSET_BYTES * (len(receipt.packs) + 1)}
    found = size_of or partial(local_size, root)
    return receipt if all(found(name) == size for name, size in sizes.items()) else None


def local_size(root: Path, name: str) -> int | None:
    """Bytes of a file, None where there is none."""
    path = root / name
    return path.stat().st_size if path.is_file() else None


def parse_receipt(value: Any) -> Receipt:
    """A receipt from its JSON.

    Raises:
        ValueError, KeyError, TypeError: It is none.
    """
    packs = tuple(PackRecord(**pack) for pack in value["packs"])
    refused = tuple(Refusal(**refusal) for refusal in value["refused"])
    return Receipt(**{**value, "packs": packs, "refused": refused})
