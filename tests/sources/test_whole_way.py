"""From every kind of file to the same documents: what is packed does not tell where it was read from."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ProcessorDir
from tests.runs import chat, picture, run, write_jsonl
from vlmprep.schema.errors import StopRun

NUM_ROWS = 30


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMPREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(folder: Path) -> list[dict[str, Any]]:
    names = [picture(folder / f"{n}.png", 40 + 20 * n, 90) for n in range(5)]
    return [chat(f"s{n}", f"Question {n}?", f"Answer {n}.", [names[n % 5]] * (n % 2)) for n in range(NUM_ROWS)]


def write(path: Path, chats: list[dict[str, Any]]) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, chats)).encode()))
    elif path.suffix == ".tar":
        write_tar(path, chats)
    else:
        table = [{**chat, "images": [{"bytes": content(path, name)} for name in chat["images"]]} for chat in chats]
        pq.write_table(pa.Table.from_pylist(table), path)
    return path


def content(path: Path, name: str) -> bytes:
    return (path.parent / name).read_bytes()


def write_tar(path: Path, chats: list[dict[str, Any]]) -> None:
    with tarfile.open(path, "w") as tar:
        for chat_ in chats:
            members = {"json": json.dumps({**chat_, "images": None}).encode()}
            members |= {f"{at}.png": content(path, name) for at, name in enumerate(chat_["images"])}
            for name, data in members.items():
                info = tarfile.TarInfo(f"{chat_['id']}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def tensors(packset: Path) -> dict[str, str]:
    """Digests of all tensors; key.json names the source and is left out."""
    found = {}
    for shard in sorted((packset / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if ".npy" in member.name:
                    found[member.name] = hashlib.sha256(tar.extractfile(member).read()).hexdigest()  # type: ignore[union-attr]
    return found


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory, processor_dir: ProcessorDir) -> dict[str, str]:
    """Of the same rows as lines with paths."""
    folder = tmp_path_factory.mktemp("truth")
    run(write_jsonl(folder / "rows.jsonl", rows(folder)), processor_dir(), folder / "out")
    return tensors(folder / "out")


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.parquet", "rows.tar"])
def test_packs_are_the_same_from_every_kind_of_file(
    name: str, truth: dict[str, str], tmp_path: Path, processor_dir: ProcessorDir
) -> None:
    source = write(tmp_path / name, rows(tmp_path))
    run(source, processor_dir(), tmp_path / "out")
    assert len(truth) > 10
    assert tensors(tmp_path / "out") == truth


def test_a_source_that_changed_since_it_was_packed_is_refused(tmp_path: Path, processor_dir: ProcessorDir) -> None:
    chats = rows(tmp_path)
    source = write(tmp_path / "rows.parquet", chats)
    run(source, processor_dir(), tmp_path / "out")
    write(source, chats[:-1])
    with pytest.raises(StopRun, match="changed since packing began"):
        run(source, processor_dir(), tmp_path / "out")
