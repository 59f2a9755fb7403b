"""Shards: plain tar, published with what readers need beside them, or not at all."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.schema.test_files import no_file_above
from vlmprep.schema.errors import StopRun
from vlmprep.shards.receipts import PackRecord, Receipt, Refusal, read_receipt, write_receipt
from vlmprep.shards.writer import ShardWriter

MEMBERS = [("json", b"{}"), ("input_ids.npy", bytes(range(256)) * 300)]


def write(path: Path) -> ShardWriter:
    with ShardWriter(path) as writer:
        for pack_id in range(3):
            writer.add_pack(pack_id, MEMBERS)
    return writer


def test_a_shard_is_a_plain_tar_with_the_digest_that_was_counted(tmp_path: Path) -> None:
    path = tmp_path / "shards" / "000000.tar"
    writer = write(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == writer.sha256
    assert path.stat().st_size == writer.size
    with tarfile.open(path) as tar:
        assert tar.getnames() == [f"{pack_id:09d}.{suffix}" for pack_id in range(3) for suffix, _ in MEMBERS]
        offsets = [member.offset for member in tar if member.name.endswith(".json")]
    index = np.frombuffer(Path(f"{path}.idx").read_bytes(), np.uint64)
    assert index.tolist() == [*offsets, writer.size - 1024]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["000000.tar", "000000.tar.idx"]


def test_a_shard_that_is_read_back_otherwise_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = os.fsync

    def flip_a_bit(file: int) -> None:
        synced(file)
        os.pwrite(file, b"\x01", 5_000)

    monkeypatch.setattr(os, "fsync", flip_a_bit)
    with pytest.raises(StopRun, match=r"000000\.tar: what is read back has XXH3"):
        write(tmp_path / "000000.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_the_shard_and_leaves_nothing(tmp_path: Path) -> None:
    with no_file_above(100_000), pytest.raises(StopRun, match=r"shards/000000\.tar cannot be written: File too large"):
        write(tmp_path / "shards" / "000000.tar")
    assert list((tmp_path / "shards").iterdir()) == []


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError), ShardWriter(tmp_path / "000000.tar") as writer:
        writer.add_pack(0, [*MEMBERS, ("none", None)])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def committed(tmp_path: Path) -> Receipt:
    """A shard with its receipt."""
    writer = write(tmp_path / "shards" / "000000.tar")
    record = PackRecord(
        offset=0,
        size=3,
        xxh3=1,
        num_tokens=2,
        num_visual_tokens=0,
        num_label_tokens=1,
        num_samples=1,
        num_images=0,
        num_videos=0,
        cost=0.1,
    )
    receipt = Receipt(
        shard=0,
        first_pack=0,
        size=writer.size,
        sha256=writer.sha256,
        job="job",
        packs=(record,) * 3,
        refused=(Refusal(sample=4, code="missing-media", reason="a.png does not exist"),),
    )
    write_receipt(tmp_path, receipt)
    return receipt


def test_a_receipt_comes_back_as_it_was_written(tmp_path: Path, committed: Receipt) -> None:
    assert read_receipt(tmp_path, 0, "job") == committed
    assert read_receipt(tmp_path, 0, "another") is None
    assert read_receipt(tmp_path, 1, "job") is None


@pytest.mark.parametrize("name", ["shards/000000.tar", "shards/000000.tar.idx", "receipts/000000.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.usefixtures("committed")
def test_a_shard_with_anything_missing_or_cut_is_written_again(tmp_path: Path, name: str, damage: str) -> None:
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    assert read_receipt(tmp_path, 0, "job") is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"\xff", b'{"job": "job"}', b'{"packs": [{}], "refused": []}']
)
@pytest.mark.usefixtures("committed")
def test_a_receipt_that_is_none_does_not_count(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "receipts" / "000000.json").write_bytes(content)
    assert read_receipt(tmp_path, 0, "job") is None


@pytest.mark.usefixtures("committed")
def test_another_shards_receipt_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "receipts" / "000000.json").rename(tmp_path / "receipts" / "000001.json")
    write(tmp_path / "shards" / "000001.tar")
    assert read_receipt(tmp_path, 1, "job") is None
