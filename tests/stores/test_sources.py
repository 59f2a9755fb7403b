from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ProcessorDir
from tests.runs import chat, count, picture, run, write_jsonl
from tests.stores.conftest import patient_client
from vlmprep.counting.ledger import Ledger
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.schema.errors import StopRun
from vlmprep.sources.spec import find_sources
from vlmprep.stores import file as files
from vlmprep.stores import retry
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.retry import StoreTrouble

if TYPE_CHECKING:
    from tests.stores.server import Server

NUM_ROWS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in files of several kinds, with their pictures."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures").mkdir()
    names = [f"pictures/{picture(folder / 'pictures' / f'{n}.png', 40 + 20 * n, 90)}" for n in range(4)]
    rows = [chat(f"s{n}", "What is it?", "It is this. " * (n + 1), names[n : n + 1]) for n in range(NUM_ROWS)]
    write_jsonl(folder / "rows.jsonl", rows)
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes(), mtime=0))
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    with tarfile.open(folder / "members.tar", "w") as tar:
        for number, row in enumerate(rows):
            for name, content in (
                (f"{number}.json", json.dumps({**row, "images": []}).replace("<image>", "").encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "meta.json").write_text(json.dumps({"named": {"file_name": "rows.jsonl", "media_dir": "."}}))
    return folder


@pytest.fixture
def url(bucket: str, data: Path, s3: Server) -> str:
    patient_client().put(f"{data}/", f"{bucket}/data/", recursive=True)
    s3.calm()
    return f"{bucket}/data"


@pytest.fixture(scope="module")
def processor(processor_dir: ProcessorDir) -> Path:
    return processor_dir(max_pixels=50_176)


def rows_of(ledger: Ledger) -> list[dict[str, object]]:
    names = (
        "source",
        "row",
        "sample_id",
        "status",
        "reason",
        "num_tokens",
        "num_visual_tokens",
        "row_xxh3",
        "num_images",
    )
    found: list[dict[str, object]] = ledger.read(names).to_pylist()
    return found


@pytest.mark.parametrize("name", ["rows.jsonl", "packed.jsonl.gz", "table.parquet", "members.tar", "meta.json"])
def test_rows_of_every_kind_are_counted_as_local_ones(
    name: str, url: str, data: Path, processor: Path, tmp_path: Path
) -> None:
    local = rows_of(count(data / name, processor, tmp_path / "local"))
    remote = rows_of(count(f"{url}/{name}", processor, tmp_path / "remote"))
    assert remote == local
    assert [row["status"] for row in local] == ["ok"] * NUM_ROWS


def test_packs_of_remote_rows_and_pictures_are_those_of_local_ones(
    url: str, data: Path, processor: Path, tmp_path: Path, s3: Server
) -> None:
    outs = tmp_path / "local", tmp_path / "remote"
    s3.trouble("500", "GET", "pictures/1.png", times=2)
    s3.trouble("503", "GET", "rows.jsonl", times=2)
    run(data / "rows.jsonl", processor, outs[0], planning=PlanSettings(pack_size=128))
    run(f"{url}/rows.jsonl", processor, outs[1], planning=PlanSettings(pack_size=128))
    names = sorted(path.relative_to(outs[0]).as_posix() for path in outs[0].rglob("*.tar"))
    assert names
    for name in (*names, "packs.arrow", "samples.parquet"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    assert len([each for each in s3.requests if each.trouble]) == 4


def test_names_patterns_and_folders(url: str) -> None:
    folder = StoreFolder(url)
    folder.publish_bytes("more/rows-000.jsonl", b"{}\n")
    folder.publish_bytes("more/rows-001.jsonl", b"{}\n")
    found = {
        words: [
            (spec.name, spec.path.removeprefix(url), spec.media_dir.removeprefix(url)) for spec in find_sources([words])
        ]
        for words in (
            f"{url}/more/*.jsonl",
            f"{url}/more/",
            f"{url}/more/rows-{{000..001}}.jsonl",
            f"{url}/meta.json#named",
        )
    }
    by_name = [("rows-000", "/more/rows-000.jsonl", "/more"), ("rows-001", "/more/rows-001.jsonl", "/more")]
    assert list(found.values()) == [
        by_name,
        [("more/" + name, *rest) for name, *rest in by_name],
        by_name,
        [("named", "/rows.jsonl", "")],
    ]
    for words, problem in (
        (f"{url}/nothing*.jsonl", "no file matches"),
        (f"{url}/nothing.jsonl", "does not exist"),
        (f"{url}/meta.json#other", "has no 'other'"),
    ):
        with pytest.raises(StopRun, match=problem):
            find_sources([words])


def test_only_what_changed_on_the_store_is_counted_again_and_what_vanished_is_refused(
    url: str, processor: Path, tmp_path: Path, s3: Server
) -> None:
    def counted() -> list[dict[str, object]]:
        s3.requests.clear()
        return rows_of(count(f"{url}/rows.jsonl", processor, tmp_path / "ledger"))

    first = counted()
    assert s3.seen("GET", ".png")
    assert counted() == first
    assert not s3.seen("GET", ".png"), "nothing changed"
    folder = StoreFolder(url)
    folder.publish_bytes("pictures/0.png", folder.read("pictures/3.png"))
    folder.delete("pictures/1.png")
    again = counted()
    assert again[0]["num_visual_tokens"] == first[3]["num_visual_tokens"] != first[0]["num_visual_tokens"]
    assert (again[1]["status"], again[1]["reason"]) == ("refused", f"{url}/pictures/1.png does not exist")
    assert again[2:] == first[2:]
    folder.publish_bytes("rows.jsonl", folder.read("rows.jsonl").replace(b"It is this", b"It is that one"))
    changed = counted()
    assert changed[2]["num_tokens"] != first[2]["num_tokens"]


def test_a_store_in_trouble_refuses_no_sample_but_stops_the_run(
    url: str, processor: Path, tmp_path: Path, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "TRIES", 2)
    s3.trouble("500", "GET", "pictures/2.png", times=100)
    with pytest.raises(StoreTrouble, match=rf"{url}/pictures/2.png cannot be read, tried 2 times"):
        count(f"{url}/rows.jsonl", processor, tmp_path / "ledger")


def test_large_files_are_read_piece_by_piece(url: str, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(files, "BLOCK_BYTES", 500)
    content = bytes(range(256)) * 40
    StoreFolder(url).publish_bytes("large", content)
    s3.requests.clear()
    with files.open_file(f"{url}/large") as file:
        assert file.seek(0, 2) == len(content)
        assert file.seek(5000) == 5000
        assert file.read(100) == content[5000:5100]
        assert file.seek(-10, 2)
        assert file.read() == content[-10:]
        assert file.read() == b""
    assert sum(int(each.range.partition("-")[2]) for each in s3.seen("GET", "large")) < 2 * len(content)
    assert 1 <= len(s3.seen("GET", "large")) <= 3
    with pytest.raises(FileNotFoundError):
        files.open_file(f"{url}/nothing")
