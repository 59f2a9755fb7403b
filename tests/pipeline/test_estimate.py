"""The ledger: complete, exact, resumed, and never stale without a word."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ProcessorDir
from tests.runs import chat, count, count_settings, picture, write_jsonl
from vlmprep.counting.ledger import chunk_path
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.estimate import estimate
from vlmprep.schema.errors import StopRun
from vlmprep.schema.progress import Silent


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred rows make two chunks."""
    monkeypatch.setattr("vlmprep.sources.rows.FIRST_CHUNK_ROWS", 64)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    name = picture(tmp_path / "a.png")
    rows = [chat(f"s{i}", f"Question {i}?", f"Answer {i}.", [name] * (i % 3)) for i in range(100)]
    return write_jsonl(tmp_path / "rows.jsonl", rows)


def written(root: Path) -> dict[str, int]:
    """When each chunk was written."""
    return {path.name: path.stat().st_mtime_ns for path in root.rglob("*.parquet")}


def records(ledger: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ledger.read(
        ["row", "sample_id", "status", "reason_code", "num_tokens", "num_images"]
    ).to_pylist()
    return rows


def test_every_row_has_one_record_in_order(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    ledger = count(source, processor_dir(), tmp_path / "ledger")
    rows = records(ledger)
    assert [row["row"] for row in rows] == list(range(100))
    assert [row["sample_id"] for row in rows] == [f"s{i}" for i in range(100)]
    assert [row["num_images"] for row in rows] == [i % 3 for i in range(100)]
    assert ledger.summary["rows"] == {"all": 100, "ok": 100, "refused": []}


def test_worker_processes_count_what_one_process_counts(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmprep.pipeline.estimate.WORTH_WORKERS_ROWS", 0)
    alone = count(source, processor_dir(), tmp_path / "alone")
    settings = count_settings(processor_dir())
    together = estimate([str(source)], settings, tmp_path / "together", LocalEngine(2), Silent())
    assert records(together) == records(alone)
    assert together.digest == alone.digest


def test_a_finished_ledger_is_left_alone(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    first = count(source, processor_dir(), tmp_path / "ledger")
    before = written(tmp_path)
    assert len(before) == 2
    assert count(source, processor_dir(), tmp_path / "ledger").summary == first.summary
    assert written(tmp_path) == before


def test_rows_added_at_the_end_recount_the_last_chunk_alone(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    count(source, processor_dir(), tmp_path / "ledger")
    before = written(tmp_path)
    with source.open("a") as file:
        file.write(json.dumps(chat("new", "One more?", "Yes.")) + "\n")
    ledger = count(source, processor_dir(), tmp_path / "ledger")
    assert ledger.summary["rows"]["ok"] == 101
    after = written(tmp_path)
    assert after["000000.parquet"] == before["000000.parquet"]
    assert after["000001.parquet"] != before["000001.parquet"]


def test_an_edited_row_recounts_its_chunk_alone(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    old = records(count(source, processor_dir(), tmp_path / "ledger"))
    before = written(tmp_path)
    source.write_bytes(source.read_bytes().replace(b"Answer 90.", b"A much longer answer 90, with more words in it."))
    new = records(count(source, processor_dir(), tmp_path / "ledger"))
    assert [row for row, _ in enumerate(new) if new[row] != old[row]] == [90]
    assert written(tmp_path)["000000.parquet"] == before["000000.parquet"]


def test_rows_taken_away_leave_nothing_behind(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    count(source, processor_dir(), tmp_path / "ledger")
    source.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:64]))
    ledger = count(source, processor_dir(), tmp_path / "ledger")
    assert ledger.summary["rows"]["all"] == 64
    assert list(written(tmp_path)) == ["000000.parquet"]


def test_a_ledger_does_not_lose_its_sources_to_others(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    count(source, processor_dir(), tmp_path / "ledger")
    before = written(tmp_path)
    other = write_jsonl(tmp_path / "other.jsonl", [chat("x", "What?", "That.")])
    with pytest.raises(StopRun, match="holds other sources too: rows"):
        count(other, processor_dir(), tmp_path / "ledger")
    assert written(tmp_path) == before
    both = tmp_path / "*.jsonl"
    assert count(both, processor_dir(), tmp_path / "ledger").summary["rows"]["all"] == 101
    assert before.items() <= written(tmp_path / "ledger" / "chunks" / "rows").items()


def test_a_replaced_image_is_counted_again(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    old = records(count(source, processor_dir(), tmp_path / "ledger"))
    picture(tmp_path / "a.png", height=300, width=500)
    new = records(count(source, processor_dir(), tmp_path / "ledger"))
    changed = {row["row"] for row, was in zip(new, old, strict=True) if row["num_tokens"] != was["num_tokens"]}
    assert changed == {i for i in range(100) if i % 3}


def test_a_missing_image_that_arrives_is_no_longer_refused(processor_dir: ProcessorDir, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "What?", "That.", ["late.png"])])
    assert records(count(source, processor_dir(), tmp_path / "ledger"))[0]["reason_code"] == "missing-media"
    picture(tmp_path / "late.png")
    assert records(count(source, processor_dir(), tmp_path / "ledger"))[0]["status"] == "ok"


def test_a_half_written_ledger_is_taken_up(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    whole = count(source, processor_dir(), tmp_path / "whole")
    count(source, processor_dir(), tmp_path / "half")
    (tmp_path / "half" / "ledger.json").unlink()
    chunk_path(tmp_path / "half", "rows", 1).unlink()
    attempt = chunk_path(tmp_path / "half", "rows", 1).with_name(".000001.parquet.1.tmp")
    attempt.write_bytes(b"an attempt that died")
    kept = chunk_path(tmp_path / "half", "rows", 0).stat().st_mtime_ns
    again = count(source, processor_dir(), tmp_path / "half")
    assert again.summary == whole.summary
    assert not attempt.exists()
    assert chunk_path(tmp_path / "half", "rows", 0).stat().st_mtime_ns == kept


def test_a_cut_chunk_is_counted_again(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    first = count(source, processor_dir(), tmp_path / "ledger")
    path = chunk_path(tmp_path / "ledger", "rows", 0)
    path.write_bytes(path.read_bytes()[:-100])
    assert count(source, processor_dir(), tmp_path / "ledger").summary == first.summary


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"control_text": "keep"}, "control_text was 'refuse', now 'keep'"),
        ({"image_backend": "pil"}, "Qwen2VLImageProcessorPil"),
    ],
)
def test_another_setting_is_refused_by_name(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    count(source, processor_dir(), tmp_path / "ledger")
    with pytest.raises(StopRun, match=r"made with other settings") as stop:
        count(source, processor_dir(), tmp_path / "ledger", **change)
    assert named in str(stop.value)


def test_another_template_is_refused_by_name(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    other: Any = AutoProcessor.from_pretrained(processor_dir())
    other.chat_template = other.chat_template.replace("You are a helpful assistant.", "Be brief.")
    other.save_pretrained(tmp_path / "other")
    count(source, processor_dir(), tmp_path / "ledger")
    with pytest.raises(StopRun, match="chat_template was"):
        count(source, tmp_path / "other", tmp_path / "ledger")


def test_the_same_processor_in_another_folder_is_no_other_setting(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(processor_dir(), tmp_path / "copy")
    here = count(source, processor_dir(), tmp_path / "ledger")
    before = written(tmp_path)
    assert count(source, tmp_path / "copy", tmp_path / "ledger").summary == here.summary
    assert written(tmp_path) == before


def test_every_kind_of_damage_is_refused_and_nothing_else(
    demo_corpus: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    ledger = count(demo_corpus / "sharegpt.jsonl", processor_dir(), tmp_path / "ledger")
    damaged = json.loads((demo_corpus / "damaged.json").read_text())
    rows = records(ledger)
    refused = {row["sample_id"]: row["reason_code"] for row in rows if row["status"] == "refused"}
    late = {key for key in damaged if "truncated" in key}  # its header is whole: found when it is decoded
    assert len(late) == 1
    assert len(refused) >= 11
    assert set(refused) == set(damaged) - late
    assert Counter(refused.values()) >= Counter({"not-json": 1, "not-utf8": 1, "tag-mismatch": 2, "control-token": 1})
    assert all(group["example"]["reason"] for group in ledger.summary["rows"]["refused"])


def test_broken_lines_are_named_by_their_number(processor_dir: ProcessorDir, tmp_path: Path) -> None:
    good = chat("a", "What?", "That.")
    source = write_jsonl(tmp_path / "rows.jsonl", [good, b'{"id": ', b"", good, b'{"x": "\xff"}'])
    ledger = count(source, processor_dir(), tmp_path / "ledger")
    reasons = ledger.read(["row", "reason"]).to_pylist()
    assert [row["row"] for row in reasons] == [0, 1, 3, 4]
    assert "line 2 is not JSON" in reasons[1]["reason"]
    assert "line 5 is not UTF-8" in reasons[3]["reason"]


def test_an_empty_source_stops_with_its_name(processor_dir: ProcessorDir, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [])
    with pytest.raises(StopRun, match=r"rows\.jsonl holds no rows"):
        count(source, processor_dir(), tmp_path / "ledger")


def test_no_pixel_is_decoded(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageFile

    def refuse(*_: Any) -> None:
        raise AssertionError("decoded a pixel")

    count(source, processor_dir(), tmp_path / "warm-up")  # the processor is loaded and tries itself
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    monkeypatch.setattr("torchvision.io.decode_image", refuse)
    assert count(source, processor_dir(), tmp_path / "ledger").summary["rows"]["ok"] == 100
