"""Images in LMDB: counted and packed as from files, reached no further than files, and nothing is written or guessed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import pytest
import torch
from torch.utils.data import DataLoader

import vlmprep
from tests.automodel.lazy import qwen
from tests.conftest import ProcessorDir
from tests.runs import chat, count, picture, run, write_jsonl
from tests.sources.pictures import HEIGHT, WIDTH, jpeg, png
from vlmprep.automodel.collate_fns import qwen2_5_collate_fn
from vlmprep.automodel.datasets import make_meta_dataset
from vlmprep.automodel.neat_packing_vlm import neat_pack_dataset_vlm
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.mediafiles import lmdb_values
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.media import MediaReader
from vlmprep.sources.mentions import MediaMentions

PACK_SIZE = 512


def database(path: Path, values: Mapping[str, bytes], *, subdir: bool = True) -> Path:
    """Write an LMDB, or values into it."""
    with lmdb.open(str(path), map_size=64 << 20, subdir=subdir) as environment, environment.begin(write=True) as writes:
        for key, value in values.items():
            writes.put(key.encode(), value)
    return path


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A media folder with a database in it, and another one beside it."""
    (tmp_path / "media").mkdir()
    database(tmp_path / "media/a.lmdb", {"1": png(), "sub/../x//y": jpeg(), "http://host/z": png(), "bad": b"text"})
    database(tmp_path / "outside.lmdb", {"1": png()})
    return tmp_path / "media"


def mention(folder: Path, location: str, **allowed: bool) -> Media:
    return MediaMentions(media_dir=str(folder), **allowed).medium("image", location)


def code(folder: Path, location: str, **allowed: bool) -> str:
    with pytest.raises(RefuseSample) as caught:
        MediaReader().image_size(mention(folder, location, **allowed), "torchvision")
    return caught.value.code


def read(folder: Path, location: str) -> bytes:
    medium = mention(folder, location)
    assert medium.location is not None
    assert medium.key is not None
    with lmdb_values.open_value(medium.location, medium.key) as file:
        return file.read()


@pytest.mark.parametrize(
    ("key", "content"), [("1", png()), ("sub/../x//y", jpeg()), ("http://host/z", png())], ids=["plain", "path", "url"]
)
def test_a_value_is_the_image_that_its_bytes_are(key, content, held):
    assert read(held, f"a.lmdb::{key}") == content
    assert read(held, f"file://{held}/a.lmdb::{key}") == content
    size = MediaReader().image_size(mention(held, f"a.lmdb::{key}"), "torchvision")
    assert (size.height, size.width, size.num_bytes) == (HEIGHT, WIDTH, len(content))


def test_a_header_is_read_and_not_the_image_behind_it(held, monkeypatch):
    num_read = [0]
    whole = lmdb_values.StoredValue.readinto

    def counted(self: lmdb_values.StoredValue, buffer: bytearray, /) -> int:
        found = whole(self, buffer)
        num_read[0] += found
        return found

    large = png() + bytes(1 << 20)
    database(held / "a.lmdb", {"large": large})
    monkeypatch.setattr(lmdb_values.StoredValue, "readinto", counted)
    monkeypatch.delattr(lmdb_values.StoredValue, "readall")
    assert MediaReader().image_size(mention(held, "a.lmdb::large"), "torchvision").num_bytes == len(large)
    assert 0 < num_read[0] < 50_000


def test_a_database_may_be_one_file_and_a_file_may_have_colons(held):
    database(held / "one.mdb", {"k": png()}, subdir=False)
    assert read(held, "one.mdb::k") == png()
    (held / "a.lmdb::1").write_bytes(jpeg())
    assert mention(held, "a.lmdb::1").key is None
    assert MediaReader().image_size(mention(held, "a.lmdb::1"), "torchvision").num_bytes == len(jpeg())


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("../outside.lmdb::1", "outside-media"),
        ("a.lmdb/../../outside.lmdb::1", "outside-media"),
        ("folder-out::1", "outside-media"),
        ("data-out::1", "outside-media"),
        ("/etc::passwd", "outside-media"),
        ("a.lmdb::", "bad-media-path"),
        ("::1", "bad-media-path"),
        ("\0::1", "bad-media-path"),
        ("a.lmdb::2", "missing-media"),
        ("a.lmdb::\0", "missing-media"),
        ("a.lmdb::1::1", "missing-media"),
        ("a.lmdb::" + "x" * 100_000, "missing-media"),
        ("none.lmdb::1", "missing-media"),
        ("empty::1", "missing-media"),
        ("a.lmdb::bad", "not-an-image"),
        ("hollow::1", "unreadable-media"),
        ("text::1", "unreadable-media"),
        ("short::1", "unreadable-media"),
        ("pipe::1", "unreadable-media"),
        ("loop::1", "unreadable-media"),
        ("http://host/a.lmdb::1", "remote-media"),
        ("s3://bucket/a.lmdb::1", "outside-media"),
    ],
)
def test_what_cannot_be_used_is_refused(location, expected, held):
    outside = held.parent / "outside.lmdb"
    (held / "folder-out").symlink_to(outside)
    for name in ("data-out", "empty", "hollow", "text", "short", "pipe"):
        (held / name).mkdir()
    (held / "data-out/data.mdb").symlink_to(outside / "data.mdb")
    (held / "hollow/data.mdb").touch()
    (held / "text/data.mdb").write_bytes(b"text" * 10_000)
    shutil.copy(held / "a.lmdb/data.mdb", held / "short/data.mdb")
    os.truncate(held / "short/data.mdb", 3 * 4_096)
    os.mkfifo(held / "pipe/data.mdb")
    (held / "loop").symlink_to("loop")
    assert code(held, location) == expected


