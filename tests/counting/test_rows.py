"""Ledger records of whole rows: exact for every usable row, a reason for every other, and never an error."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.truth import BACKENDS, FAMILIES, full_run, make_family, scanned_labels
from tests.sources.pictures import encode, exif_app1, jpeg, picture, png, tiff_block
from vlmprep.counting.rows import count_rows, media_state
from vlmprep.demo.damage import DAMAGE
from vlmprep.schema.conversation import Sample
from vlmprep.schema.ledger import LEDGER, OK, REFUSED
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.media import MediaReader
from vlmprep.sources.rows import RawRow, rows_of, scan_chunks
from vlmprep.sources.spec import SourceSpec, find_sources

SMALL = 60_000
TRUNCATED = "damaged-truncated-image"
"""Its header is whole, so it is found when it is packed."""

CUTS = {"first_label", "media", "first_label_with_fake", "media_with_fake"}
"""Columns that say where long samples may be cut."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def count(raw: RawRow[bytes], reader: RowReader, family: Any) -> dict[str, Any]:
    (record,) = count_all([raw], reader, family)
    return record


def count_all(raws: list[RawRow[bytes]], reader: RowReader, family: Any) -> list[dict[str, Any]]:
    records = count_rows(reader.spec.name, raws, rows=reader, media=MediaReader(), family=family)
    table = pa.Table.from_pylist(records, schema=LEDGER)  # what cannot be written is no record
    assert table.num_rows == len(raws)
    return records


def raw_rows(spec: SourceSpec) -> list[RawRow[bytes]]:
    return [row for chunk in scan_chunks(spec.path) for row in rows_of(spec.path, chunk)]


def assert_as_the_processor_has_it(record: dict[str, Any], sample: Sample, family: Any) -> None:
    truth = full_run(family, sample)
    ids = truth["input_ids"].astype(np.int32)
    assert record["num_tokens"] == len(ids)
    assert record["num_visual_tokens"] == (truth["mm_token_type_ids"] == 1).sum()
    assert record["num_label_tokens"] == scanned_labels(family, ids).sum()
    assert record["num_images"] == len(truth.get("image_grid_thw", ()))
    assert record["num_patches"] == len(truth.get("pixel_values", ()))
    assert (record["num_videos"], record["num_audios"]) == (0, 0)
    assert record["media_bytes"] == sum(Path(str(medium.location)).stat().st_size for medium in sample.media())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_row_of_a_corpus_is_counted_as_the_processor_has_it_or_refused(name, backend, processor_dir, demo_corpus):
    family = make_family(processor_dir, name, backend, SMALL)
    compares_all = (
        backend == "torchvision" and name != "qwen2_vl"
    )  # which has Qwen2.5-VL's template and image processor
    refused: Counter[str] = Counter()
    compared = 0
    for spec in find_sources([str(demo_corpus / "meta.json")]):
        reader = RowReader(spec=spec)
        for raw in raw_rows(spec):
            record = count(raw, reader, family)
            if record["status"] == REFUSED:
                refused[record["sample_id"]] += 1
            elif (raw.row % 3 == 0 or compares_all) and record["sample_id"] != TRUNCATED:
                assert_as_the_processor_has_it(record, reader.sample(raw.row, raw.data), family)
                compared += 1
    assert compared >= (200 if compares_all else 60)
    unreadable = {"damaged-not-json", "damaged-not-utf8"}
    assert set(refused) >= {f"damaged-{kind}" for kind in DAMAGE} - {TRUNCATED} - unreadable
    assert refused.total() == len(DAMAGE) - 1


@pytest.fixture
def reader(tmp_path: Path) -> RowReader:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "sideways.jpg").write_bytes(jpeg(exif_app1(tiff_block(6))))
    (tmp_path / "gif.gif").write_bytes(encode(picture(), "GIF"))
    return RowReader(spec=SourceSpec(name="s", path=str(tmp_path / "s.jsonl"), media_dir=str(tmp_path)))


def row_of(value: Any) -> RawRow[bytes]:
    return RawRow(row=7, offset=123, data=value if isinstance(value, bytes) else json.dumps(value).encode())


