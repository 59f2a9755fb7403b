from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.automodel.examples import a_picture, processor
from tests.automodel.published import PUBLISHED, publish
from tests.runs import count
from vlmprep.automodel import datasets as page
from vlmprep.automodel.collate_fns import phi4_mm_collate_fn
from vlmprep.automodel.samples import sample_of_example
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.schema.conversation import Media, Sample, Text
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.named import NAMED, json2token, messages_of
from vlmprep.sources.row_files import open_rows
from vlmprep.sources.spec import find_sources

pytest.importorskip("datasets", reason="the extra `datasets` is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def make(name: str, folder: Path) -> Any:
    return getattr(page, f"make_{name}_dataset")(str(publish(name, folder / name)))


def told(conversation: Any) -> list[tuple[str, list[str]]]:
    """Who says what, media by their type."""
    return [
        (message["role"], [item.get("text", item["type"]) for item in message["content"]]) for message in conversation
    ]


def samples_of_source(argument: str) -> list[Sample]:
    (spec,) = find_sources([argument])
    reader, file = RowReader(spec=spec), open_rows(spec.path)
    return [reader.sample(raw.row, raw.data) for chunk in file.chunks() for raw in file.rows(chunk)]


def test_rdr_rows_are_described(tmp_path: Path):
    first, second = make("rdr", tmp_path)
    assert told(first["conversation"]) == [("user", ["image", "Describe this image."]), ("assistant", ["A red thing."])]
    assert told(second["conversation"])[1] == ("assistant", ["A <image> blue thing."])
    assert np.array_equal(np.asarray(first["conversation"][0]["content"][0]["image"]), np.asarray(a_picture(seed=1)))


def test_cord_receipts_become_tags_in_falling_order(tmp_path: Path):
    first, second = make("cord_v2", tmp_path)
    assert told(first["conversation"]) == [
        ("user", ["image", "Describe this image."]),
        (
            "assistant",
            [
                "<s_total><s_total_price>21</s_total_price></s_total><s_menu><s_price>9</s_price><s_nm>TEA</s_nm><sep/>"
                "<s_price>12</s_price><s_nm>CAKE</s_nm></s_menu>"
            ],
        ),
    ]
    assert told(second["conversation"])[1] == ("assistant", ["free"])


@pytest.mark.parametrize(
    ("value", "sort", "expected"),
    [
        ({"b": 1, "c": 2, "a": None}, True, "<s_c>2</s_c><s_b>1</s_b><s_a>None</s_a>"),
        ({"b": 1, "c": 2}, False, "<s_b>1</s_b><s_c>2</s_c>"),
        ({"z": {"b": 1, "a": 2}, "a": []}, False, "<s_z><s_b>1</s_b><s_a>2</s_a></s_z><s_a></s_a>"),
        ([{"a": "x"}, "y", 3], True, "<s_a>x</s_a><sep/>y<sep/>3"),
        ({"text_sequence": "as it is"}, True, "as it is"),
        ({"text_sequence": "a", "b": "c"}, True, "<s_text_sequence>a</s_text_sequence><s_b>c</s_b>"),
    ],
)
def test_json_becomes_tags(value: Any, sort: bool, expected: str):
    assert json2token(value, sort) == expected


def test_medpix_rows_are_asked(tmp_path: Path):
    (only,) = make("medpix", tmp_path)
    assert told(only["conversation"]) == [("user", ["image", "What is shown?"]), ("assistant", ["Nothing."])]


def test_cv17_sounds_stand_beside_the_conversation(tmp_path: Path):
    (only,) = make("cv17", tmp_path)
    samples, rate = only["audio"]
    assert rate == 48_000
    assert samples.shape == (14_400,)
    assert only["conversation"] == [
        {"role": "user", "content": "<|audio_1|>Transcribe the Turkish audio clip."},
        {"role": "assistant", "content": "Merhaba."},
    ]
    made_by = processor("phi4_multimodal")
    batch = phi4_mm_collate_fn([only], made_by)
    tokenized = PreTokenizedDatasetWrapper([only], made_by, fake_image="none")[0]
    assert batch["audio_input_features"].shape[0] == 1
    assert tokenized["input_ids"][:-1].tolist() == batch["input_ids"][0].tolist()


def test_unimm_turns_share_one_image(tmp_path: Path):
    (only,) = make("unimm_chat", tmp_path)
    assert told(only["conversation"]) == [
        ("user", ["image", "What is it?"]),
        ("assistant", ["A cat."]),
        ("user", ["Where?"]),
        ("assistant", ["Here."]),
    ]


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("What <image> and <IMAGE > now?", ["What", "image", "and", "image", "now?"]),
        ("  ", ["image"]),
        ("<image>", ["image"]),
        ("No picture.", ["No picture."]),
    ],
)
def test_unimm_tags_are_found_in_any_spelling(said: str, parts: list[str]):
    row = {"image": "a.png", "conversation": f'[{{"from": "human", "value": "{said}"}}]'}
    assert told(messages_of("unimm_chat", row)) == [("user", parts)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_functions_and_sources_read_the_same(name: str, tmp_path: Path):
    made = make(name, tmp_path)
    spelled = name.replace("_", "-")
    sources = samples_of_source(f"hub:{spelled}={tmp_path / name}")
    assert len(made) == len(sources) > 0
    for number, sample in enumerate(sources):
        example = sample_of_example(made[number], number)
        assert [message.role for message in example.messages] == [message.role for message in sample.messages]
        for ours, theirs in zip(example.messages, sample.messages, strict=True):
            assert [part for part in ours.parts if isinstance(part, Text)] == [
                part for part in theirs.parts if isinstance(part, Text)
            ]
            assert [part.kind for part in ours.parts if isinstance(part, Media)] == [
                part.kind for part in theirs.parts if isinstance(part, Media)
            ]
    assert any(sample.media() for sample in sources)


def test_named_sources_are_loaded_under_their_public_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    asked: list[tuple[Any, ...]] = []
    load = datasets.load_dataset
    publish("rdr", tmp_path / "rdr")

    def load_dataset(path: str, config: str | None = None, *, split: str) -> Any:
        asked.append((path, config, split))
        return load(str(tmp_path / "rdr"), split="train")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    (spec,) = find_sources(["hub:rdr"])
    (other,) = find_sources(["hub:rdr:validation"])
    page.make_cord_v2_dataset(split="test")
    assert [entry[0] for entry in asked] == ["quintend/rdr-items"] * 2 + ["naver-clova-ix/cord-v2"]
    assert [entry[2] for entry in asked] == ["train", "validation", "test"]
    assert (spec.name, spec.named, other.name) == ("rdr-train", "rdr", "rdr-validation")
    assert {name: NAMED[name].path for name in ("medpix", "cv17", "unimm_chat")} == {
        "medpix": "medpix-dataset/medpix-dataset",
        "cv17": "ysdede/commonvoice_17_tr_fixed",
        "unimm_chat": "Yirany/UniMM-Chat",
    }


def test_named_sources_are_counted_like_any_other(tmp_path: Path, processor_dir: Any):
    publish("rdr", tmp_path / "rdr")
    source: Any = f"hub:rdr={tmp_path / 'rdr'}"
    ledger = count(source, processor_dir(), tmp_path / "ledger")
    table = ledger.read(["status", "num_images", "num_tokens"])
    assert table["status"].to_pylist() == ["ok", "ok"]
    assert table["num_images"].to_pylist() == [1, 1]


def test_rows_of_another_form_are_refused_and_unknown_names_stop(tmp_path: Path):
    broken: list[tuple[str, dict[str, Any], str]] = [
        ("rdr", {"image": "a.png"}, "no column 'text'"),
        ("rdr", {"image": "a.png", "text": 3}, "column 'text' is a number"),
        ("cord_v2", {"image": "a.png", "ground_truth": "{"}, "is not JSON"),
        ("cord_v2", {"image": "a.png", "ground_truth": "{}"}, "expected an object with gt_parse"),
        ("unimm_chat", {"image": "a.png", "conversation": '[{"from": "narrator", "value": "x"}]'}, "turn 0"),
    ]
    for name, row, reason in broken:
        with pytest.raises(RefuseSample, match=reason):
            messages_of(name, row)
    with pytest.raises(StopRun, match=r"(?s)no data set called 'nobody'.*rdr, cord_v2"):
        find_sources(["hub:nobody"])
    with pytest.raises(StopRun, match="cannot be loaded"):
        page.make_rdr_dataset(str(tmp_path / "nothing"))


def test_rows_in_memory_and_saved_folders_are_taken_too(tmp_path: Path):
    import datasets

    rows = [{"image_id": a_picture(), "question": "Q", "answer": "A"}]
    assert told(page.make_medpix_dataset(rows)[0]["conversation"])[1] == ("assistant", ["A"])
    datasets.Dataset.from_list([{"image_id": "a.png", "question": "Q", "answer": "A"}]).save_to_disk(
        str(tmp_path / "saved")
    )
    assert len(page.make_medpix_dataset(str(tmp_path / "saved"))) == 1
    encoded = messages_of("rdr", {"image": "iVBORw0KGgo" + "A" * 57, "text": "A"})
    assert encoded[0]["content"][0]["image"].startswith("data:image/any;base64,iVBOR")
