"""Numbered items to a source with its media: the same numbers, the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.mutations import mutant
from tests.fuzz.rows import ROW_METHODS, broken_line
from tests.fuzz.seeds import SEEDS, seed_bytes
from vlmprep.schema.conversation import MediaKind

__all__ = ["WHOLE", "Item", "write_source"]

WHOLE = "whole"
"""Every so many items one is as it should be, and has to be packed whatever stands beside it."""
WHOLE_EVERY = 8
COLUMNS: dict[MediaKind, str] = {"image": "images", "video": "videos", "audio": "audios"}
BROKEN_ROWS = 0.3
"""Share of the items whose row is broken, and not a medium."""
WEIGHTS: dict[MediaKind, int] = {"image": 8, "video": 2, "audio": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row of the source."""

    number: int
    kind: str
    """image, video, audio, or row."""
    how: str
    """What was done."""
    seed: str
    """To which file."""
    line: bytes
    """The row."""
    row: dict[str, Any] | None
    """What is in it; None where the row itself is broken."""


def write_source(
    folder: Path, numbers: Sequence[int], seed: int, kinds: frozenset[str], *, inside: bool = False
) -> list[Item]:
    """Write some items: their rows, and their media.

    Args:
        folder: Gets `rows.jsonl`, or `rows.parquet`, and media.
        numbers: Of the items; each is the same in whatever company.
        seed: Of all items.
        kinds: Media that the family takes.
        inside: The rows are Parquet, which holds the media; no row is broken then, because Parquet's rows have types.

    Returns:
        The items in the order of their rows.
    """
    folder.mkdir(parents=True)
    broken = 0.0 if inside else BROKEN_ROWS
    items = [_item(folder, number, Random(f"{seed} {number}"), kinds, broken) for number in numbers]
    if inside:
        rows = [_with_media_inside(item.row, folder) for item in items if item.row is not None]
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    else:
        (folder / "rows.jsonl").write_bytes(b"".join(item.line + b"\n" for item in items))
    return items


def _with_media_inside(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    media = {
        column: [{"bytes": (folder / name).read_bytes()} for name in row.get(column, ())] for column in COLUMNS.values()
    }
    return {**row, **media}


def _item(folder: Path, number: int, rng: Random, kinds: frozenset[str], broken_rows: float) -> Item:
    known = [kind for kind in WEIGHTS if kind in kinds]
    kind = rng.choices(known, [WEIGHTS[kind] for kind in known])[0]
    if number % WHOLE_EVERY == 0:
        name = {"image": "png", "video": "mp4", "audio": "wav"}[kind]
        row = _row(folder, number, kind, seed_bytes(kind, name), ".bin")
        return Item(number=number, kind=kind, how=WHOLE, seed=name, line=json.dumps(row).encode(), row=row)
    if rng.random() < broken_rows:
        name = rng.choice(list(SEEDS[kind]))
        row = _row(folder, number, kind, seed_bytes(kind, name), ".bin")
        how = rng.choice(ROW_METHODS)
        return Item(number=number, kind="row", how=how, seed=name, line=broken_line(row, how, rng), row=None)
    made = mutant(kind, rng)
    row = _row(folder, number, kind, made.data, made.suffix)
    return Item(number=number, kind=kind, how=made.how, seed=made.seed, line=json.dumps(row).encode(), row=row)


def _row(folder: Path, number: int, kind: MediaKind, data: bytes, suffix: str) -> dict[str, Any]:
    """A conversation about one medium that says its number."""
    name = f"{number}{suffix}"
    (folder / name).write_bytes(data)
    return {
        "id": f"item-{number}",
        "messages": [
            {"role": "user", "content": f"<{kind}>What is it? ({number})"},
            {"role": "assistant", "content": f"It is number {number}, no other."},
        ],
        COLUMNS[kind]: [name],
    }
