"""The pack set: what was planned, accounted for row by row, the same bytes whoever writes them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import vlmprep
from tests.conftest import ProcessorDir
from tests.runs import chat, count, count_settings, picture, run, write_jsonl
from vlmprep.counting.ledger import open_ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.output import output_folder
from vlmprep.pipeline.packjob import PackJob
from vlmprep.pipeline.plan import make_plan
from vlmprep.pipeline.recognize import Kind
from vlmprep.pipeline.run import PackedRun, run_pack
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.schema.errors import StopRun
from vlmprep.schema.packset import IGNORE_INDEX
from vlmprep.schema.progress import Silent

SMALL_IMAGES = 50_176
"""Pixels: at most 64 visual tokens of the demo's processors."""


@pytest.fixture(scope="module")
def processor(processor_dir: ProcessorDir) -> Path:
    return processor_dir(max_pixels=SMALL_IMAGES)


@pytest.fixture(scope="module")
def packed(demo_corpus: Path, processor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pack set; read it, or copy it."""
    root = tmp_path_factory.mktemp("packed") / "set"
    run(demo_corpus / "sharegpt.jsonl", processor, root)
    return root


@pytest.fixture
def copied(packed: Path, tmp_path: Path) -> Path:
    """A finished pack set to spoil."""
    return shutil.copytree(packed, tmp_path / "set")


def tree(root: Path) -> dict[str, str]:
    """Digest of every file of a pack set, less what says where things lay."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and "ledger" not in path.parts]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != ".lock"
    }


