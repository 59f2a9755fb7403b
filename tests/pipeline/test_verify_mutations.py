"""Hundreds of damaged pack sets: `verify` names file and pack, and reading never returns anything but what was packed.

Reading needs manifest.json, packs.arrow and the packs' bytes. What it never looks at (receipts, the account of the rows,
settings.json, files for Megatron-Energon, the zeros behind a shard's last pack) is for `verify` alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import vlmprep
from tests.conftest import ProcessorDir
from tests.packsets import signed
from tests.pipeline.regions import UNREAD, Region, file_regions, shard_regions, tail_region
from tests.runs import chat, picture, run, write_jsonl
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.pipeline.verify import Problem, verify
from vlmprep.schema.errors import StopRun
from vlmprep.schema.packset import PACKS
from vlmprep.schema.progress import Silent
from vlmprep.shardformat.errors import BrokenPack
from vlmprep.shardformat.index import map_index, write_index
from vlmprep.shardformat.members import Compression

SHARDS = ("shards/000000.tar", "shards/000001.tar")


@dataclass(frozen=True)
class Whole:
    """A pack set, what its packs hold, and a twin of equal sizes that holds other things."""

    root: Path
    twin: Path
    packs: list[dict[str, Tensor]]
    originals: dict[str, bytes] = field(default_factory=dict)

    def restore(self, name: str) -> None:
        (self.root / name).write_bytes(self.originals[name])


def make(folder: Path, processor: Path, compression: Compression, word: str, colour: str) -> Path:
    """Four packs in two shards, three pictures, a row refused when counted, one refused when packed."""
    folder.mkdir(parents=True)
    names = [picture(folder / f"{n}.png", 56, 84, colour) for n in range(3)]
    (folder / "torn.png").write_bytes((folder / names[0]).read_bytes()[:60])
    rows = [chat(f"s{n}", "What is it?", f"It is {word}.", names[n : n + 1]) for n in range(7)]
    rows += [chat("torn", "And this?", f"It is {word}.", ["torn.png"]), chat("gone", "Hm?", "No.", ["gone.png"])]
    planning, writing = PlanSettings(pack_size=100), PackSettings(compression=compression, shard_bytes=45_000)
    run(write_jsonl(folder / "rows.jsonl", rows), processor, folder / "set", planning=planning, writing=writing)
    return folder / "set"


@pytest.fixture(scope="module", params=["none", "zstd"])
def whole(
    request: pytest.FixtureRequest, processor_dir: ProcessorDir, tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    folder, processor = tmp_path_factory.mktemp("sets"), processor_dir(max_pixels=50_176)
    root = make(folder / "one", processor, request.param, "1", "red")
    twin = make(folder / "two", processor, request.param, "2", "tan")
    assert problems_of(root) == problems_of(twin) == []
    packs = vlmprep.open(root)
    assert len(packs) >= 4
    assert packs.manifest.rows.refused == 2
    files = [
        path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] not in ("ledger", "plan")
    ]
    originals = {str(path.relative_to(root)): path.read_bytes() for path in files}
    assert {*originals} == {"manifest.json", "packs.arrow", ".lock", *SHARDS, *UNREAD}
    return Whole(root=root, twin=twin, packs=[packs[k] for k in range(len(packs))], originals=originals)


@pytest.fixture(autouse=True)
def mend(whole: Whole) -> Iterator[None]:
    """Undo what a test did."""
    yield
    for name in whole.originals:
        whole.restore(name)
    assert noticed(whole.root) == set()


def problems_of(root: Path) -> list[Problem]:
    return list(verify(root, LocalEngine(0), Silent()).problems)


def noticed(root: Path) -> set[tuple[str, int | None]]:
    """Files and packs that `verify` finds something wrong with; it stops where the manifest itself is broken."""
    try:
        return {(problem.file, problem.pack_id) for problem in problems_of(root)}
    except StopRun as stop:
        names_it = "manifest.json" in stop.message or "format version" in stop.message
        return {("manifest.json", None)} if names_it else set()


def read_all(whole: Whole, **options: Any) -> dict[int, str]:
    """Read every pack: what it holds is what was packed, or the error's message, by pack."""
    broken: dict[int, str] = {}
    packs = vlmprep.open(whole.root, **options)
    for pack_id, expected in enumerate(whole.packs):
        try:
            found = packs[pack_id]
        except BrokenPack as error:
            broken[pack_id] = error.message
            continue
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), f"pack {pack_id} is wrong"
    for pack_id, message in broken.items():
        assert f"{whole.root}/shards/" in message or "packs.arrow" in message
        assert f", pack {pack_id:09d}: " in message
    return broken


def check_opening_is_refused(whole: Whole, *names: str) -> None:
    """Opening stops, and says which file it is, or which of several."""
    with pytest.raises(StopRun) as stop:
        vlmprep.open(whole.root)
    assert any(name in str(stop.value) for name in (*names, "format version"))