def test_an_empty_value_and_an_empty_database_are_refused(held):
    database(held / "e.lmdb", {"empty": b""})
    database(held / "none-in-it.lmdb", {})
    assert code(held, "e.lmdb::empty") == "empty-media"
    assert code(held, "none-in-it.lmdb::1") == "missing-media"


def test_a_database_outside_is_reached_where_that_is_allowed(held):
    assert mention(held, "../outside.lmdb::1", allow_outside_media=True).location == str(held.parent / "outside.lmdb")


def test_without_the_package_the_refusal_says_what_to_install(held, monkeypatch):
    database(held / "fresh.lmdb", {"1": png()})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(RefuseSample, match=r"pip install 'vlmprep\[lmdb\]'") as caught:
        MediaReader().image_size(mention(held, "fresh.lmdb::1"), "torchvision")
    assert caught.value.code == "unread-format"


def test_the_state_of_an_image_is_that_of_its_database(held):
    reader = MediaReader()
    first, other = (reader.state(mention(held, f"a.lmdb::{key}")) for key in ("1", "bad"))
    assert 0 != first != other
    assert reader.state(mention(held, "a.lmdb::1")) == first
    database(held / "a.lmdb", {"new": png()})
    assert reader.state(mention(held, "a.lmdb::1")) != first
    assert read(held, "a.lmdb::new") == png()
    shutil.rmtree(held / "a.lmdb")
    assert reader.state(mention(held, "a.lmdb::1")) == 0


def test_a_database_that_is_replaced_is_read_anew_but_never_under_a_reader(held):
    assert read(held, "a.lmdb::1") == png()
    shutil.rmtree(held / "a.lmdb")
    database(held / "a.lmdb", {"1": jpeg()})
    file = lmdb_values.open_value(str(held / "a.lmdb"), "1")
    os.utime(held / "a.lmdb/data.mdb")
    with file, pytest.raises(OSError, match="changed while it was read"):
        lmdb_values.open_value(str(held / "a.lmdb"), "1")
    assert read(held, "a.lmdb::1") == jpeg()
    os.replace(held.parent / "outside.lmdb/data.mdb", held / "a.lmdb/data.mdb")
    assert read(held, "a.lmdb::1") == png()


def test_nothing_is_written_and_nothing_is_locked(held):
    (held / "a.lmdb/lock.mdb").unlink()
    (held / "a.lmdb").chmod(0o555)
    before = (held / "a.lmdb/data.mdb").stat().st_mtime_ns
    assert read(held, "a.lmdb::1") == png()
    assert os.listdir(held / "a.lmdb") == ["data.mdb"]
    assert (held / "a.lmdb/data.mdb").stat().st_mtime_ns == before
    (held / "a.lmdb").chmod(0o755)


def test_few_databases_stay_open_and_none_that_is_read_is_closed(held, monkeypatch):
    monkeypatch.setattr(lmdb_values, "MAX_OPEN", 2)
    content = {name: bytes([number]) * 100_000 for number, name in enumerate("bcdef")}
    for name, value in content.items():
        database(held / f"{name}.lmdb", {"1": value})
    files = [lmdb_values.open_value(str(held / f"{name}.lmdb"), "1") for name in content]
    assert [file.read() for file in files] == [*content.values()]
    for file in files:
        file.close()
    assert read(held, "a.lmdb::1") == png()
    assert len(lmdb_values._databases) == 2


def size_of_first(folder: Path) -> int:
    return MediaReader().image_size(mention(folder, "a.lmdb::1"), "torchvision").num_bytes


