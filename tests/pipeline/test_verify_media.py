"""Estimate with --verify-media: what packing would refuse is refused in the ledger, and packs are full."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.clips import Recipe, clip, sound
from tests.conftest import FamilyProcessorDir, ProcessorDir
from tests.fuzz.seeds import seed_bytes
from tests.runs import chat, count_settings, picture, run, write_jsonl
from vlmprep.counting.ledger import Ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.families.base import BaseFamily
from vlmprep.pipeline.estimate import estimate
from vlmprep.pipeline.run import run_pack
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import StopRun
from vlmprep.schema.progress import Silent

NUM_ROWS = 24
PLANNING = PlanSettings(pack_size=256)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Every third image stops half way, in three forms."""
    whole = picture(tmp_path / "whole.png")
    cut = []
    for name in ("jpeg", "jpeg progressive", "png"):
        data = seed_bytes("image", name)
        (tmp_path / f"cut.{name}").write_bytes(data[: len(data) // 2])
        cut.append(f"cut.{name}")
    rows = [
        chat(f"s{n}", f"Question {n}?", "Yes.", [cut[n // 3 % 3] if n % 3 == 0 else whole]) for n in range(NUM_ROWS)
    ]
    return write_jsonl(tmp_path / "rows.jsonl", [*rows, chat("text", "And?", "No.")])


def verified(source: Path, processor: Path, out: Path, workers: int = 0) -> Ledger:
    settings = replace(count_settings(processor), verify_media=True)
    return estimate([str(source)], settings, out, LocalEngine(workers), Silent())


def pack(ledger: Path, out: Path) -> Any:
    return run_pack(
        *([str(ledger)], None, PLANNING, PackSettings()),
        out=out,
        plan=None,
        max_refused=1.0,
        engine=LocalEngine(0),
        progress=Silent(),
    )


def refusals(table: Any) -> dict[int, tuple[str, str]]:
    return {row["row"]: (row["reason_code"], row["reason"]) for row in table.to_pylist() if row["status"] == "refused"}


def test_the_ledger_refuses_what_packing_would_in_the_same_words(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    late = run(source, processor_dir(), tmp_path / "late", planning=PLANNING)
    assert late.ledger.summary["rows"]["refused"] == []
    packed = refusals(pq.read_table(tmp_path / "late" / "samples.parquet"))
    assert sorted(packed) == list(range(0, NUM_ROWS, 3))
    assert {code for code, _ in packed.values()} == {"undecodable-media"}
    ledger = verified(source, processor_dir(), tmp_path / "ledger")
    assert refusals(ledger.read(["row", "status", "reason_code", "reason"])) == packed


def test_packs_of_such_a_ledger_are_written_as_planned(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    ledger = verified(source, processor_dir(), tmp_path / "ledger")
    done = pack(tmp_path / "ledger", tmp_path / "set")
    assert done.manifest.num_samples == len(done.plan.samples) == ledger.summary["rows"]["ok"] == NUM_ROWS * 2 // 3 + 1
    run(source, processor_dir(), tmp_path / "late", planning=PLANNING)
    with pytest.raises(StopRun, match=r"verify_media was False, now True"):
        verified(source, processor_dir(), tmp_path / "late" / "ledger")


def test_unchanged_media_are_not_decoded_again_and_changed_ones_are(
    source: Path, processor_dir: ProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = verified(source, processor_dir(), tmp_path / "ledger")
    decoded: list[str] = []
    load = BaseFamily.load

    def note(family: Any, medium: Media) -> Any:
        decoded.append(medium.where)
        return load(family, medium)

    monkeypatch.setattr(BaseFamily, "load", note)
    assert verified(source, processor_dir(), tmp_path / "ledger").summary == first.summary
    assert decoded == []
    picture(tmp_path / "cut.jpeg", height=120, width=90)
    again = verified(source, processor_dir(), tmp_path / "ledger")
    assert len(decoded) == NUM_ROWS
    assert again.summary["rows"]["ok"] > first.summary["rows"]["ok"]


def test_workers_find_what_one_process_finds(source: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    alone = verified(source, processor_dir(), tmp_path / "alone")
    assert verified(source, processor_dir(), tmp_path / "together", workers=1).summary == alone.summary


def test_clips_and_sounds_are_decoded_too(family_processor_dir: FamilyProcessorDir, tmp_path: Path) -> None:
    data = clip(Recipe(num_frames=12))
    late = data.rindex(b"moov") - 150  # in the last pictures: headers say nothing of them, and the first ones decode
    (tmp_path / "a.mp4").write_bytes(data[:late] + b"\xff" * 80 + data[late + 80 :])
    flac = sound("FLAC")
    (tmp_path / "a.flac").write_bytes(flac[: len(flac) // 2] + bytes(50) + flac[len(flac) // 2 + 50 :])
    rows: list[dict[str, Any]] = []
    for kind, column, name in (("video", "videos", "a.mp4"), ("audio", "audios", "a.flac")):
        row = chat(kind, f"<{kind}>What?", "That.")
        rows.append({**row, column: [name]})
    source = write_jsonl(tmp_path / "rows.jsonl", [*rows, chat("text", "And?", "No.")])
    processor = family_processor_dir("qwen3_omni")
    headers = estimate([str(source)], count_settings(processor), tmp_path / "headers", LocalEngine(0), Silent())
    columns = ["row", "status", "reason_code", "reason"]
    assert refusals(headers.read(columns)) == {}
    found = refusals(verified(source, processor, tmp_path / "ledger").read(columns))
    assert {row: code for row, (code, _) in found.items()} == {0: "undecodable-media", 1: "undecodable-media"}
