"""Columns of a row that are kept as provenance: one JSON object, as text, from the row to the ledger and samples.parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from vlmprep.schema.errors import RefuseSample

__all__ = ["kept_text"]


def kept_text(record: Mapping[str, Any], keep: Sequence[str]) -> str | None:
    """Some columns of a row as a JSON object, in the order in which they were asked for; None where it has none of them.

    Binary values are told by size and digest: {"num_bytes": 1024, "xxh3": "..."}.

    Args:
        record: The row.
        keep: Names of the columns.

    Raises:
        RefuseSample: One is nested too deeply to be written.
    """
    kept = {name: record[name] for name in keep if name in record}
    if not kept:
        return None
    try:
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":"), default=_told)
    except RecursionError:
        raise RefuseSample("not-json", f"one of the columns {', '.join(kept)} is nested too deeply") from None


def _told(value: Any) -> dict[str, Any]:
    assert isinstance(value, bytes), "rows hold JSON's values and bytes"
    return {"num_bytes": len(value), "xxh3": xxhash.xxh3_64_hexdigest(value)}
