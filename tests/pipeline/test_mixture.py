"""How often every row is used: the reference's draw, repetition, weights; every use is accounted for."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import vlmprep
from tests.conftest import ProcessorDir
from tests.runs import chat, count, picture, run, write_jsonl
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.plan.make import make_plan
from vlmprep.pipeline.plan.mixture import num_uses
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.pipeline.verify import verify
from vlmprep.schema.errors import StopRun
from vlmprep.schema.progress import Silent


@pytest.fixture(scope="module")
def processor(processor_dir: ProcessorDir) -> Path:
    return processor_dir(max_pixels=50_176)


def drawn(num_rows: int, count: int) -> set[int]:
    return set(random.Random(42).sample(range(num_rows), count))


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.999, 1.0])
def test_up_to_one_a_ratio_is_the_references_draw(ratio: float) -> None:
    assert set(np.flatnonzero(num_uses(40, ratio)).tolist()) == drawn(40, int(40 * ratio))


@pytest.mark.parametrize(("ratio", "total"), [(1.5, 60), (2.0, 80), (2.3, 92), (7.025, 281)])
def test_above_one_every_row_is_used_and_a_draw_once_more(ratio: float, total: int) -> None:
    uses = num_uses(40, ratio)
    assert uses.sum() == total
    assert uses.max() - uses.min() <= 1
    assert set(np.flatnonzero(uses > uses.min()).tolist()) == (drawn(40, total % 40) if total % 40 else set())


def test_a_source_without_rows_is_used_never() -> None:
    assert num_uses(0, 2.5).tolist() == []


def test_every_use_of_a_row_stands_in_a_pack_and_in_the_account(processor: Path, tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    write_jsonl(tmp_path / "few.jsonl", [chat(f"f{i}", "What?", f"Answer {i}.", [name]) for i in range(10)])
    write_jsonl(tmp_path / "many.jsonl", [chat(f"m{i}", "Hi?", f"Yes {i}.") for i in range(20)])
    meta = tmp_path / "meta.json"
    meta.write_text(
        json.dumps({"few": {"file_name": "few.jsonl", "sample_ratio": 1.5}, "many": {"file_name": "many.jsonl"}})
    )
    planning = PlanSettings(pack_size=128, weights={"few": 2.0, "many": 0.5})
    done = run(meta, processor, tmp_path / "set", planning=planning)
    account = pq.read_table(tmp_path / "set" / "samples.parquet").to_pylist()
    uses = {(row["source"], row["row"]): row["num_uses"] for row in account if row["status"] == "packed"}
    assert {row: times for (source, row), times in uses.items() if source == "few"} == dict.fromkeys(range(10), 3)
    assert {row for source, row in uses if source == "many"} == drawn(20, 10)
    assert (done.manifest.rows.packed, done.manifest.rows.unused) == (20, 10)
    assert done.manifest.num_samples == 40
    told = {
        (row["source"], row["row"], place["pack_id"], place["document"])
        for row in account
        if row["status"] == "packed"
        for place in [row, *(row["more_places"] or [])]
    }
    packs = vlmprep.open(tmp_path / "set")
    held = {
        (ref.source, ref.row, pack_id, document)
        for pack_id in range(len(packs))
        for document, ref in enumerate(packs.info(pack_id).samples, start=1)
    }
    assert told == held
    assert len(held) == 40
    assert list(verify(tmp_path / "set", LocalEngine(0), Silent()).problems) == []


def test_a_picture_that_fails_is_refused_once_however_often_it_is_used(processor: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(b"")
    name = picture(tmp_path / "a.jpg", 200, 200)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    rows = [chat("good", "What?", "A square.", [name]), chat("cut", "What?", "A square.", ["cut.jpg"])]
    planning = PlanSettings(pack_size=512, weights={"rows": 3.0})
    done = run(write_jsonl(tmp_path / "rows.jsonl", rows), processor, tmp_path / "set", planning=planning)
    good, cut = pq.read_table(tmp_path / "set" / "samples.parquet").to_pylist()
    assert (good["status"], good["num_uses"]) == ("packed", 3)
    assert (cut["status"], cut["num_uses"], cut["more_places"]) == ("refused", None, None)
    assert done.manifest.rows.refused == 1
    assert list(verify(tmp_path / "set", LocalEngine(0), Silent()).problems) == []


def test_a_weight_of_no_source_stops_with_the_sources(processor: Path, tmp_path: Path) -> None:
    ledger = count(write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes.")]), processor, tmp_path / "ledger")
    with pytest.raises(StopRun, match="--weight names other") as stop:
        make_plan(ledger, PlanSettings(weights={"other": 2.0}), tmp_path / "plan")
    assert "rows" in str(stop.value.hint)
