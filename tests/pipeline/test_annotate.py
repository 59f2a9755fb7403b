"""Copies of rows with their counts: what NeMo Automodel would estimate from them is exact, and nothing else changed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.automodel.examples import a_clip
from tests.automodel.lazy import qwen
from tests.conftest import ProcessorDir
from tests.runs import chat, count, count_settings, picture, write_jsonl
from vlmprep.automodel.datasets import _collect_sample_stats, make_meta_dataset
from vlmprep.automodel.lengths import image_config
from vlmprep.automodel.neat_packing_vlm import _estimate_sample_length, neat_pack_dataset_vlm
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.pipeline.annotate import annotate
from vlmprep.schema.errors import StopRun
from vlmprep.schema.progress import Silent


@pytest.fixture
def rows(tmp_path: Path) -> list[Any]:
    small, large = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 300, 500)
    with_clip = {
        "messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "\u00c4"}],
        "videos": [Path(a_clip(tmp_path / "c.mp4", 34, 10)).name],
        "extra": {"kept": [1.5, None]},
    }
    return [
        chat("1", "One?", "A", [small]),
        chat("2", "Two?", "B" * 400, [small, large]),
        b"{broken",
        chat("3", "None?", "C"),
        chat("4", "Gone?", "D", ["missing.png"]),
        with_clip,
    ]


def annotated(tmp_path: Path, rows: list[Any], processor: Path) -> tuple[Any, Path]:
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    ledger = count(source, processor, tmp_path / "ledger")
    assert annotate(ledger, count_settings(processor), tmp_path / "out", Silent()) == 4
    return ledger, tmp_path / "out"


def test_copies_hold_every_row_and_two_fields_more(tmp_path: Path, rows: list[Any], processor_dir: ProcessorDir):
    ledger, out = annotated(tmp_path, rows, processor_dir())
    lines = (out / "rows.jsonl").read_bytes().splitlines()
    assert len(lines) == len(rows)
    assert lines[2] == b"{broken"
    assert json.loads(lines[4]) == rows[4], "refused rows are copied as they are"
    table = ledger.read(["num_tokens", "num_visual_tokens"])
    for number in (0, 1, 3, 5):
        row = json.loads(lines[number])
        meta = row.pop("mm_inputs_meta")
        of_media = sum(meta["images_tokens"]) + sum(meta["videos_tokens"])
        assert row.pop("_text_tokens") + of_media == table["num_tokens"][number].as_py()
        assert of_media == table["num_visual_tokens"][number].as_py()
        assert row == rows[number]
    assert json.loads(lines[1])["mm_inputs_meta"]["images_meta"] == [[60, 90], [300, 500]]
    (size,) = json.loads(lines[5])["mm_inputs_meta"]["videos_meta"]
    assert size == [34, 48, 64, 10.0, 3.4]


def test_what_the_reference_estimates_from_them_is_exact(tmp_path: Path, rows: list[Any], processor_dir: ProcessorDir):
    ledger, out = annotated(tmp_path, [rows[0], rows[1], rows[3], rows[3]], processor_dir())
    examples = make_meta_dataset(str(out / "meta.json"))
    exact = ledger.read(["num_tokens"])["num_tokens"].to_pylist()
    config = image_config(qwen(processor_dir()))
    assert [_estimate_sample_length(example, config, {}) for example in examples] == exact
    stats = _collect_sample_stats(examples)
    assert stats["n_text_tokens"] + stats["n_media_tokens"] == sum(exact)
    assert stats["n_missing_text_tokens"] == stats["n_missing_mm_inputs_meta"] == 0


def test_copies_are_sources_in_the_place_of_the_originals(tmp_path: Path, processor_dir: ProcessorDir):
    name = picture(tmp_path / "a.png")
    (tmp_path / "rows.json").write_text(
        json.dumps([{"talk": [{"who": "u", "what": "<image>Q"}, {"who": "a", "what": "A"}], "pic": name}])
    )
    entry = {
        "file_name": "rows.json",
        "columns": {"messages": "talk", "images": "pic"},
        "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "u", "assistant_tag": "a"},
        "sample_ratio": 2.0,
    }
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"talks": entry}))
    ledger = count(meta, processor_dir(), tmp_path / "ledger")
    annotate(ledger, count_settings(processor_dir()), tmp_path / "out", Silent())
    again = count(tmp_path / "out" / "meta.json", processor_dir(), tmp_path / "again")
    columns = ["status", "num_tokens", "num_images"]
    assert again.read(columns) == ledger.read(columns)
    assert again.summary["sources"][0]["sample_ratio"] == 2.0


def test_recorded_counts_are_never_trusted_over_a_recount(tmp_path: Path, processor_dir: ProcessorDir, caplog):
    name = picture(tmp_path / "a.png")
    honest = [chat(str(n), "Q" * n, "A" * n, [name]) for n in range(1, 9)]
    meta = {"images_meta": [[9, 9]], "images_tokens": [1], "videos_meta": [], "videos_tokens": []}
    lying = [{**row, "_text_tokens": 1, "mm_inputs_meta": meta} for row in honest]
    bins, counts = [], []
    for at, rows in enumerate((honest, lying)):
        source = write_jsonl(tmp_path / f"rows{at}.jsonl", rows)
        counts.append(count(source, processor_dir(), tmp_path / f"ledger{at}").read(["num_tokens"]))
        (tmp_path / f"meta{at}.json").write_text(json.dumps({"rows": {"file_name": source.name}}))
        examples = make_meta_dataset(str(tmp_path / f"meta{at}.json"))
        assert ("_text_tokens" in examples[0]) is (rows is lying)
        tokenized = PreTokenizedDatasetWrapper(examples, qwen(processor_dir()))
        with caplog.at_level(logging.WARNING):
            bins.append(neat_pack_dataset_vlm(tokenized, 128).bins)
    assert bins[0] == bins[1]
    assert len(bins[0]) > 1
    assert counts[0] == counts[1]
    assert "8 of 8 samples have other counts recorded than were counted now" in caplog.text


def test_sources_are_not_written_over_and_must_be_json(tmp_path: Path, rows: list[Any], processor_dir: ProcessorDir):
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    ledger = count(source, processor_dir(), tmp_path / "ledger")
    with pytest.raises(StopRun, match="would write over the source"):
        annotate(ledger, count_settings(processor_dir()), tmp_path, Silent())
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([chat("1", "Q", "A")]), tmp_path / "table.parquet")
    table = count(tmp_path / "table.parquet", processor_dir(), tmp_path / "of_table")
    with pytest.raises(StopRun, match="holds no JSON"):
        annotate(table, count_settings(processor_dir()), tmp_path / "out", Silent())


def test_media_that_changed_since_stop_it(tmp_path: Path, rows: list[Any], processor_dir: ProcessorDir):
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    ledger = count(source, processor_dir(), tmp_path / "ledger")
    (tmp_path / "b.png").unlink()
    with pytest.raises(StopRun, match=r"row 1: .*b\.png does not exist"):
        annotate(ledger, count_settings(processor_dir()), tmp_path / "out", Silent())
    assert not (tmp_path / "out" / "meta.json").exists()
