from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

import vlmprep
from tests.packsets import WrittenPack, text_pack, write_pack_set
from vlmprep.runtime import PackSet, store
from vlmprep.shardformat.errors import BrokenPack, BrokenPackSet, IncompletePackSet, NewerFormat
from vlmprep.shardformat.members import COMPRESSIONS


def image_pack(pack_id: int) -> WrittenPack:
    text = text_pack(pack_id, (9, 4))
    rng = np.random.default_rng(pack_id)
    media = {
        "pixel_values": rng.integers(0, 256, (8, 3, 14, 14), dtype=np.uint8),
        "image_grid_thw": np.array([[1, 2, 4]]),
    }
    return WrittenPack(fields={**text.fields, **media}, document_lengths=(9, 4), images=[(480, 640)])


def make(count: int) -> list[WrittenPack]:
    return [image_pack(k) if k % 2 else text_pack(k) for k in range(count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pack_set(tmp_path / "set", make(8), compression="zstd")


def assert_same(pack: dict[str, torch.Tensor], written: WrittenPack) -> None:
    assert list(pack) == list(written.fields)
    for name, array in written.fields.items():
        wanted = array.astype(np.int32) if array.dtype == np.uint16 else array
        assert pack[name].numpy().dtype == wanted.dtype
        np.testing.assert_array_equal(pack[name].numpy(), wanted)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_packs_are_read_as_an_outsider_wrote_them(compression: str, tmp_path: Path) -> None:
    written = make(8)
    packs = vlmprep.open(write_pack_set(tmp_path / "set", written, compression=compression))
    assert len(packs) == 8
    for pack_id, content in enumerate(written):
        assert_same(packs[pack_id], content)
    assert [medium.shape for medium in packs.info(3).media] == [(480, 640)]
    assert [sample.sample_id for sample in packs.info(3).samples] == ["3-0", "3-1"]
    assert packs.index.num_tokens.tolist() == [len(pack.fields["input_ids"]) for pack in written]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_packs_may_be_changed_in_place(compression: str, tmp_path: Path) -> None:
    packs = vlmprep.open(write_pack_set(tmp_path / "set", make(2), compression=compression))
    first = packs[1]
    for tensor in first.values():
        tensor.zero_()
    assert_same(packs[1], make(2)[1])


def test_packs_beyond_the_last_do_not_exist(root: Path) -> None:
    packs = vlmprep.open(root)
    assert [int(packs[k]["input_ids"][0]) for k in range(len(packs))] == list(range(8))
    for outside in (-1, 8):
        with pytest.raises(IndexError):
            packs[outside]


def test_folders_without_a_manifest_say_how_to_finish(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IncompletePackSet, match=r"(?s)not complete.*vlmprep pack"):
            vlmprep.open(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    root = write_pack_set(tmp_path / "set", make(2), changes={"format_version": 99})
    with pytest.raises(NewerFormat, match="format version 99"):
        vlmprep.open(root)


@pytest.mark.parametrize("name", ["packs.arrow", "samples.parquet", "shards/000001.tar"])
def test_cut_and_missing_files_are_noticed_on_opening(root: Path, name: str) -> None:
    with open(root / name, "r+b") as file:
        file.truncate(100)
    with pytest.raises(BrokenPackSet, match=f"{name} has 100 bytes, manifest.json says"):
        vlmprep.open(root)
    (root / name).unlink()
    with pytest.raises(BrokenPackSet, match=f"{name} is missing"):
        vlmprep.open(root)


def test_an_index_of_another_length_is_noticed_even_unverified(root: Path, tmp_path: Path) -> None:
    other = write_pack_set(tmp_path / "other", make(5))
    shutil.copy(other / "packs.arrow", root / "packs.arrow")
    with pytest.raises(BrokenPackSet, match="lists 5 packs"):
        vlmprep.open(root, verify=False)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_every_flipped_byte_of_a_pack_is_noticed_with_its_name(tmp_path: Path) -> None:
    root = write_pack_set(tmp_path / "set", [text_pack(k) for k in range(4)], packs_per_shard=2)
    packs = vlmprep.open(root)
    offset, size = int(packs.index.offset[3]), int(packs.index.size[3])
    shard = root / "shards" / "000001.tar"
    for at in range(offset, offset + size, 37):
        flip(shard, at)
        with pytest.raises(BrokenPack, match=r"shards/000001.tar, pack 000000003: .*digest"):
            packs[3]
        with pytest.raises(BrokenPack, match="pack 000000003"):
            packs.info(3)
        assert packs[2]["input_ids"][0] == 2
        flip(shard, at)
    assert packs[3]["input_ids"][0] == 3


def test_swapped_shards_are_noticed(tmp_path: Path) -> None:
    root = write_pack_set(tmp_path / "set", [text_pack(k) for k in range(4)], packs_per_shard=2)
    first, second = (root / "shards" / f"00000{n}.tar" for n in range(2))
    assert first.stat().st_size == second.stat().st_size
    content = first.read_bytes()
    shutil.copy(second, first)
    second.write_bytes(content)
    for verify, problem in ((True, "digest"), (False, "does not belong to pack")):
        with pytest.raises(BrokenPack, match=f"shards/000000.tar, pack 000000001: .*{problem}"):
            vlmprep.open(root, verify=verify)[1]


@pytest.mark.parametrize(
    ("column", "value"), [("shard", 7), ("offset", -512), ("offset", 10**9), ("size", -1), ("size", 512)]
)
def test_an_edited_index_is_noticed(root: Path, column: str, value: int) -> None:
    with pa.memory_map(str(root / "packs.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    edited = table[column].to_pylist()
    edited[2] = value
    place = table.schema.get_field_index(column)
    table = table.set_column(place, table.schema.field(place), pa.array(edited, table.schema.field(place).type))
    with pa.OSFile(str(root / "edited"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    (root / "edited").replace(root / "packs.arrow")
    packs = vlmprep.open(root, verify=False)
    with pytest.raises(BrokenPack, match="pack 000000002"):
        packs[2]
    assert packs[3]["input_ids"][0] == 3


def test_a_shard_that_vanishes_or_shrinks_later_is_named(root: Path) -> None:
    packs = vlmprep.open(root)
    with open(root / "shards" / "000002.tar", "r+b") as file:
        file.truncate(600)
    with pytest.raises(BrokenPack, match=r"pack 000000007: the shard ends after"):
        packs[7]
    (root / "shards" / "000000.tar").unlink()
    with pytest.raises(BrokenPack, match=r"000000.tar, pack 000000001: the shard is missing"):
        packs[1]


def test_pickling_takes_a_few_bytes_and_opens_again(root: Path) -> None:
    packs = vlmprep.open(root)
    data = pickle.dumps(packs)
    assert len(data) < 5000
    again = pickle.loads(data)
    for pack_id, content in enumerate(make(8)):
        assert_same(again[pack_id], content)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_read_the_same(root: Path, start: str) -> None:
    packs = vlmprep.open(root)
    packs[0]  # a descriptor that a forked worker inherits
    workers = DataLoader(packs, batch_size=None, num_workers=2, multiprocessing_context=start, collate_fn=as_it_is)
    for pack_id, pack in enumerate(workers):
        assert_same(pack, make(8)[pack_id])


def as_it_is(pack: Any) -> Any:
    return pack


def test_errors_in_workers_keep_their_type_and_name(root: Path) -> None:
    packs = vlmprep.open(root)
    flip(root / "shards" / "000000.tar", int(packs.index.offset[1]) + 600)
    with pytest.raises(BrokenPack, match="pack 000000001"):
        list(DataLoader(packs, batch_size=None, num_workers=1, collate_fn=as_it_is))


def test_short_reads_are_continued(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: whole(file, [buffers[0][:1000]], offset))
    packs = vlmprep.open(root)
    for pack_id, content in enumerate(make(8)):
        assert_same(packs[pack_id], content)


def test_few_files_are_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MAX_OPEN_FILES", 2)
    packs = vlmprep.open(write_pack_set(tmp_path / "set", [text_pack(k) for k in range(9)], packs_per_shard=1))
    gc.collect()  # what earlier tests left must not close in between
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [int(packs[k]["input_ids"][0]) for k in range(len(packs))] == list(range(9))
    assert len(os.listdir("/proc/self/fd")) - before == 2
    del packs
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_url_is_read_like_a_folder(root: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(f"{root}/", "/bucket/set", recursive=True)
    packs = vlmprep.open("memory://bucket/set", cache_bytes=0)
    assert isinstance(packs, PackSet)
    for pack_id, content in enumerate(make(8)):
        assert_same(packs[pack_id], content)
    packs[1]["input_ids"].zero_()
    assert_same(pickle.loads(pickle.dumps(packs))[1], make(8)[1])
    remote.pipe_file("/bucket/set/shards/000000.tar", b"short")
    with pytest.raises(BrokenPackSet, match=r"memory://bucket/set/shards/000000.tar has 5 bytes"):
        vlmprep.open("memory://bucket/set")
    with pytest.raises(BrokenPack, match=r"memory://bucket/set/shards/000000.tar, pack 000000001: the shard ends"):
        packs[1]
    with pytest.raises(IncompletePackSet):
        vlmprep.open("memory://bucket/nothing")


def test_file_urls_and_relative_paths_are_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    for path in (f"file://{root}", "set", root):
        assert len(vlmprep.open(path)) == 8


def test_the_digest_of_the_manifest_is_what_the_format_says(root: Path) -> None:
    import hashlib

    value = json.loads((root / "manifest.json").read_text())
    said = value.pop("digest")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert vlmprep.open(root).manifest.digest == said == hashlib.sha256(text.encode()).hexdigest()
