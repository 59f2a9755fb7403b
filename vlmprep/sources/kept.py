"""Whether columns that are to be kept exist: told before anything is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.row_files import open_rows
from vlmprep.sources.spec import SourceSpec
from vlmprep.sources.wording import names

__all__ = ["check_kept"]


def check_kept(specs: Iterable[SourceSpec], keep: Sequence[str]) -> None:
    """Find a row for every column that is to be kept; no more rows are read than it takes.

    Args:
        specs: The sources.
        keep: Names of columns.

    Raises:
        StopRun: No row has one of them.
    """
    missing = set(keep)
    seen: dict[str, None] = {}
    for record in _records(specs) if keep else ():
        seen.update(dict.fromkeys(record))
        missing.difference_update(record)
        if not missing:
            return
    if missing:
        raise StopRun(
            f"no row has a column {names(name for name in keep if name in missing)} to keep; rows have {names(seen)}",
            "Correct the name behind --keep, or leave it out.",
        )


def _records(specs: Iterable[SourceSpec]) -> Iterator[dict[str, Any]]:
    """Rows of all sources, as far as they can be read."""
    for spec in specs:
        file, reader = open_rows(spec.path), RowReader(spec=spec)
        for chunk in file.chunks():
            for raw in file.rows(chunk):
                try:
                    yield reader.values(raw.row, raw.data)
                except RefuseSample:
                    continue