USABLE = {
    "id": "mine",
    "messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "<image>What is <image> this?"},
        {"role": "assistant", "content": "A \U0001f600 picture.", "learn": True},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And"}, {"type": "image_url", "image_url": {"url": "gif.gif"}}],
        },
        {"role": "assistant", "content": "\n\nA clip.", "weight": 1},
    ],
    "images": ["a.png", "sideways.jpg"],
}


def test_a_usable_row_is_recorded_in_full(reader, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL)
    raw = row_of(USABLE)
    record = count(raw, reader, family)
    sample = reader.sample(7, raw.data)
    truth = full_run(family, sample)
    filled_at_times = {"reason", "reason_code", "num_tokens_with_fake", *CUTS}
    assert set(record) | filled_at_times == set(LEDGER.names)
    assert (record["source"], record["row"], record["sample_id"], record["status"]) == ("s", 7, "mine", OK)
    assert (record["row_offset"], record["row_bytes"]) == (123, len(raw.data))
    assert record["num_tokens"] == len(truth["input_ids"])
    assert record["num_patches"] == len(truth["pixel_values"])
    assert record["num_images"] == 3
    assert record["media_state"] == media_state(sample, MediaReader()) != 0


def test_a_refused_row_is_recorded_with_its_reason(reader, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL)
    record = count(row_of({**USABLE, "images": ["a.png"]}), reader, family)
    assert (record["status"], record["reason_code"], record["sample_id"]) == (REFUSED, "tag-mismatch", "mine")
    assert "images" in record["reason"]
    assert "num_tokens" not in record
    record = count(row_of(b"{"), reader, family)
    assert (record["reason_code"], record["sample_id"], record["media_state"]) == ("not-json", "7", 0)


def test_a_row_refused_for_its_text_has_no_counts_of_its_media(reader, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL)
    record = count(row_of({**USABLE, "messages": USABLE["messages"][:2]}), reader, family)
    assert record["reason_code"] == "no-label-tokens"
    counts = {name for name in LEDGER.names if name.startswith("num_")} | {"media_bytes", "stored_bytes"}
    assert set(record) == set(LEDGER.names) - counts - CUTS


def test_a_refused_row_remembers_the_state_of_its_media(reader, processor_dir, tmp_path):
    family = make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL)
    value = {**USABLE, "images": ["a.png", "late.png"]}
    missing = count(row_of(value), reader, family)
    (tmp_path / "late.png").write_bytes(b"")
    empty = count(row_of(value), reader, family)
    assert (missing["reason_code"], empty["reason_code"]) == ("missing-media", "empty-media")
    assert len({missing["media_state"], empty["media_state"], 0}) == 3


def test_the_order_of_media_counts_in_their_state(reader):
    one = reader.sample(0, row_of(USABLE).data)
    other = reader.sample(0, row_of({**USABLE, "images": ["sideways.jpg", "a.png"]}).data)
    assert media_state(one, MediaReader()) != media_state(other, MediaReader())


def test_no_rows_have_no_records(reader, processor_dir):
    assert count_all([], reader, make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL)) == []


def test_media_of_other_kinds_are_refused(reader, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL)
    messages = [{"role": "user", "content": "<audio>"}, {"role": "assistant", "content": "A"}]
    record = count(row_of({"messages": messages, "audios": ["a.wav"]}), reader, family)
    assert record["reason_code"] == "unsupported-media"


STRANGE: list[Any] = [
    *[None, True, 0, -1, 1.5, 10**30, float("inf"), [], {}, [[]], [{}], [None]],
    *["", "x", "user", "assistant", "x" * 5_000, "\x00", "\ud800", "a\udfff", "\ue0000\ue001"],
    *["<image>", "<video>", "<|im_end|>", "<|im_", "<|image_pad|>"],
    *["../a", "/etc/hostname", "http://127.0.0.1:9/a", "file://a.png", "nonsense://x", ".", "a.png/b"],
    *["data:image/png;base64,AAAA", "data:"],
    *[{"type": "image"}, {"type": ["image"]}, {"url": "a.png"}],
    *[
        [{"type": "text", "text": "x"}],
        [{"type": "image", "image": "a.png"}],
        [{"type": "image_url", "image_url": {"url": 5}}],
    ],
]


