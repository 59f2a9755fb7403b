from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vlmprep
from tests.conftest import ProcessorDir
from tests.runs import chat, picture, run, write_jsonl
from tests.schema.test_files import no_file_above
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.schema.errors import StopRun
from vlmprep.schema.files import DiskTrouble
from vlmprep.stores import lease, retry
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.lease import LEASE, held
from vlmprep.stores.retry import StoreTrouble

if TYPE_CHECKING:
    from tests.stores.server import Server, Trouble

NUM_ROWS = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with and without pictures, one of which does not decode and one that is no JSON."""
    folder = tmp_path_factory.mktemp("rows")
    names = [picture(folder / f"{number}.png", 40 + 20 * number, 90) for number in range(6)]
    (folder / names[4]).write_bytes((folder / names[4]).read_bytes()[:-60])
    rows = [chat(f"s{n}", "What is it?", "It is this. " * n, names[n : n + 1]) for n in range(NUM_ROWS)]
    return write_jsonl(folder / "rows.jsonl", [*rows, b"{"])


@pytest.fixture(scope="module")
def processor(processor_dir: ProcessorDir) -> Path:
    return processor_dir(max_pixels=50_176)


def pack(source: Path | str, processor: Path, out: Path | str, **options: Any) -> None:
    writing = PackSettings(shard_bytes=1 << 16)
    run(
        source,
        processor,
        out,
        planning=PlanSettings(pack_size=options.pop("pack_size", 96)),
        writing=writing,
        **options,
    )


@pytest.fixture(scope="module")
def whole(source: Path, processor: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a local run writes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    pack(source, processor, out)
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found = {name: content for name, content in found.items() if not name.endswith(".lock")}
    assert len([name for name in found if name.endswith(".tar")]) > 3
    return found


def content(url: str) -> dict[str, bytes]:
    """Everything on the store."""
    store = StoreFolder(url)
    return {name: store.read(name) for name in store.files()}


def test_a_pack_set_on_s3_has_the_bytes_of_a_local_one(
    source: Path, processor: Path, bucket: str, whole: dict[str, bytes], s3: Server, tmp_path: Path
) -> None:
    out = f"{bucket}/sets/one"
    pack(source, processor, out, engine=LocalEngine(1))
    assert content(out) == whole
    puts = [each.path for each in s3.seen("PUT") if LEASE not in each.path]
    assert puts[-1].endswith("manifest.json"), "it says that all is there"
    for number in range(3):
        shard, receipt = (f"/sets/one/{name}" for name in (f"shards/{number:06d}.tar", f"receipts/{number:06d}.json"))
        assert [path.endswith(shard) for path in puts].index(True) < [path.endswith(receipt) for path in puts].index(
            True
        )
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()], "nothing is left here"
    packs = vlmprep.open(out)
    assert (
        sum(len(packs.info(number).samples) for number in range(len(packs)))
        == json.loads(whole["manifest.json"])["num_samples"]
        > 8
    )
    s3.requests.clear()
    pack(source, processor, out)
    assert content(out) == whole
    assert not s3.seen("PUT", "/shards/"), "what is finished stays as it is"


def test_troubles_while_writing_change_nothing(
    source: Path, processor: Path, bucket: str, whole: dict[str, bytes], s3: Server
) -> None:
    troubles: list[Trouble] = ["500", "503"]
    for trouble in troubles:
        for part in (
            "000000.tar",
            "000001.json",
            "000002.tar.idx",
            "manifest.json",
            "ledger",
            "samples.parquet",
            "plan",
        ):
            s3.trouble(trouble, "PUT", part)
            s3.trouble(trouble, "HEAD", part)
    pack(source, processor, f"{bucket}/set")
    assert content(f"{bucket}/set") == whole
    assert len([each for each in s3.seen("PUT") if each.trouble]) == 14


def test_a_store_that_goes_away_stops_the_run_which_goes_on_later_even_elsewhere(
    source: Path,
    processor: Path,
    bucket: str,
    whole: dict[str, bytes],
    s3: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(retry, "TRIES", 2)
    out = f"{bucket}/set"
    s3.trouble("500", "PUT", "000002.tar", times=100)
    with pytest.raises(StoreTrouble, match=rf"{out}/shards/000002.tar cannot be written, tried 2 times"):
        pack(source, processor, out)
    left = content(out)
    assert "manifest.json" not in left
    assert left["shards/000001.tar"] == whole["shards/000001.tar"]
    assert "shards/000002.tar" not in left
    assert LEASE not in left
    monkeypatch.setenv("VLMPREP_CACHE", str(tmp_path / "another machine"))
    s3.calm()
    pack(source, processor, out)
    assert content(out) == whole
    assert not s3.seen("PUT", "000001.tar"), "what was finished is kept"
    assert s3.seen("PUT", "000002.tar")


def test_other_settings_and_other_contents_are_refused_by_the_url(
    source: Path, processor: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, s3: Server
) -> None:
    out = f"{bucket}/set"
    monkeypatch.setattr(retry, "TRIES", 1)
    s3.trouble("500", "PUT", "000002.tar", times=100)
    with pytest.raises(StoreTrouble):
        pack(source, processor, out)
    s3.calm()
    with pytest.raises(StopRun, match=rf"the plan {out}/plan was made with other settings: pack_size was 96, now 128"):
        pack(source, processor, out, pack_size=128)
    StoreFolder(bucket).publish_bytes("data/precious.txt", b"mine")
    with pytest.raises(StopRun, match=rf"{bucket}/data is not empty and holds something else: precious.txt"):
        pack(source, processor, f"{bucket}/data")
    assert content(f"{bucket}/data") == {"precious.txt": b"mine"}


def test_a_full_disk_here_is_not_taken_for_the_stores(
    source: Path, processor: Path, bucket: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    largest = max(len(content) for name, content in whole.items() if name.endswith(".tar"))
    with (
        no_file_above(largest - 1),
        pytest.raises(DiskTrouble, match=rf"{tmp_path}/cache/.*tar cannot be written") as told,
    ):
        pack(source, processor, f"{bucket}/set")
    assert f"the working copy of {bucket}/set, which --work puts elsewhere" in told.value.hint
    pack(source, processor, f"{bucket}/set")
    assert content(f"{bucket}/set") == whole


def test_a_set_that_was_deleted_is_written_anew(
    source: Path, processor: Path, bucket: str, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, store = f"{bucket}/set", StoreFolder(f"{bucket}/set")
    monkeypatch.setattr(retry, "TRIES", 1)
    s3.trouble("500", "PUT", "000002.tar", times=100)
    with pytest.raises(StoreTrouble):
        pack(source, processor, out)
    for name in store.files():
        store.delete(name)
    s3.calm()
    pack(source, processor, out, pack_size=128)
    assert json.loads(store.read("manifest.json"))["pack_size"] == 128


def test_two_runs_into_one_place_do_not_meet(
    source: Path, processor: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StoreFolder(f"{bucket}/set")
    with held(store), pytest.raises(StopRun, match=rf"another run \(process {os.getpid()} on .*writing to {store}"):
        pack(source, processor, store.url)
    assert store.files() == {}
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.6)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.05)
    store.publish_bytes(LEASE, json.dumps({"run": "x", "host": "elsewhere", "pid": 1, "beats": 0}).encode())

    def beat() -> None:
        store.publish_bytes(LEASE, json.dumps({"run": "x", "host": "elsewhere", "pid": 1, "beats": 1}).encode())

    timer = threading.Timer(0.2, beat)
    timer.start()
    with pytest.raises(StopRun, match="another run"), held(store):
        pass
    timer.join()
    with held(store):  # nobody renewed it
        assert json.loads(store.read(LEASE))["pid"] == os.getpid()
    assert store.files() == {}


def test_the_lease_of_a_dead_process_holds_nobody_up_and_a_lost_one_is_noticed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.05)
    store = StoreFolder(f"{bucket}/set")
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    here = {"run": "x", "beats": 0, **lease.whereabouts()}
    store.publish_bytes(LEASE, json.dumps(here).encode())
    with pytest.raises(StopRun, match="another run"), held(store):
        pass
    for gone in ({**here, "pid": dead}, {**here, "born": "1"}):  # the second: its number is another's by now
        store.publish_bytes(LEASE, json.dumps(gone).encode())
        with held(store) as own:
            own.confirm()
    with held(store) as own:
        own.confirm()
        store.publish_bytes(LEASE, json.dumps({**gone, "run": "another"}).encode())
        with pytest.raises(StopRun, match="another run"):
            own.confirm()
    assert json.loads(store.read(LEASE))["run"] == "another", "it is not ours to remove"


def test_shards_with_refused_samples_beyond_the_budget_are_written_again(
    source: Path, processor: Path, bucket: str, whole: dict[str, bytes]
) -> None:
    out, store = f"{bucket}/set", StoreFolder(f"{bucket}/set")
    with pytest.raises(StopRun, match=r"more than --max-refused .* of them while packing"):
        pack(source, processor, out, max_refused=0.3)
    assert store.files("shards")
    receipts = [json.loads(store.read(name)) for name in store.files("receipts")]
    assert not [receipt for receipt in receipts if receipt["refused"]]
    pack(source, processor, out)
    assert content(out) == whole


def test_any_other_file_system_of_fsspec_is_written_to_the_same_way(
    source: Path, processor: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMPREP_CACHE", str(tmp_path / "cache"))
    pack(source, processor, "memory://writing/set")
    assert content("memory://writing/set") == whole
    pack(source, processor, "memory://writing/set")
    assert content("memory://writing/set") == whole


def test_a_store_that_is_away_is_told_of_by_what_failed_first(
    source: Path, processor: Path, bucket: str, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "TRIES", 2)
    s3.trouble("500", "PUT", "000001.tar", times=100)
    before = StoreFolder.publish_file

    def publish_file(self: StoreFolder, name: str, path: Path, sha256: str) -> None:
        if name.endswith("000001.tar"):
            s3.trouble("503", "GET", LEASE, times=100)
        before(self, name, path, sha256)

    monkeypatch.setattr(StoreFolder, "publish_file", publish_file)
    with pytest.raises(StoreTrouble, match=r"000001.tar cannot be written"):
        pack(source, processor, f"{bucket}/set")