def flip(whole: Whole, region: Region, random: Random) -> None:
    """Another bit somewhere in a region."""
    data = bytearray(whole.originals[region.file])
    data[random.randrange(region.start, region.end)] ^= 1 << random.randrange(8)
    (whole.root / region.file).write_bytes(data)


def says_the_same(whole: Whole, name: str) -> bool:
    """Damage that changes no meaning: 1E-05 for 1e-05 in JSON, a newline less."""
    found, written = (whole.root / name).read_bytes(), whole.originals[name]
    try:
        if name.endswith(".json"):
            return bool(json.loads(found) == json.loads(written))
        return name.endswith(".yaml") and bool(yaml.safe_load(found) == yaml.safe_load(written))
    except (ValueError, yaml.YAMLError):
        return False


def test_every_flipped_bit_of_a_pack_names_shard_and_pack(whole: Whole) -> None:
    random, num_flips = Random(1), 0
    regions = shard_regions(whole.root)
    contents = [region for region in regions if region.what.startswith(("content", "padding"))]
    headers = [region for region in regions if "in the header" in region.what]
    for region in (*contents, *random.sample(headers, 100)):
        flip(whole, region, random)
        assert (region.file, region.pack_id) in noticed(whole.root), f"{region}, pack {region.pack_id}"
        assert list(read_all(whole)) == [region.pack_id]
        whole.restore(region.file)
        num_flips += 1
    assert num_flips > 150


def test_flips_at_the_end_of_a_shard_are_for_verify(whole: Whole) -> None:
    for name in SHARDS:
        for seed in range(5):
            flip(whole, tail_region(whole.root, name), Random(seed))
            assert {(name, None)} == noticed(whole.root)
            assert read_all(whole) == {}
        whole.restore(name)


def test_every_flipped_bit_of_another_file_names_it(whole: Whole) -> None:
    random, num_flips, num_same = Random(2), 0, 0
    for region in file_regions(whole.root):
        for _ in range(20):
            flip(whole, region, random)
            num_flips += 1
            if says_the_same(whole, region.file):
                num_same += 1
                continue
            assert region.file in {file for file, _ in noticed(whole.root)}, region
            if region.file in UNREAD:
                assert read_all(whole) == {}
            else:
                check_opening_is_refused(whole, region.file)
        whole.restore(region.file)
    assert num_flips > 200
    assert num_same < num_flips // 100


def cuts(data: bytes, random: Random) -> Iterator[bytes | None]:
    """A file that is shorter, longer, empty or gone; a shard too where it ends between members, as a killed writer leaves it."""
    yield from (None, b"", data[:-1], data[:-512], data[: random.randrange(len(data))], data + b"\0", data + bytes(512))


def test_files_that_are_cut_extended_or_missing_are_named(whole: Whole) -> None:
    random, num_cuts = Random(3), 0
    for name in (*SHARDS, "manifest.json", "packs.arrow", *UNREAD):
        for data in cuts(whole.originals[name], random):
            (whole.root / name).unlink(missing_ok=True)
            if data is not None:
                (whole.root / name).write_bytes(data)
            if data and says_the_same(whole, name):  # less a newline
                continue
            assert (name, None) in noticed(whole.root), (name, None if data is None else len(data))
            if name in UNREAD and name != "samples.parquet":
                assert read_all(whole) == {}
            else:
                check_opening_is_refused(whole, name)
            num_cuts += 1
        whole.restore(name)
    assert num_cuts > 70


def test_shards_that_shrink_or_vanish_after_opening_are_named(whole: Whole) -> None:
    packs = vlmprep.open(whole.root)
    first, last = 0, len(packs) - 1
    (whole.root / SHARDS[0]).unlink()
    (whole.root / SHARDS[1]).write_bytes(whole.originals[SHARDS[1]][:-1536])
    with pytest.raises(BrokenPack, match=rf"{SHARDS[0]}, pack {first:09d}: the shard is missing"):
        packs[first]
    with pytest.raises(BrokenPack, match=rf"{SHARDS[1]}, pack {last:09d}: the shard ends after"):
        packs[last]


def test_shards_that_trade_places_are_named(whole: Whole) -> None:
    for name, other in zip(SHARDS, reversed(SHARDS), strict=True):
        (whole.root / name).write_bytes(whole.originals[other])
    assert {(name, None) for name in SHARDS} <= noticed(whole.root)
    if len({len(whole.originals[name]) for name in SHARDS}) > 1:
        check_opening_is_refused(whole, SHARDS[0])
    else:
        assert len(read_all(whole)) == len(whole.packs)
    assert len(read_all(whole, verify=False)) == len(whole.packs)


