"""A row that is no JSON text as one run of bytes: what its digest covers and what a worker is handed.

    MAGIC | length of the header, uint32 | header, JSON | blob | blob | ...

The header holds the row's record without its binary values, and where each of these belongs in it. A source of such rows that
cannot use one says why in the header instead, so that the row is refused where every other row is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.wording import shown

__all__ = ["Kind", "is_blob_row", "join_row", "refused_row", "split_row"]

Kind: TypeAlias = Literal["record", "members"]
"""A record as JSON has it, with binary values in it; or the members of a tar that share a key, by the rest of their names."""
MAGIC = b"\0vlmprep row\0"
LENGTH = struct.Struct("<I")
SCALARS = (str, int, float)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
Place: TypeAlias = tuple[str | int, ...]


def is_blob_row(data: bytes) -> bool:
    """Whether a row's bytes are of this form; no JSON text begins so."""
    return data.startswith(MAGIC)


def join_row(kind: Kind, key: str, record: Mapping[str, Any]) -> bytes:
    """Spell a row.

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
    header = {"kind": kind, "key": key, "record": plain, "blobs": [[list(place), len(blob)] for place, blob in blobs]}
    text = _ENCODER.encode(header).encode()
    return b"".join((MAGIC, LENGTH.pack(len(text)), text, *(blob for _, blob in blobs)))


def refused_row(code: str, reason: str) -> bytes:
    """A row that its source cannot give, as `split_row` raises it."""
    text = json.dumps({"refused": [code, reason]}).encode()
    return b"".join((MAGIC, LENGTH.pack(len(text)), text))


def split_row(data: bytes) -> tuple[Kind, str, dict[str, Any]]:
    """A row as `join_row` spelled it: kind, key and record.

    Raises:
        RefuseSample: Its source could not give it, or the bytes are no such row.
    """
    try:
        start = len(MAGIC) + LENGTH.size
        (length,) = LENGTH.unpack_from(data, len(MAGIC))
        header = json.loads(data[start : start + length])
        if "refused" in header:
            raise RefuseSample(*header["refused"])
        record = header["record"]
        end = _place_blobs(record, header["blobs"], data, start + length)
    except (ValueError, LookupError, TypeError, AttributeError, struct.error, RecursionError):
        raise RefuseSample("not-json", "the row begins with a NUL byte and is no JSON") from None
    if end != len(data) or not isinstance(record, dict):
        raise RefuseSample("not-json", "the row begins with a NUL byte and is no JSON")
    return header["kind"], header["key"], record


def _place_blobs(record: Any, places: Sequence[tuple[list[str | int], int]], data: bytes, start: int) -> int:
    """Put binary values where they belong; returns where the last one ends."""
    for place, size in places:
        holder = record
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = data[start : start + size]
        start += size
    return start


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
