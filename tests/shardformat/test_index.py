from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vlmprep.schema.packset import PACKS
from vlmprep.shardformat.errors import BrokenPackSet
from vlmprep.shardformat.index import map_index, read_index, write_index


def columns(num_packs: int) -> dict[str, np.ndarray]:
    return {
        name: (np.arange(num_packs) * (at + 1)).astype(PACKS.field(name).type.to_pandas_dtype())
        for at, name in enumerate(PACKS.names)
    }


@pytest.mark.parametrize("num_packs", [0, 1, 1000])
def test_every_column_comes_back(num_packs: int, tmp_path: Path) -> None:
    path = tmp_path / "packs.arrow"
    write_index(path, columns(num_packs))
    for index in (map_index(path), read_index(path.read_bytes(), "remote")):
        assert len(index) == num_packs
        for name, column in columns(num_packs).items():
            np.testing.assert_array_equal(getattr(index, name), column)
            assert getattr(index, name).dtype == column.dtype


def test_opening_copies_nothing(tmp_path: Path) -> None:
    path = tmp_path / "packs.arrow"
    write_index(path, columns(100_000))
    before = pa.total_allocated_bytes()
    index = map_index(path)
    assert pa.total_allocated_bytes() - before < 100_000
    assert not any(getattr(index, name).flags.owndata for name in PACKS.names)


def test_an_index_in_several_batches_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "packs.arrow"
    table = pa.table(columns(10), schema=PACKS)
    with pa.ipc.new_file(str(path), PACKS) as writer:
        writer.write_table(table, max_chunksize=3)
    np.testing.assert_array_equal(map_index(path).offset, columns(10)["offset"])


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "packs.arrow"
    with pytest.raises(BrokenPackSet, match="cannot be opened"):
        map_index(path)
    path.write_bytes(b"ARROW" * 100)
    with pytest.raises(BrokenPackSet, match="no Arrow file"):
        map_index(path)
    other = pa.schema([field.with_type(pa.int64()) for field in PACKS])
    with pa.ipc.new_file(str(path), other) as writer:
        writer.write_table(pa.table({name: [1] for name in PACKS.names}, schema=other))
    with pytest.raises(BrokenPackSet, match="has columns"):
        map_index(path)


def test_a_cut_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "packs.arrow"
    write_index(path, columns(100))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BrokenPackSet, match="no Arrow file"):
        map_index(path)