def test_files_of_another_set_are_named_whatever_their_size(whole: Whole) -> None:
    num_same_sizes = 0
    for name in (*SHARDS, "manifest.json", "packs.arrow", *UNREAD):
        other = (whole.twin / name).read_bytes()
        if other == whole.originals[name]:
            continue
        num_same_sizes += len(other) == len(whole.originals[name])
        (whole.root / name).write_bytes(other)
        found = noticed(whole.root)
        assert (name, None) in found or (name == "manifest.json" and len(found) > 4), (name, found)
        if name in UNREAD:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("vlmprep.runtime.packset._check_sizes", lambda store, manifest: None)
                assert read_all(whole) == {}
        elif name in SHARDS and len(other) == len(whole.originals[name]):
            assert len(read_all(whole)) >= 2
        else:
            # Another manifest is at odds with all other files: the first whose size differs is named.
            named = ("packs.arrow", "samples.parquet", *SHARDS) if name == "manifest.json" else (name,)
            check_opening_is_refused(whole, *named)
        whole.restore(name)
    assert num_same_sizes > 4


def test_a_pack_of_another_set_in_the_place_of_one_is_named(whole: Whole) -> None:
    index, other = map_index(whole.root / "packs.arrow"), map_index(whole.twin / "packs.arrow")
    num_swapped = 0
    for pack_id in range(len(index)):
        name, offset, size = SHARDS[index.shard[pack_id]], int(index.offset[pack_id]), int(index.size[pack_id])
        start = int(other.offset[pack_id])
        if size != other.size[pack_id]:
            continue
        data = bytearray(whole.originals[name])
        data[offset : offset + size] = (whole.twin / name).read_bytes()[start : start + size]
        (whole.root / name).write_bytes(data)
        assert (name, pack_id) in noticed(whole.root)
        assert list(read_all(whole)) == [pack_id]
        whole.restore(name)
        num_swapped += 1
    assert num_swapped >= 2


def edit_index(whole: Whole, change: Callable[[dict[str, np.ndarray]], None], *, signs: bool) -> None:
    """Edit packs.arrow; with its right digest in a manifest that has its own right digest, if asked for."""
    index = map_index(whole.root / "packs.arrow")
    columns = {name: getattr(index, name).copy() for name in PACKS.names}
    change(columns)
    write_index(whole.root / "packs.arrow", columns)
    if signs:
        manifest, data = json.loads(whole.originals["manifest.json"]), (whole.root / "packs.arrow").read_bytes()
        manifest["files"]["packs.arrow"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest |= {name: int(columns[name].sum()) for name in columns if name.startswith("num_")}
        (whole.root / "manifest.json").write_text(json.dumps(signed(manifest)))


def added(name: str, pack_id: int, amount: int) -> Callable[[dict[str, np.ndarray]], None]:
    def change(columns: dict[str, np.ndarray]) -> None:
        columns[name][pack_id] += columns[name].dtype.type(amount)

    return change


@pytest.mark.parametrize("name", PACKS.names)
def test_an_edited_index_is_noticed_even_with_every_digest_right(whole: Whole, name: str) -> None:
    for amount in (1, 512, 0x7FFF):
        edit_index(whole, added(name, 1, amount), signs=False)
        assert {("packs.arrow", None), ("packs.arrow", 1)} <= noticed(whole.root)
        check_opening_is_refused(whole, "packs.arrow")
        whole.restore("packs.arrow")
        edit_index(whole, added(name, 1, amount), signs=True)
        assert 1 in {pack_id for _, pack_id in noticed(whole.root)}
        if name in ("shard", "offset", "size", "xxh3"):
            assert list(read_all(whole)) == [1]
        else:
            assert read_all(whole) == {}, "counts and costs decide in which order packs are read, not what they are"
        whole.restore("packs.arrow")
        whole.restore("manifest.json")


def test_an_index_whose_packs_trade_places_is_noticed_with_every_digest_right(whole: Whole) -> None:
    def trade(columns: dict[str, np.ndarray]) -> None:
        for values in columns.values():
            values[[0, 2]] = values[[2, 0]]

    edit_index(whole, trade, signs=True)
    assert {pack_id for _, pack_id in noticed(whole.root)} >= {0, 2}
    assert sorted(read_all(whole)) == [0, 2]


def test_the_loader_stops_at_a_broken_pack_and_names_it(whole: Whole) -> None:
    region = next(region for region in shard_regions(whole.root) if region.pack_id == 2 and "content" in region.what)
    flip(whole, region, Random(4))
    loader = vlmprep.Loader(vlmprep.open(whole.root), dp_rank=0, dp_world_size=1, shuffle=False, collate="neat")
    with pytest.raises(BrokenPack, match=rf"{region.file}, pack 000000002: its bytes have digest"):
        list(loader)


def test_digests_need_not_be_checked_while_reading(whole: Whole) -> None:
    region = next(
        region
        for region in shard_regions(whole.root)
        if region.pack_id == 1 and region.what == "time in the header of json"
    )
    data = bytearray(whole.originals[region.file])
    data[region.start : region.end] = (
        b"00000000001\0"  # a time that no tensor depends on, and the checksum that goes with it
    )
    data[region.end : region.end + 8] = b"%06o\0 " % (int(data[region.end : region.end + 6], 8) + 1)
    (whole.root / region.file).write_bytes(data)
    assert list(read_all(whole)) == [1]
    assert read_all(whole, verify=False) == {}
    assert (region.file, 1) in noticed(whole.root)
