"""One rank's rows of a file: which they are, and their bytes; other ranks' rows are passed over unparsed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import floor, inf

from vlmprep.schema.errors import StopRun
from vlmprep.sources.blobs import RowData
from vlmprep.sources.remote import local_copy
from vlmprep.sources.row_files import ENDINGS, Place, RowFile, open_rows
from vlmprep.sources.rows import RawRow, every_row

__all__ = ["drawn_order", "rows_of_rank"]

SEED = 42
"""The reference's own seed for `sample_ratio`."""
TEXT = (".jsonl", ".json")


def rows_of_rank(
    path: str, sample_ratio: float = 1.0, rank: int | None = None, world_size: int | None = None
) -> tuple[Iterator[RawRow[RowData]], int, int]:
    """Find one rank's rows of a file.

    Args:
        path: Of any kind that has rows.
        sample_ratio: How often rows are used: below 1 a seeded sample of all rows, in the order in which it is drawn;
            above 1 all of them several times, and of the rest a sample.
        rank: Which of the ranks.
        world_size: How many there are; None: all rows, whatever the rank.

    Returns:
        The rows, `drawn[rank::world_size]`; how many they are; how many rows the file has.

    Raises:
        ValueError: There is no such rank, or no such ratio.
        StopRun: The file cannot be read.
    """
    first, step = (0, 1) if world_size is None else (rank, world_size)
    if first is None or not 0 <= first < step:
        raise ValueError(f"rank must be one of 0..{step - 1}, got {first}")
    if not 0 <= sample_ratio < inf:
        raise ValueError(f"sample_ratio must be a number of at least 0, got {sample_ratio}")
    try:
        if path.endswith(TEXT) and sample_ratio == 1.0:
            rows, total = _every(path, first, step)
            return iter(rows), len(rows), total
        file = open_rows(path)
        places = list(file.places())
    except OSError as error:
        raise StopRun(f"{path} cannot be read: {error.strerror or error}", "Correct its name.") from error
    mine = drawn_order(len(places), sample_ratio)[first::step]
    return (_read(file, places[at]) for at in mine), len(mine), len(places)


def drawn_order(num_rows: int, sample_ratio: float) -> Sequence[int]:
    """Which rows are used, in order, one entry per use: a draw by `random.Random(42).sample`."""
    if sample_ratio == 1.0:
        return range(num_rows)
    whole = int(sample_ratio)
    more = floor(num_rows * (sample_ratio - whole))
    if 0 < sample_ratio < 1 and num_rows:
        more = max(1, more)
    drawn = random.Random(SEED).sample(range(num_rows), more) if more else []
    return [*range(num_rows)] * whole + drawn


def _every(path: str, first: int, step: int) -> tuple[list[RawRow[bytes]], int]:
    """Every `step`-th row, from one pass over the file."""
    found: list[RawRow[bytes]] = []
    total = 0
    for raw in every_row(local_copy(path, ENDINGS)):
        if total % step == first:
            found.append(raw)
        total += 1
    return found, total


def _read(file: RowFile, place: Place) -> RawRow[RowData]:
    return RawRow(row=place.row, offset=place.offset, data=file.read(place.offset, place.size))
