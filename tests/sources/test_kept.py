"""Columns that are kept as provenance: from any kind of row to samples.parquet, whatever becomes of the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from tests.cli.running import run as command
from tests.conftest import ProcessorDir
from tests.runs import chat, count, picture, run, write_jsonl
from vlmprep.counting.ledger import LEDGER_FILE
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.run import count_settings_of
from vlmprep.pipeline.verify import verify
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.packset import KEPT, SAMPLES
from vlmprep.schema.progress import Silent
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.provenance import kept_text
from vlmprep.sources.spec import SourceSpec

EXTRA: list[dict[str, Any]] = [
    {"license": "cc-by", "score": 0.5},
    {"license": None, "page": {"url": "u", "tags": ["é", 1]}},
    {"score": 10**30},
    {},
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Rows with more columns than are read; the fifth has no messages, the sixth no image, the seventh is no JSON."""
    image = picture(tmp_path / "a.png")
    rows: list[dict[str, Any] | bytes] = [
        {**chat(f"s{at}", "Q", "A", [image]), **more, "page": more.get("page")} for at, more in enumerate(EXTRA)
    ]
    rows += [{"id": "empty", "messages": [], "license": "mit"}, {**chat("lost", "Q", "A", ["x.png"]), "license": "gpl"}]
    return write_jsonl(tmp_path / "rows.jsonl", [*rows, b'{"license": '])


def stopped(source: Path, processor: Path, out: Path, *keep: str) -> str:
    with pytest.raises(StopRun) as caught:
        count(source, processor, out, keep=keep)
    return str(caught.value)


def test_columns_reach_samples_parquet_whatever_becomes_of_the_row(source, tmp_path, processor_dir: ProcessorDir):
    out = tmp_path / "out"
    made = run(source, processor_dir(), out, keep=("score", "license"))
    table = pq.read_table(out / "samples.parquet")
    assert table.schema.remove_metadata() == SAMPLES.append(KEPT)
    assert table["status"].to_pylist() == ["packed"] * 4 + ["refused"] * 3
    assert table["kept"].to_pylist() == [
        '{"score":0.5,"license":"cc-by"}',
        '{"license":null}',
        '{"score":1000000000000000000000000000000}',
        None,
        '{"license":"mit"}',
        '{"license":"gpl"}',
        None,
    ]
    assert made.manifest.settings["keep"] == ["score", "license"]
    assert not verify(out, LocalEngine(0), Silent()).problems


def test_without_being_asked_nothing_is_kept_and_nothing_else_changes(source, tmp_path, processor_dir: ProcessorDir):
    shards = []
    for name, keep in (("with", ("license",)), ("without", ())):
        made = run(source, processor_dir(), tmp_path / name, keep=keep)
        shards.append([path.read_bytes() for path in sorted((tmp_path / name / "shards").glob("*.tar"))])
    assert shards[0] == shards[1] != []
    assert pq.read_table(tmp_path / "without/samples.parquet").schema.remove_metadata() == SAMPLES
    assert "keep" not in made.manifest.settings


def test_a_name_that_no_row_has_stops_before_counting_with_the_names_that_exist(
    source, tmp_path, processor_dir: ProcessorDir
):
    says = stopped(source, processor_dir(), tmp_path / "ledger", "license", "licence")
    assert "no row has a column 'licence' to keep" in says
    assert "rows have 'id', 'messages', 'images', 'license', 'score', 'page'" in says
    assert not list((tmp_path / "ledger").glob("chunks/*/*"))
    assert not (tmp_path / "ledger" / LEDGER_FILE).exists()


def test_a_column_of_one_late_row_is_found(source, tmp_path, processor_dir: ProcessorDir):
    with source.open("a") as file:
        file.write("\n" + json.dumps({**chat("late", "Q", "A"), "late": 1}) + "\n")
    ledger = count(source, processor_dir(), tmp_path / "ledger", keep=("late",))
    assert ledger.read(["kept"])["kept"].to_pylist() == [None] * 7 + ['{"late":1}']


@pytest.mark.parametrize("keep", [("",), ("license", "license")])
def test_names_that_say_nothing_or_the_same_are_told(keep, source, tmp_path, processor_dir: ProcessorDir):
    assert "expected names of columns, each once" in stopped(source, processor_dir(), tmp_path / "ledger", *keep)


def test_a_ledger_keeps_what_it_was_asked_for(source, tmp_path, processor_dir: ProcessorDir):
    ledger = count(source, processor_dir(), tmp_path / "ledger", keep=("license",))
    assert count_settings_of(ledger).keep == ("license",)
    with pytest.raises(StopRun, match=r"limits\.keep was"):
        count(source, processor_dir(), tmp_path / "ledger")
    run(tmp_path / "ledger", processor_dir(), tmp_path / "out")
    assert pq.read_table(tmp_path / "out/samples.parquet")["kept"][0].as_py() == '{"license":"cc-by"}'


def test_binary_values_of_tables_are_told_by_size_and_digest(tmp_path, processor_dir: ProcessorDir):
    rows = [{**chat("a", "Q", "A"), "raw": b"\xff\x00", "of": {"deep": [b"x"]}, "day": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    ledger = count(tmp_path / "rows.parquet", processor_dir(), tmp_path / "ledger", keep=("raw", "of", "day"))
    (kept,) = ledger.read(["kept"])["kept"].to_pylist()
    told = [{"num_bytes": len(data), "xxh3": xxhash.xxh3_64_hexdigest(data)} for data in (b"\xff\x00", b"x")]
    assert json.loads(kept) == {"raw": told[0], "of": {"deep": [told[1]]}, "day": None}


def test_columns_of_a_named_data_set_are_its_own(tmp_path):
    reader = RowReader(spec=SourceSpec(name="s", path="", media_dir=str(tmp_path), named="medpix"), keep=("plane",))
    row = {"image_id": "a.png", "question": "Q", "answer": "A", "plane": "axial"}
    assert reader.sample(0, json.dumps(row).encode()).kept == '{"plane":"axial"}'
    del row["answer"]
    with pytest.raises(RefuseSample) as caught:
        reader.sample(0, json.dumps(row).encode())
    assert (caught.value.code, caught.value.kept) == ("missing-column", '{"plane":"axial"}')


def test_a_column_that_is_nested_too_deeply_refuses_its_row():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RefuseSample, match="nested too deeply"):
        kept_text({"deep": deep}, ["deep"])


def test_the_command_takes_several_names_as_flags_or_from_a_file(
    source, tmp_path, processor_dir: ProcessorDir, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "config.yaml").write_text("keep: [license, score]\nmax-refused: 1.0\nworkers: 0\n")
    asked = ["pack", str(source), "--processor", str(processor_dir()), "--config", str(tmp_path / "config.yaml"), "-q"]
    assert command(*asked, "-o", str(tmp_path / "file"), capsys=capsys).code == 0
    assert command(*asked, "-o", str(tmp_path / "flags"), "--keep", "score", "--keep", "page", capsys=capsys).code == 0
    first = [pq.read_table(tmp_path / name / "samples.parquet")["kept"][0].as_py() for name in ("file", "flags")]
    assert first == ['{"license":"cc-by","score":0.5}', '{"score":0.5,"page":null}']
    wrong = command(*asked, "-o", str(tmp_path / "wrong"), "--keep", "scores", capsys=capsys)
    assert wrong.code == 1
    assert "no row has a column 'scores' to keep" in " ".join(wrong.err.split())
