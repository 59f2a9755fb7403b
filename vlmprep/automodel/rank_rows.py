"""One rank's rows of a file: which they are, and their bytes; other ranks' rows are passed over unparsed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import floor

from vlmprep.schema.errors import StopRun
from vlmprep.sources.row_files import open_rows
from vlmprep.sources.rows import RawRow, every_row

__all__ = ["drawn_order", "rows_of_rank"]

SEED = 42
"""The reference's own seed for `sample_ratio`."""
TEXT = (".jsonl", ".json")


def rows_of_rank(
    path: str, sample_ratio: float = 1.0, rank: int | None = None, world_size: int | None = None
) -> tuple[Iterator[RawRow], int, int]:
    """Find one rank's rows of a file.

    Args:
        path: Of any kind that has rows.
        sample_ratio: How often rows are used: below 1 a seeded sample of all rows, in the order in which it is drawn;
            above 1 all of them several times, and of the rest a sample.
        rank: Which of the ranks.
        world_size: How many there are; None or 1: all rows.

    Returns:
        The rows, `drawn[rank::world_size]`; how many they are; how many rows the file has.

    Raises:
        StopRun: The file cannot be read.
    """
    first, step = (rank or 0, world_size) if world_size is not None and world_size > 1 else (0, 1)
    if path.endswith(TEXT) and sample_ratio == 1.0:
        rows, total = _every(path, first, step)
        return iter(rows), len(rows), total
    places = _places(path)
    mine = drawn_order(len(places), sample_ratio)[first::step]
    return _read(path, places, mine), len(mine), len(places)


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


def _every(path: str, first: int, step: int) -> tuple[list[RawRow], int]:
    """Every `step`-th row, from one pass over the file."""
    found: list[RawRow] = []
    total = 0
    for raw in _rows(path):
        if total % step == first:
            found.append(raw)
        total += 1
    return found, total


def _places(path: str) -> list[tuple[int, int, int]]:
    """Number, offset and size of every row."""
    return [(raw.row, raw.offset, len(raw.data)) for raw in _rows(path)]


def _rows(path: str) -> Iterator[RawRow]:
    """All rows of a file, one in memory at a time."""
    try:
        if path.endswith(TEXT):
            yield from every_row(path)
        else:
            file = open_rows(path)
            yield from (raw for chunk in file.chunks() for raw in file.rows(chunk))
    except OSError as error:
        raise StopRun(f"{path} cannot be read: {error.strerror or error}", "Correct its name.") from error


def _read(path: str, places: Sequence[tuple[int, int, int]], wanted: Sequence[int]) -> Iterator[RawRow]:
    file = open_rows(path)
    for place in wanted:
        row, offset, size = places[place]
        yield RawRow(row=row, offset=offset, data=file.read(offset, size))