def test_threads_and_forked_processes_share_a_database(held):
    assert size_of_first(held) == len(png())
    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(size_of_first, [held] * 64)] == [len(png())] * 64
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map(size_of_first, [held] * 8) == [len(png())] * 8


@pytest.fixture(scope="module")
def two_ways(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same rows with images and clips of them in files, and in a database."""
    by_file, by_key = (tmp_path_factory.mktemp(name) for name in ("files", "keys"))
    names = [picture(by_file / f"{n}.{'png' if n % 2 else 'jpg'}", 40 + 20 * n, 90) for n in range(6)]
    database(by_key / "m.lmdb", {name: (by_file / name).read_bytes() for name in names})
    for folder, spelled in ((by_file, ""), (by_key, "m.lmdb::")):
        rows: list[dict[str, Any]] = [
            chat(f"s{n}", f"Question {n}?", f"Answer {n}.", [spelled + names[n % 6]]) for n in range(12)
        ]
        clip = {"messages": chat("", "<video>Q", "A")["messages"], "video": [spelled + names[3]] * 4}
        write_jsonl(folder / "rows.jsonl", [*rows, {"id": "clip", **clip}])
        (folder / "meta.json").write_text(json.dumps({"rows": {"file_name": "rows.jsonl"}}))
    return by_file, by_key


@pytest.mark.parametrize("pixels", ["uint8", "encoded"])
def test_shards_are_the_same_byte_for_byte(pixels, two_ways, processor_dir: ProcessorDir, tmp_path):
    shards = []
    for folder in two_ways:
        out = tmp_path / folder.name
        run(
            folder / "rows.jsonl",
            processor_dir("qwen2_vl"),
            out,
            writing=PackSettings(pixels=pixels),
            planning=PlanSettings(pack_size=PACK_SIZE),
            max_refused=0.0,
        )
        shards.append([path.read_bytes() for path in sorted((out / "shards").glob("*.tar"))])
    assert shards[0] == shards[1]
    assert len(vlmprep.open(out)) > 1


def test_a_database_that_was_written_to_is_counted_again(two_ways, processor_dir: ProcessorDir, tmp_path):
    folder = tmp_path / "d"
    shutil.copytree(two_ways[1], folder)
    before = count(folder / "rows.jsonl", processor_dir("qwen2_vl"), tmp_path / "ledger").read(
        ["num_tokens", "num_patches"]
    )
    picture(tmp_path / "0.jpg", 300, 500)
    shutil.copytree(folder / "m.lmdb", tmp_path / "m.lmdb")
    database(tmp_path / "m.lmdb", {"0.jpg": (tmp_path / "0.jpg").read_bytes()})
    os.replace(tmp_path / "m.lmdb/data.mdb", folder / "m.lmdb/data.mdb")
    after = count(folder / "rows.jsonl", processor_dir("qwen2_vl"), tmp_path / "ledger").read(
        ["num_tokens", "num_patches"]
    )
    assert [a > b for a, b in zip(after["num_tokens"].to_pylist(), before["num_tokens"].to_pylist(), strict=True)] == [
        n % 6 == 0 for n in range(12)
    ] + [False]


def test_lazy_packs_equal_those_on_disk_in_spawned_workers_too(two_ways, processor_dir: ProcessorDir, tmp_path):
    by_key = two_ways[1]
    run(by_key / "meta.json", processor_dir("qwen2_vl"), tmp_path / "out", planning=PlanSettings(pack_size=PACK_SIZE))
    disk = vlmprep.open(tmp_path / "out")
    examples = make_meta_dataset(str(by_key / "meta.json"))
    packed = neat_pack_dataset_vlm(PreTokenizedDatasetWrapper(examples, qwen(processor_dir("qwen2_vl"))), PACK_SIZE)
    loader = DataLoader(packed.packs, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert len(packed) == len(disk) > 1
    for found, written in zip(loader, (disk[k] for k in range(len(disk))), strict=True):
        assert list(found) == list(written)
        assert all(torch.equal(found[field], values) for field, values in written.items())


def test_a_batch_is_the_same_as_of_files(two_ways, processor_dir: ProcessorDir):
    processor = qwen(processor_dir("qwen2_vl"))
    batches = [qwen2_5_collate_fn(make_meta_dataset(str(folder / "meta.json"))[8:], processor) for folder in two_ways]
    assert {"pixel_values", "pixel_values_videos"} <= set(batches[0])
    assert list(batches[0]) == list(batches[1])
    for name, values in batches[0].items():
        assert torch.equal(values, batches[1][name]), name
