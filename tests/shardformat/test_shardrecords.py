"""Records of shards in one array are what they were made of, and small."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from vlmprep.shardformat.shardrecords import ShardRecord, ShardRecords

RECORDS = [
    ShardRecord(name=name, size=size, sha256=f"{size:064x}", num_packs=number)
    for number, (name, size) in enumerate([("shards/000000.tar", 0), ("ünï", 1 << 40), ("", 7)])
]


def test_every_record_comes_back() -> None:
    records = ShardRecords(RECORDS)
    assert len(records) == 3
    assert list(records) == RECORDS
    assert [records[0], records[1], records[-1]] == RECORDS
    assert records[1:] == tuple(RECORDS[1:])
    assert type(records[1].size) is int
    assert records.num_packs == 3
    with pytest.raises(IndexError):
        records[3]


def test_no_shards_are_records_too() -> None:
    assert list(ShardRecords([])) == []
    assert ShardRecords([]).num_packs == 0


def test_they_are_equal_where_all_of_them_are() -> None:
    assert ShardRecords(RECORDS) == ShardRecords(iter(RECORDS))
    first, *others = RECORDS
    for changed in (
        replace(first, name="x"),
        replace(first, size=1),
        replace(first, sha256="a"),
        replace(first, num_packs=1),
    ):
        assert ShardRecords(RECORDS) != ShardRecords([changed, *others])
    assert ShardRecords(RECORDS) != ShardRecords(RECORDS[:2])


def test_a_shard_takes_a_hundred_bytes_in_every_process() -> None:
    many = ShardRecords(replace(RECORDS[0], size=size) for size in range(1000))
    assert len(pickle.dumps(many)) < 100 * 1000 + 1000
    assert list(pickle.loads(pickle.dumps(many))) == list(many)
