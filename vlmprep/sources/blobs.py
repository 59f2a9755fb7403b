"""A row that is no JSON text: a record with binary values in it, handed on as it is; and the bytes that stand for it in a digest.

    MAGIC | length of the header, uint32 | header, JSON | blob | blob | ...

The header holds the row's record without its binary values, and where each of these belongs in it. A source of such rows that
cannot use one says why in the header instead, so that the row is refused where every other row is. Nobody joins these bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import xxhash

from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.wording import shown

__all__ = ["BlobRow", "Kind", "RowData", "blob_row", "refused_row", "row_digest"]

Kind: TypeAlias = Literal["record", "members"]
"""A record as JSON has it, with binary values in it; or the members of a tar that share a key, by the rest of their names."""
MAGIC = b"\0vlmprep row\0"
LENGTH = struct.Struct("<I")
SCALARS = (str, int, float)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
Place: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRow:
    """One row; its length is that of the bytes that stand for it."""

    kind: Kind
    key: str
    """What its source calls it; empty where rows have numbers alone."""
    record: dict[str, Any]
    """JSON's values, and bytes."""
    head: bytes
    """What stands before the first blob."""
    blobs: tuple[bytes, ...] = ()
    """The record's binary values, in order."""
    refused: tuple[str, str] | None = None
    """Code and reason, where its source cannot give it."""

    def __len__(self) -> int:
        return len(self.head) + sum(map(len, self.blobs))

    def values(self) -> dict[str, Any]:
        """The record.

        Raises:
            RefuseSample: Its source cannot give it.
        """
        if self.refused is not None:
            raise RefuseSample(*self.refused)
        return self.record


RowData: TypeAlias = bytes | BlobRow
"""A row as its file gives it: JSON text, or a record."""


def row_digest(data: RowData) -> int:
    """64-bit XXH3 of a row's bytes, by which it is known again."""
    if isinstance(data, bytes):
        return xxhash.xxh3_64_intdigest(data)
    digest = xxhash.xxh3_64(data.head)
    for blob in data.blobs:
        digest.update(blob)
    return digest.intdigest()


def blob_row(kind: Kind, key: str, record: Mapping[str, Any]) -> BlobRow:
    """Make a row.

    Args:
        kind: What the record is.
        key: What its source calls it; empty where rows have numbers alone.
        record: Its values: JSON's, binary ones, dates and decimals, which become text. Inside of columns, nulls are left out:
            columnar files hold one for every name that another row has.

    Raises:
        TypeError: A value is of another type.
    """
    blobs: list[tuple[Place, bytes]] = []
    plain = {name: _plain(value, (name,), blobs) for name, value in record.items()}
    header = {"kind": kind, "key": key, "record": plain, "blobs": [[place, len(blob)] for place, blob in blobs]}
    head = _head(_ENCODER.encode(header))
    _place_blobs(plain, blobs)
    return BlobRow(kind=kind, key=key, record=plain, head=head, blobs=tuple(blob for _, blob in blobs))


def refused_row(code: str, reason: str) -> BlobRow:
    """A row that its source cannot give."""
    return BlobRow(
        kind="record", key="", record={}, head=_head(json.dumps({"refused": [code, reason]})), refused=(code, reason)
    )


def _head(header: str) -> bytes:
    text = header.encode()
    return b"".join((MAGIC, LENGTH.pack(len(text)), text))


def _place_blobs(record: Any, blobs: Sequence[tuple[Place, bytes]]) -> None:
    """Put binary values where they belong."""
    for place, blob in blobs:
        holder = record
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = blob


def _plain(value: Any, place: Place, blobs: list[tuple[Place, bytes]]) -> Any:
    """A value as JSON has it; binary ones leave a null behind, which keeps their place."""
    if value is None or isinstance(value, SCALARS):
        return value
    if isinstance(value, (bytes, bytearray)):
        blobs.append((place, bytes(value)))
        return None
    if isinstance(value, dict):
        return {
            name: inner if isinstance(inner, SCALARS) else _plain(inner, (*place, name), blobs)
            for name, inner in value.items()
            if inner is not None
        }
    if isinstance(value, (list, tuple)):
        return [
            inner if isinstance(inner, SCALARS) else _plain(inner, (*place, at), blobs)
            for at, inner in enumerate(value)
        ]
    if isinstance(value, (date, datetime, time, timedelta, Decimal)):
        return str(value)
    raise TypeError(f"{'.'.join(map(str, place))} is {shown(value)}, of a type that JSON does not have")