def mutated(value: Any, rng: random.Random) -> Any:
    """The same value with something strange put, lost, doubled or renamed somewhere in it."""
    dice = rng.random()
    if isinstance(value, dict) and value and dice < 0.85:
        key = rng.choice(list(value))
        if dice < 0.65:
            return {**value, key: mutated(value[key], rng)}
        if dice < 0.75:
            return {name: inner for name, inner in value.items() if name != key}
        return {
            rng.choice(["role", "from", "content", "value", "weight", "images", "tools", "x", ""]): value[key],
            **value,
        }
    if isinstance(value, list) and value and dice < 0.85:
        at = rng.randrange(len(value))
        if dice < 0.65:
            return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
        return value[:at] + value[at + 1 :] if dice < 0.75 else [*value, value[at]]
    if isinstance(value, str) and value and dice < 0.4:
        at = rng.randrange(len(value))
        return value[:at] + str(rng.choice(["<image>", "\ud800", "<|im_end|>", "\n", "\x00", ""])) + value[at:]
    return rng.choice(STRANGE)


def respelled(value: Any, rng: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
    return text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("control_text", ["refuse", "keep"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_row_raises_whatever_its_json_says(backend, control_text, reader, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", backend, SMALL, control_text=control_text)
    rng = random.Random(f"{backend}/{control_text}")
    outcomes: Counter[str] = Counter()
    for _ in range(60):
        raws = []
        for _ in range(25):
            value: Any = USABLE
            for _ in range(rng.randint(1, 3)):
                value = mutated(value, rng)
            raws.append(row_of(respelled(value, rng)))
        records = count_all(raws, reader, family)
        assert records == [count(raw, reader, family) for raw in raws]
        assert max(len(record.get("reason") or "") for record in records) < 2_000
        outcomes.update(record.get("reason_code", OK) for record in records)
    assert outcomes[OK] > 100
    assert len(outcomes) > 12


@settings(max_examples=400, derandomize=True)
@given(data=st.data())
def test_no_row_raises_whatever_its_bytes_are(data, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", "torchvision", SMALL)
    spec = SourceSpec(name="s", path="/nowhere/s.jsonl", media_dir="/nowhere")
    row = bytearray(json.dumps(USABLE, ensure_ascii=data.draw(st.booleans())).encode())
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, len(row)))
        row[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    record = count(row_of(bytes(row)), RowReader(spec=spec), family)
    assert record["status"] == REFUSED  # at the latest because no image is there
    assert record["reason"]


ENCODED = [
    png(),
    png(before=b"", depth=1, colour=0),
    jpeg(exif_app1(tiff_block(6))),
    encode(picture(), "GIF"),
    encode(picture(), "WEBP", exif=tiff_block(6)),
    encode(picture(), "TIFF", tiffinfo={274: 6}),
    encode(picture(), "BMP"),
    encode(picture(), "AVIF"),
    encode(picture(), "JPEG2000"),
    encode(picture(), "PPM"),
    encode(picture(), "ICO"),
]


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=500, derandomize=True)
@given(data=st.data())
def test_no_row_raises_whatever_its_image_holds(backend, data, processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", backend, SMALL)
    spec = SourceSpec(name="s", path="/nowhere/s.jsonl", media_dir="/nowhere")
    image = bytearray(data.draw(st.sampled_from(ENCODED)))
    if data.draw(st.integers(0, 3)) == 0:
        image = image[: data.draw(st.integers(0, len(image)))]
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, min(len(image), data.draw(st.sampled_from([40, 400, 100_000])))))
        image[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    messages = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "A"}]
    row = {"messages": messages, "images": ["data:image/any;base64," + base64.b64encode(image).decode()]}
    record = count(row_of(row), RowReader(spec=spec), family)
    assert record["status"] in (OK, REFUSED)
