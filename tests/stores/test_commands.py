from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.running import run
from tests.conftest import ProcessorDir
from tests.runs import chat, picture, write_jsonl
from vlmprep.stores.folder import StoreFolder

if TYPE_CHECKING:
    from tests.stores.server import Server


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    name = picture(folder / "one.png", 60, 90)
    return write_jsonl(
        folder / "rows.jsonl", [chat(f"s{n}", "What?", "This. " * (n + 1), [name] * (n % 2)) for n in range(9)]
    )


def test_every_stage_reads_and_writes_urls(
    source: Path,
    processor_dir: ProcessorDir,
    bucket: str,
    s3: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    processor = ["--processor", str(processor_dir(max_pixels=50_176)), "--workers", "0"]

    def json_of(*words: str) -> dict[str, object]:
        done = run(*words, "--json", capsys=capsys)
        assert done.code == 0, done.err
        found: dict[str, object] = json.loads(done.out)
        return found

    ledger, plan, packs = (f"{bucket}/{name}" for name in ("ledger", "plan", "packs"))
    assert json_of("estimate", str(source), *processor, "--out", ledger)["ledger"] == ledger
    json_of("estimate", str(source), *processor, "--out", str(tmp_path / "ledger"))
    local = {path.relative_to(tmp_path / "ledger").as_posix(): path for path in (tmp_path / "ledger").rglob("*")}
    there = StoreFolder(ledger)
    assert set(there.files()) == {name for name, path in local.items() if path.is_file() and name != ".lock"}
    assert all(there.read(name) == local[name].read_bytes() for name in there.files())
    s3.requests.clear()
    json_of("estimate", str(source), *processor, "--out", ledger)
    assert {each.path.rpartition("/")[2] for each in s3.seen("PUT")} == {".lease", ".work"}, "it was there"

    assert json_of("plan", ledger, "--out", plan, "--pack-size", "96")["plan"] == plan
    made = json_of("pack", ledger, "--plan", plan, "--out", packs, "--workers", "0", "--work", str(tmp_path / "work"))
    assert made["packset"] == packs
    assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    json_of("pack", str(tmp_path / "ledger"), "--pack-size", "96", "--out", str(tmp_path / "packs"), "--workers", "0")
    shard = "shards/000000.tar"
    assert StoreFolder(packs).read(shard) == (tmp_path / "packs" / shard).read_bytes()

    assert json_of("inspect", ledger)["ledger"] == ledger
    assert json_of("inspect", plan)["plan"] == plan
    s3.requests.clear()
    assert json_of("inspect", packs)["packset"] == packs
    assert not s3.seen("GET", ".tar")
    assert json_of("inspect", packs, "--pack", "1")["packset"] == packs
    sound = json_of("verify", packs, "--workers", "0")
    assert (sound["packset"], sound["problems"]) == (packs, [])
    against = ["--against", processor[1], "--ledger", str(tmp_path / "ledger")]
    assert json_of("verify", packs, "--workers", "0", *against)["num_rebuilt"] == 9
    store = StoreFolder(packs)
    content = bytearray(store.read(shard))
    content[700] ^= 1
    store.publish_bytes(shard, bytes(content))
    store.publish_bytes("shards/000077.tar", b"stray")
    broken = run("verify", packs, "--workers", "0", "--json", capsys=capsys)
    assert broken.code == 1
    assert {problem["file"] for problem in json.loads(broken.out)["problems"]} == {shard, "shards/000077.tar"}
    failed = run("inspect", f"{bucket}/nothing", capsys=capsys)
    assert failed.code == 1
    assert f"{bucket}/nothing does not exist" in failed.err.replace("\n", "")


def test_another_folder_as_work_is_left_as_it_is(
    source: Path, processor_dir: ProcessorDir, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    words = ["pack", str(source), "--processor", str(processor_dir(max_pixels=50_176)), "--out", f"{bucket}/set"]
    failed = run(*words, "--work", str(tmp_path), capsys=capsys)
    assert failed.code == 1
    assert "no working copy" in failed.err
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert StoreFolder(bucket).files() == {}
