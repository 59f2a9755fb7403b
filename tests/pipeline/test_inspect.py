from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.packed import PackedDemo
from vlmprep.pipeline.inspect import (
    LedgerReport,
    PackSetReport,
    PlanReport,
    UnfinishedReport,
    inspect_output,
)
from vlmprep.pipeline.inspect.histogram import (
    Histogram,
    doubling_edges,
    doubling_histogram,
    even_histogram,
    filling_histogram,
)
from vlmprep.pipeline.inspect.pack import PackView, Span, documents_of, read_pack, view_pack
from vlmprep.pipeline.inspect.spread import lowest
from vlmprep.pipeline.recognize import Found, Kind, recognize
from vlmprep.schema.errors import StopRun
from vlmprep.shardformat.errors import BrokenPack
from vlmprep.shardformat.index import map_index

values_lists = st.lists(st.integers(0, 40_000), min_size=1, max_size=300)


def assert_counts(histogram: Histogram, values: list[int]) -> None:
    """Every bin counts exactly the values between its edges."""
    assert sorted(set(histogram.edges)) == list(histogram.edges)
    for start, end, count in zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, strict=True):
        assert count == sum(start <= value < end for value in values)
    assert sum(histogram.counts) == histogram.num_values == len(values)
    assert (histogram.least, histogram.greatest) == (min(values), max(values))
    assert histogram.mean == pytest.approx(np.mean(values))
    assert histogram.median == np.median(values)


@given(values_lists)
def test_even_bins_count_every_value_once(values: list[int]) -> None:
    histogram = even_histogram(np.array(values))
    assert_counts(histogram, values)
    assert len(histogram.counts) <= 13


@given(values_lists)
def test_doubling_bins_count_every_value_once(values: list[int]) -> None:
    array = np.array(values)
    assert_counts(doubling_histogram(array, doubling_edges(array)), values)


@given(values_lists, st.integers(0, 100))
def test_filling_bins_count_every_value_once(values: list[int], room: int) -> None:
    capacity = max(values) + room
    histogram = filling_histogram(np.array(values), capacity)
    assert_counts(histogram, values)
    assert histogram.edges[-1] == capacity + 1


def test_outliers_do_not_stretch_the_bins() -> None:
    histogram = even_histogram(np.array([1, *range(5_000, 5_100), *range(5_000, 5_100), 90_000]))
    assert histogram.edges[0] == 1
    assert histogram.edges[-1] == 90_001
    inner = np.diff(histogram.edges[1:-1])
    assert set(inner.tolist()) == {10}


def test_no_values_make_an_empty_histogram() -> None:
    for histogram in (even_histogram(np.zeros(0, np.int64)), doubling_histogram(np.zeros(0, np.int64), [0, 1])):
        assert histogram.num_values == 0
        assert histogram.counts == ()


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 10))
def test_the_lowest_are_those_of_a_stable_sort(values: list[int], count: int) -> None:
    expected = sorted(range(len(values)), key=values.__getitem__)[:count]
    assert lowest(np.array(values, dtype=np.int64), count).tolist() == expected


def test_finished_output_is_recognized(packed_demo: PackedDemo) -> None:
    assert recognize(packed_demo.packset) == Found(kind=Kind.PACKSET, complete=True)
    assert recognize(packed_demo.ledger) == Found(kind=Kind.LEDGER, complete=True)
    assert recognize(packed_demo.plan) == Found(kind=Kind.PLAN, complete=True)