def accounts(root: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(root / "samples.parquet").to_pylist()
    return rows


def test_every_row_is_accounted_for(demo_corpus: Path, processor: Path, tmp_path: Path) -> None:
    done = run(demo_corpus / "meta.json", processor, tmp_path / "set")
    packs = vlmprep.open(tmp_path / "set")
    rows = accounts(tmp_path / "set")
    ledger = done.ledger.read(["source", "row", "sample_id"]).to_pylist()
    assert [{name: row[name] for name in ("source", "row", "sample_id")} for row in rows] == ledger
    held = {
        (ref.source, ref.row): (pack_id, place)
        for pack_id in range(len(packs))
        for place, ref in enumerate(packs.info(pack_id).samples, start=1)
    }
    packed = {(r["source"], r["row"]): (r["pack_id"], r["document"]) for r in rows if r["status"] == "packed"}
    assert packed == held
    assert len(packed) > 150
    assert all((row["reason"] is not None) == (row["status"] == "refused") for row in rows)
    unused = [row for row in rows if row["status"] == "unused"]
    assert all(row["pack_id"] is None and row["document"] is None for row in unused)


def test_the_length_written_is_the_length_counted(packed: Path) -> None:
    ledger = open_ledger(packed / "ledger")
    counted = {row["row"]: row["num_tokens"] for row in ledger.read(["row", "num_tokens"]).to_pylist()}
    packs = vlmprep.open(packed)
    for pack_id in range(len(packs)):
        info = packs.info(pack_id)
        assert info.document_lengths == tuple(counted[ref.row] - 1 for ref in info.samples)
        fake = info.fake.length if info.fake else 0
        assert len(packs[pack_id]["input_ids"]) == sum(info.document_lengths) + fake <= 1024
    assert len(packs) > 5


def test_worker_count_and_shard_order_change_no_byte(
    packed: Path, demo_corpus: Path, processor: Path, tmp_path: Path
) -> None:
    run(demo_corpus / "sharegpt.jsonl", processor, tmp_path / "two", engine=LocalEngine(2))
    one, two = tree(packed), tree(tmp_path / "two")
    assert len([name for name in one if name.endswith(".tar")]) > 2
    assert one == two


def test_a_stopped_run_goes_on_and_ends_the_same(
    packed: Path, demo_corpus: Path, processor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = PackJob.open

    def fail_at_the_third(job: PackJob) -> Any:
        make = opened(job)

        def worker(unit: Any) -> Any:
            if unit.shard == 2:
                raise KeyboardInterrupt
            return make(unit)

        return worker

    monkeypatch.setattr(PackJob, "open", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(demo_corpus / "sharegpt.jsonl", processor, tmp_path / "set")
    monkeypatch.undo()
    assert not (tmp_path / "set" / "manifest.json").exists()
    first = (tmp_path / "set" / "shards" / "000000.tar").stat().st_mtime_ns
    (tmp_path / "set" / "shards" / ".000002.tar.1.tmp").write_bytes(b"an attempt that died")
    run(demo_corpus / "sharegpt.jsonl", processor, tmp_path / "set")
    assert (tmp_path / "set" / "shards" / "000000.tar").stat().st_mtime_ns == first
    assert tree(tmp_path / "set") == tree(packed)


def test_a_shard_without_its_full_length_is_written_again(
    packed: Path, copied: Path, demo_corpus: Path, processor: Path
) -> None:
    (copied / "manifest.json").unlink()
    shard = copied / "shards" / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    run(demo_corpus / "sharegpt.jsonl", processor, copied)
    assert tree(copied) == tree(packed)


@pytest.mark.parametrize(
    ("planning", "writing", "named"),
    [
        (PlanSettings(pack_size=512), PackSettings(shard_bytes=1 << 20), "pack_size was 1024, now 512"),
        (PlanSettings(pack_size=1024, seed=1), PackSettings(shard_bytes=1 << 20), "seed was 0, now 1"),
        (PlanSettings(pack_size=1024), PackSettings(), "shard_bytes was 1048576"),
    ],
)
def test_other_settings_are_refused_by_name(
    copied: Path, demo_corpus: Path, processor: Path, planning: PlanSettings, writing: PackSettings, named: str
) -> None:
    with pytest.raises(StopRun) as stop:
        run(demo_corpus / "sharegpt.jsonl", processor, copied, planning=planning, writing=writing)
    assert named in str(stop.value)


def test_a_finished_set_is_left_alone(copied: Path, demo_corpus: Path, processor: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (copied / "shards").iterdir()}
    again = run(demo_corpus / "sharegpt.jsonl", processor, copied).manifest
    assert again == vlmprep.open(copied).manifest
    assert {path: path.stat().st_mtime_ns for path in (copied / "shards").iterdir()} == before


def test_pixels_that_do_not_decode_refuse_their_sample_alone(processor: Path, tmp_path: Path) -> None:
    good, bad = picture(tmp_path / "good.jpg"), picture(tmp_path / "bad.jpg", 200, 300)
    (tmp_path / bad).write_bytes((tmp_path / bad).read_bytes()[:-600])
    rows = [chat("a", "What?", "That.", [good]), chat("b", "What?", "That.", [bad]), chat("c", "Well?", "Yes.")]
    done = run(write_jsonl(tmp_path / "rows.jsonl", rows), processor, tmp_path / "set")
    assert done.ledger.summary["rows"]["ok"] == 3
    account = {row["sample_id"]: row for row in accounts(tmp_path / "set")}
    assert [account[key]["status"] for key in "abc"] == ["packed", "refused", "packed"]
    assert account["b"]["reason_code"] == "undecodable-media"
    assert "bad.jpg does not decode" in account["b"]["reason"]
    assert {account["a"]["document"], account["c"]["document"]} == {1, 2}
    pack = vlmprep.open(tmp_path / "set")[0]
    assert pack["attention_mask"].unique().tolist() == [1, 2]
    assert len(pack["image_grid_thw"]) == 1


def test_a_pack_whose_samples_are_all_refused_holds_the_fake_image_and_no_label(
    processor: Path, tmp_path: Path
) -> None:
    bad = picture(tmp_path / "bad.jpg", 200, 300)
    (tmp_path / bad).write_bytes((tmp_path / bad).read_bytes()[:-600])
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("b", "What?", "That.", [bad])])
    done = run(source, processor, tmp_path / "set", planning=PlanSettings(pack_size=1024, fake_image="none"))
    assert (done.manifest.num_packs, done.manifest.num_samples, done.manifest.num_label_tokens) == (1, 0, 0)
    assert set(vlmprep.open(tmp_path / "set")[0]["attention_mask"].tolist()) == {0}


def test_text_packs_get_one_fake_image_behind_the_real_documents(processor: Path, tmp_path: Path) -> None:
    rows = [chat(f"t{i}", "Say something.", "Something " * 20) for i in range(30)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    done = run(source, processor, tmp_path / "set", planning=PlanSettings(pack_size=256))
    assert done.manifest.num_packs > 1
    packs = vlmprep.open(tmp_path / "set")
    for pack_id in range(len(packs)):
        pack, info = packs[pack_id], packs.info(pack_id)
        assert info.fake is not None
        tail = slice(len(pack["input_ids"]) - info.fake.length, None)
        mask = pack["attention_mask"]
        assert (mask[tail] == 0).all()
        assert (mask[: tail.start] > 0).all()
        assert (pack["labels"][tail] == IGNORE_INDEX).all()
        assert (pack["position_ids"][:, tail.start] == 0).all()
        assert pack["image_grid_thw"].tolist() == [[1, 4, 4]]
        assert len(pack["input_ids"]) <= 256
    without = PlanSettings(pack_size=256, fake_image="none")
    plain = run(source, processor, tmp_path / "plain", planning=without)
    assert plain.manifest.num_images == plain.manifest.num_visual_tokens == 0
    assert "pixel_values" not in vlmprep.open(tmp_path / "plain")[0]


def test_overlong_samples_are_refused_with_their_length(processor: Path, tmp_path: Path) -> None:
    rows = [chat("short", "Hi?", "Yes."), chat("long", "Hi?", "word " * 2000)]
    run(write_jsonl(tmp_path / "rows.jsonl", rows), processor, tmp_path / "set")
    account = {row["sample_id"]: row for row in accounts(tmp_path / "set")}
    assert account["long"]["reason_code"] == "overlong"
    assert "a pack holds 1024" in account["long"]["reason"]
    assert account["short"]["status"] == "packed"


def test_sample_ratio_leaves_rows_unused_and_counts_them(processor: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [chat(f"s{i}", "Hi?", f"Yes {i}.") for i in range(40)])
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps({"quarter": {"file_name": "rows.jsonl", "sample_ratio": 0.25}}))
    done = run(meta, processor, tmp_path / "set")
    assert (done.manifest.rows.packed, done.manifest.rows.unused) == (10, 30)
    import random

    drawn = sorted(random.Random(42).sample(range(40), 10))
    assert [row["row"] for row in accounts(tmp_path / "set") if row["status"] == "packed"] == drawn


def test_too_many_refusals_stop_before_anything_is_packed(processor: Path, tmp_path: Path) -> None:
    rows = [chat("a", "Hi?", "Yes."), chat("b", "Hi?", "Yes.", ["missing.png"])]
    with pytest.raises(StopRun, match="1 of 2 rows are refused") as stop:
        run(write_jsonl(tmp_path / "rows.jsonl", rows), processor, tmp_path / "set", max_refused=0.1)
    assert "1  missing-media, e.g. rows, row 1: " in str(stop.value)
    assert "missing.png does not exist" in str(stop.value)
    assert not (tmp_path / "set" / "shards").exists()


def test_a_row_edited_after_it_was_counted_stops_the_run(processor: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes."), chat("b", "Hi?", "No.")])
    count(source, processor, tmp_path / "ledger")
    source.write_bytes(source.read_bytes().replace(b"Yes.", b"Yeah"))
    with pytest.raises(StopRun, match="not the row that was counted"):
        run_pack(
            [str(tmp_path / "ledger")],
            None,
            PlanSettings(pack_size=256),
            PackSettings(),
            out=tmp_path / "set",
            plan=None,
            max_refused=0.0,
            engine=LocalEngine(0),
            progress=Silent(),
        )


def test_an_image_replaced_after_it_was_counted_refuses_its_sample(processor: Path, tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes.", [name]), chat("b", "Hi?", "No.")])
    count(source, processor, tmp_path / "ledger")
    picture(tmp_path / "a.png", 200, 200)
    done = run_pack(
        [str(tmp_path / "ledger")],
        count_settings(processor),
        PlanSettings(pack_size=256),
        PackSettings(),
        out=tmp_path / "set",
        plan=None,
        max_refused=0.5,
        engine=LocalEngine(0),
        progress=Silent(),
    )
    assert done.manifest.rows.refused == 1
    assert accounts(tmp_path / "set")[0]["reason_code"] == "changed-since-estimate"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_media_that_vanish_while_packing_stop_the_run_and_are_packed_when_they_are_back(
    processor: Path, tmp_path: Path, num_workers: int
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    names = [f"media/{picture(media / f'{i}.png', 200, 200 + i)}" for i in range(30)]
    source = write_jsonl(
        tmp_path / "rows.jsonl", [chat(f"s{i}", "Hi?", "Yes.", [name]) for i, name in enumerate(names)]
    )
    count(source, processor, tmp_path / "ledger")

    def attempt(out: Path, max_refused: float, num_workers: int) -> PackedRun:
        return run_pack(
            [str(tmp_path / "ledger")],
            None,
            PlanSettings(pack_size=256),
            PackSettings(shard_bytes=1 << 18),
            out=out,
            plan=None,
            max_refused=max_refused,
            engine=LocalEngine(num_workers),
            progress=Silent(),
        )

    media.rename(tmp_path / "elsewhere")
    with pytest.raises(StopRun, match=r"more than --max-refused 0\.2 allows; of them while packing: .* missing-media"):
        attempt(tmp_path / "set", 0.2, num_workers)
    assert not (tmp_path / "set" / "manifest.json").exists()
    (tmp_path / "elsewhere").rename(media)
    assert attempt(tmp_path / "set", 0.0, 0).manifest.rows.packed == 30
    assert len(list((tmp_path / "set" / "shards").glob("*.tar"))) > 3
    attempt(tmp_path / "undisturbed", 0.0, 0)
    assert tree(tmp_path / "set") == tree(tmp_path / "undisturbed")


def test_two_runs_into_one_folder_do_not_mix(processor: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes.")])
    with output_folder(tmp_path / "set", Kind.PACKSET), pytest.raises(StopRun, match="another run is writing"):
        run(source, processor, tmp_path / "set")
    assert run(source, processor, tmp_path / "set").manifest.num_packs == 1


def test_no_sample_left_says_why(processor: Path, tmp_path: Path) -> None:
    rows = [chat("a", "Hi?", "Yes.", ["missing.png"]), chat("b", "Hi?", "word " * 300), chat("c", "Hi?", "word " * 400)]
    with pytest.raises(StopRun, match="no sample can be packed") as stop:
        run(
            write_jsonl(tmp_path / "rows.jsonl", rows), processor, tmp_path / "set", planning=PlanSettings(pack_size=64)
        )
    assert "1  missing-media, e.g. rows, row 0: " in str(stop.value)
    assert "2  overlong, e.g. rows, row 1: " in str(stop.value)


def appended(source: Path) -> None:
    source.write_bytes(source.read_bytes() + json.dumps(chat("new", "And?", "More.")).encode() + b"\n")


def repainted(source: Path) -> None:
    picture(source.parent / "a.png", colour="red")


def shortened(source: Path) -> None:
    source.write_bytes(b"".join(source.read_bytes().splitlines(keepends=True)[:64]))


@pytest.mark.parametrize("change", [appended, repainted, shortened])
def test_a_pack_set_does_not_change_under_its_readers(
    processor: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    name = picture(tmp_path / "a.png", colour="blue")
    source = write_jsonl(tmp_path / "rows.jsonl", [chat(f"s{i}", "Hi?", f"Yes {i}.", [name]) for i in range(70)])
    run(source, processor, tmp_path / "set")
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()}
    change(source)
    with pytest.raises(StopRun, match="changed since packing began") as stop:
        run(source, processor, tmp_path / "set")
    assert "rows" in str(stop.value)
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()} == before
    assert run(source, processor, tmp_path / "other").manifest.rows.packed >= 64


def test_another_share_of_the_rows_is_no_unchanged_source(processor: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [chat(f"s{i}", "Hi?", f"Yes {i}.") for i in range(40)])
    meta = tmp_path / "meta.json"
    for ratio in (0.25, 0.5):
        meta.write_text(json.dumps({"part": {"file_name": "rows.jsonl", "sample_ratio": ratio}}))
        plan = make_plan(count(meta, processor, tmp_path / "ledger"), PlanSettings(), tmp_path / "plan")
        assert len(plan.samples) == 40 * ratio
    run(meta, processor, tmp_path / "set")
    meta.write_text(json.dumps({"part": {"file_name": "rows.jsonl", "sample_ratio": 0.75}}))
    with pytest.raises(StopRun, match="the source 'part' changed"):
        run(meta, processor, tmp_path / "set")


def test_rows_added_before_packing_began_are_planned_and_packed(processor: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes."), b"{"])
    with pytest.raises(StopRun, match="are refused"):
        run(source, processor, tmp_path / "set", max_refused=0.0)
    write_jsonl(source, [chat("a", "Hi?", "Yes."), chat("b", "Hi?", "No.")])
    assert run(source, processor, tmp_path / "set", max_refused=0.0).manifest.rows.packed == 2


def test_packs_of_another_plan_are_told_from_other_settings(processor: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes.")])
    out = tmp_path / "set"

    def from_ledger(plan: Path | None, asked: Sequence[str] = (), planning: PlanSettings | None = None) -> PackedRun:
        return run_pack(
            [str(tmp_path / "ledger")],
            None,
            planning or PlanSettings(),
            PackSettings(),
            out=out,
            plan=plan,
            max_refused=0.0,
            engine=LocalEngine(0),
            progress=Silent(),
            asked=asked,
        )

    ledger = count(source, processor, tmp_path / "ledger")
    make_plan(ledger, PlanSettings(), tmp_path / "plan")
    with pytest.raises(StopRun, match="pack_size was 8192, now 512"):
        from_ledger(tmp_path / "plan", ["pack_size"], PlanSettings(pack_size=512))
    assert from_ledger(tmp_path / "plan").manifest.num_samples == 1
    appended(source)
    ledger = count(source, processor, tmp_path / "ledger")
    with pytest.raises(StopRun, match="was not made from the ledger"):
        from_ledger(tmp_path / "plan")
    make_plan(ledger, PlanSettings(), tmp_path / "plan")
    with pytest.raises(StopRun, match="holds packs of another plan"):
        from_ledger(tmp_path / "plan")
    out = tmp_path / "planned-inside"
    from_ledger(None)
    appended(source)
    count(source, processor, tmp_path / "ledger")
    with pytest.raises(StopRun, match="is no longer the one"):
        from_ledger(None)


def test_a_plan_belongs_to_a_ledger(processor: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes.")])
    with pytest.raises(StopRun, match="--plan belongs to a ledger"):
        run_pack(
            [str(source)],
            count_settings(processor),
            PlanSettings(),
            PackSettings(),
            out=tmp_path / "set",
            plan=tmp_path / "plan",
            max_refused=0.0,
            engine=LocalEngine(0),
            progress=Silent(),
        )
    assert not (tmp_path / "set" / "ledger").exists()


def test_documents_restart_their_positions_and_shift_their_labels(packed: Path) -> None:
    packs = vlmprep.open(packed)
    checked = 0
    for pack_id in range(len(packs)):
        pack, info = packs[pack_id], packs.info(pack_id)
        ids, labels = pack["input_ids"].numpy(), pack["labels"].numpy()
        start = 0
        for number, length in enumerate(info.document_lengths, start=1):
            part = slice(start, start + length)
            assert (pack["attention_mask"][part] == number).all()
            assert (pack["position_ids"][:, start] == 0).all()
            learned = np.flatnonzero(labels[part][:-1] != IGNORE_INDEX)
            assert len(learned)
            assert (labels[part][learned] == ids[part][learned + 1]).all()
            start += length
            checked += 1
    assert checked == packs.manifest.num_samples >= 100