def test_other_folders_are_refused(packed_demo: PackedDemo, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("// an editor's own {")
    for path, message in (
        (tmp_path, "holds no ledger, plan or pack set"),
        (packed_demo.corpus, "holds no ledger, plan or pack set"),
        (tmp_path / "nothing", "does not exist"),
        (packed_demo.packset / "manifest.json", "is a file"),
    ):
        with pytest.raises(StopRun, match=message):
            inspect_output(path)


def ledger_table(ledger: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted((ledger / "chunks").rglob("*.parquet")))


def test_a_ledger_report_adds_up_to_its_rows(packed_demo: PackedDemo) -> None:
    report = inspect_output(packed_demo.ledger)
    assert isinstance(report, LedgerReport)
    rows = ledger_table(packed_demo.ledger).to_pylist()
    usable = [row for row in rows if row["status"] == "ok"]
    assert report.rows["all"] == len(rows) > report.rows["ok"] == len(usable) > 0
    assert [source.name for source in report.sources] == ["sharegpt", "conversations"]
    for source in report.sources:
        own = [row for row in usable if row["source"] == source.name]
        assert source.rows == sum(row["source"] == source.name for row in rows)
        assert source.usable == len(own) > 0
        assert source.num_tokens == sum(row["num_tokens"] for row in own)
        assert source.num_visual_tokens == sum(row["num_visual_tokens"] for row in own)
        assert source.num_label_tokens == sum(row["num_label_tokens"] for row in own)
        assert source.num_images == sum(row["num_images"] for row in own)
    text, media = report.token_lengths["text_only"], report.token_lengths["with_media"]
    assert text.edges == media.edges
    assert_counts(text, [row["num_tokens"] for row in usable if not row["num_images"]])
    assert_counts(media, [row["num_tokens"] for row in usable if row["num_images"]])


def test_a_plan_report_agrees_with_the_plan(packed_demo: PackedDemo) -> None:
    report = inspect_output(packed_demo.plan)
    assert isinstance(report, PlanReport)
    statistics = report.summary["statistics"]
    assert report.spread.tokens_per_pack.num_values == statistics["num_packs"] > 0
    assert report.spread.visual_tokens_per_pack.greatest == statistics["visual_tokens_per_pack"]["max"]
    assert report.spread.cost_per_pack is None
    (overlong,) = report.refused
    assert (overlong["code"], overlong["rows"] > 0) == ("overlong", True)
    assert "tokens after the shift" in overlong["example"]["reason"]


def test_a_pack_set_report_agrees_with_its_index_and_account(packed_demo: PackedDemo) -> None:
    report = inspect_output(packed_demo.packset)
    assert isinstance(report, PackSetReport)
    index = map_index(packed_demo.packset / "packs.arrow")
    assert_counts(report.spread.visual_tokens_per_pack, index.num_visual_tokens.tolist())
    assert_counts(report.spread.tokens_per_pack, index.num_tokens.tolist())
    assert_counts(report.spread.samples_per_pack, index.num_samples.tolist())
    assert report.fill == pytest.approx(index.num_tokens.sum() / (len(index) * 384))
    assert report.num_bytes == sum(path.stat().st_size for path in packed_demo.packset.glob("shards/*.tar"))
    assert [pack.pack_id for pack in report.spread.emptiest] == np.argsort(index.num_tokens, kind="stable")[:5].tolist()
    assert [pack.pack_id for pack in report.spread.largest] == np.argsort(-index.cost, kind="stable")[:5].tolist()
    first = report.spread.largest[0]
    assert (first.num_tokens, first.cost) == (index.num_tokens[first.pack_id], index.cost[first.pack_id])


def test_refusals_of_every_stage_are_counted_with_an_example(packed_demo: PackedDemo) -> None:
    report = inspect_output(packed_demo.packset)
    assert isinstance(report, PackSetReport)
    rows = [row for row in pq.read_table(packed_demo.packset / "samples.parquet").to_pylist() if row["reason"]]
    counts = Counter(row["reason_code"] for row in rows)
    assert {entry["code"]: entry["rows"] for entry in report.refused} == counts
    assert {"not-json", "overlong", "undecodable-media"} <= set(counts), "while counting, planning and packing"
    for entry in report.refused:
        example = next(row for row in rows if row["reason_code"] == entry["code"])
        assert entry["example"] == {name: example[name] for name in ("source", "row", "reason")}
    assert [entry["rows"] for entry in report.refused] == sorted(counts.values(), reverse=True)


def test_refusals_are_found_across_row_groups(packed_demo: PackedDemo, tmp_path: Path) -> None:
    from vlmprep.pipeline.inspect.packset import refusals_of

    path = packed_demo.packset / "samples.parquet"
    pq.write_table(pq.read_table(path), tmp_path / "small.parquet", row_group_size=3)
    assert pq.ParquetFile(tmp_path / "small.parquet").num_row_groups > 5
    assert refusals_of(tmp_path / "small.parquet") == refusals_of(path)


def test_fake_images_are_counted(packed_text: PackedDemo, packed_demo: PackedDemo) -> None:
    texts, images = inspect_output(packed_text.packset), inspect_output(packed_demo.packset)
    assert isinstance(texts, PackSetReport)
    assert isinstance(images, PackSetReport)
    assert texts.num_fake_images == texts.manifest.num_packs > 0
    with_images = map_index(packed_demo.packset / "packs.arrow").num_images > 0
    assert images.num_fake_images == np.count_nonzero(~with_images)


class TestUnfinished:
    """What a run that was stopped leaves behind."""

    @pytest.fixture
    def packset(self, packed_demo: PackedDemo, tmp_path: Path) -> Path:
        return Path(shutil.copytree(packed_demo.packset, tmp_path / "a set"))

    @staticmethod
    def stages(path: Path) -> dict[str, tuple[bool, str]]:
        report = inspect_output(path)
        assert isinstance(report, UnfinishedReport)
        return {stage.name: (stage.finished, stage.done) for stage in report.stages}

    @staticmethod
    def command(path: Path) -> str:
        report = inspect_output(path)
        assert isinstance(report, UnfinishedReport)
        return report.command

    def test_shards_are_counted_where_they_are_committed(self, packset: Path) -> None:
        (packset / "manifest.json").unlink()
        receipts = sorted((packset / "receipts").iterdir())
        receipts[-1].unlink()
        (packset / "shards/000000.tar").unlink()
        packs = [len(json.loads(path.read_text())["packs"]) for path in receipts[1:-1]]
        stages = self.stages(packset)
        assert list(stages) == ["ledger", "plan", "shards"]
        assert stages["ledger"][0]
        assert stages["plan"][0]
        assert stages["shards"] == (False, f"{sum(packs)} packs in {len(packs)} shards written so far")

    def test_the_command_repeats_what_is_known(self, packset: Path, packed_demo: PackedDemo) -> None:
        (packset / "manifest.json").unlink()
        assert self.command(packset) == (
            f"vlmprep pack SOURCE... --processor {packed_demo.processor} --pack-size 384 --shard-bytes 2097152 "
            f"--out '{packset}'"
        )

    def test_a_run_that_stopped_before_its_plan(self, packset: Path) -> None:
        for name in ("manifest.json", "settings.json"):
            (packset / name).unlink()
        for name in ("plan", "shards", "receipts"):
            shutil.rmtree(packset / name)
        stages = self.stages(packset)
        assert stages["ledger"][0]
        assert stages["plan"] == (False, "not made yet")
        assert stages["shards"] == (False, "none written yet")

    def test_a_ledger_that_stopped_counts_its_rows(self, packset: Path) -> None:
        ledger = packset / "ledger"
        num_rows = ledger_table(ledger).num_rows
        (ledger / "ledger.json").unlink()
        assert self.stages(ledger) == {"ledger": (False, f"{num_rows} rows of 2 sources counted so far")}
        assert self.command(ledger).startswith("vlmprep estimate SOURCE... --processor ")

    def test_a_plan_that_stopped(self, packset: Path) -> None:
        (packset / "plan/plan.json").unlink()
        assert self.stages(packset / "plan") == {"plan": (False, "not made yet")}
        assert self.command(packset / "plan") == f"vlmprep plan LEDGER --out '{packset}/plan'"


def all_views(made: PackedDemo) -> list[PackView]:
    num_packs = len(map_index(made.packset / "packs.arrow"))
    return [view_pack(made.packset, pack_id) for pack_id in range(num_packs)]


def corpus_samples(corpus: Path) -> dict[str, dict[str, Any]]:
    """Every whole sample of the corpus by its id."""
    samples = {}
    for line in (corpus / "sharegpt.jsonl").read_bytes().splitlines():
        try:
            sample = json.loads(line)
        except ValueError:
            continue
        samples[sample["id"]] = sample
    for sample in json.loads((corpus / "conversations.json").read_text()):
        names = {"system": "system", "human": "user", "gpt": "assistant"}
        messages = [{"role": names[turn["from"]], "content": turn["value"]} for turn in sample["conversations"]]
        samples[sample["id"]] = {"messages": messages, "images": sample["image"]}
    return samples


def text_of(spans: Sequence[Span], *, trained: bool) -> str:
    return "".join(span.text for span in spans if span.trained == trained)


def test_what_is_shown_as_trained_on_is_what_the_corpus_has_the_assistant_say(packed_demo: PackedDemo) -> None:
    samples = corpus_samples(packed_demo.corpus)
    seen = 0
    for view in all_views(packed_demo):
        assert view.note == ""
        for document in view.documents:
            if document.sample is None:
                continue
            messages = samples[document.sample.sample_id]["messages"]
            answers = [f"{turn['content']}<|im_end|>" for turn in messages if turn["role"] == "assistant"]
            assert text_of(document.spans, trained=True) == "".join(answers)
            for turn in messages:
                if turn["role"] != "assistant":
                    question = turn["content"].replace("<image>", "").strip()
                    assert question in text_of(document.spans, trained=False)
            seen += 1
    assert seen == pq.read_table(packed_demo.packset / "samples.parquet")["document"].drop_null().length() > 20


def test_media_are_shown_with_their_upright_sizes_and_tokens(packed_demo: PackedDemo) -> None:
    samples = corpus_samples(packed_demo.corpus)
    seen = 0
    for view in all_views(packed_demo):
        for document in view.documents:
            assert document.sample is not None
            files = samples[document.sample.sample_id]["images"]
            sizes = [ImageOps.exif_transpose(Image.open(packed_demo.corpus / name)).size for name in files]
            assert [medium.shape for medium in document.media] == [(height, width) for width, height in sizes]
            shown = [span.text for span in document.spans if span.role == "media"]
            assert shown == [
                f"<image {width}x{height}, {medium.num_tokens} tokens>"
                for (width, height), medium in zip(sizes, document.media, strict=True)
            ]
            seen += len(files)
        media = [medium for document in view.documents for medium in document.media]
        assert sum(medium.num_tokens for medium in media) == view.num_visual_tokens
        assert sum(document.num_tokens for document in view.documents) == view.num_tokens
        assert sum(document.num_label_tokens for document in view.documents) == view.num_label_tokens > 0
    assert seen > 20


def test_the_fake_image_stands_last_and_is_called_so(packed_text: PackedDemo) -> None:
    for view in all_views(packed_text):
        *documents, fake = view.documents
        assert [document.number for document in documents] == list(range(1, len(documents) + 1))
        assert (fake.number, fake.sample, fake.num_label_tokens) == (0, None, 0)
        assert fake.spans[-1].text == "<fake image 56x56, 4 tokens>"
        assert not any(document.media for document in documents)


def test_control_tokens_stand_apart(packed_demo: PackedDemo) -> None:
    spans = [span for document in view_pack(packed_demo.packset, 0).documents for span in document.spans]
    control = {span.text for span in spans if span.role == "control"}
    assert {"<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"} <= control
    assert not any("<|im_" in span.text for span in spans if span.role == "text")


def test_ids_are_shown_where_the_processor_is_not_to_be_had(packed_demo: PackedDemo) -> None:
    view = view_pack(packed_demo.packset, 0, str(packed_demo.processor / "gone"))
    assert "cannot be loaded" in view.note
    _, fields = read_pack(packed_demo.packset, map_index(packed_demo.packset / "packs.arrow"), 0)
    for document in view.documents:
        here = fields["attention_mask"] == document.number
        is_text = fields["mm_token_type_ids"][here] == 0
        assert {span.role for span in document.spans} <= {"ids", "media"}
        shown = [span for span in document.spans if span.role == "ids"]
        assert ids_of(shown) == fields["input_ids"][here][is_text].tolist()
        labels = fields["labels"][here]
        assert ids_of([span for span in shown if span.trained]) == labels[labels != -100].tolist() != []


def test_the_token_that_the_shift_dropped_is_shown_where_it_is_trained_on(packed_demo: PackedDemo) -> None:
    info, fields = read_pack(packed_demo.packset, map_index(packed_demo.packset / "packs.arrow"), 0)
    last = info.document_lengths[0] - 1
    before = next(documents_of(info, fields, None))
    labels = fields["labels"].copy()
    labels[last] = 77
    after = next(documents_of(info, {**fields, "labels": labels}, None))
    assert ids_of(after.spans) == [*ids_of(before.spans), 77]
    assert after.num_label_tokens == before.num_label_tokens + 1
    assert after.num_tokens == before.num_tokens


def ids_of(spans: Sequence[Span]) -> list[int]:
    return [int(number) for span in spans if span.role == "ids" for number in span.text.split()]


def test_a_pack_set_without_its_ledger_still_knows_its_processor(packed_demo: PackedDemo, tmp_path: Path) -> None:
    packset = Path(shutil.copytree(packed_demo.packset, tmp_path / "packset", ignore=shutil.ignore_patterns("ledger")))
    own = view_pack(packset, 0)
    assert own.note == ""
    assert any(span.role == "text" and span.trained for document in own.documents for span in document.spans)
    named = view_pack(packset, 0, str(packed_demo.processor))
    assert named.note == ""
    assert named.documents == view_pack(packed_demo.packset, 0).documents


def test_another_tokenizer_is_noticed(packed_demo: PackedDemo, tmp_path: Path) -> None:
    other = Path(shutil.copytree(packed_demo.processor, tmp_path / "other"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "is not the one that made this pack set" in view_pack(packed_demo.packset, 0, str(other)).note


def test_packs_that_cannot_be_shown_say_why(packed_demo: PackedDemo, tmp_path: Path) -> None:
    num_packs = len(map_index(packed_demo.packset / "packs.arrow"))
    with pytest.raises(StopRun, match=f"has packs 0 to {num_packs - 1}"):
        view_pack(packed_demo.packset, num_packs)
    with pytest.raises(StopRun, match="is a plan"):
        view_pack(packed_demo.plan, 0)
    packset = Path(shutil.copytree(packed_demo.packset, tmp_path / "packset"))
    data = bytearray((packset / "shards/000000.tar").read_bytes())
    data[700] ^= 1
    (packset / "shards/000000.tar").write_bytes(data)
    with pytest.raises(BrokenPack, match="pack 000000000: its bytes have digest"):
        view_pack(packset, 0)
    (packset / "shards/000000.tar").unlink()
    with pytest.raises(BrokenPack, match="the shard cannot be read"):
        view_pack(packset, 0)
