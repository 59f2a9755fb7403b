"""`--fake-image sample`: every sample without pictures as the model's own processor and the reference's masks make it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers.audio_utils import load_audio

import vlmprep
from tests.conftest import FamilyProcessorDir, ProcessorDir
from tests.every_family.alone import conversation_of, images_of_one, run_alone
from tests.every_family.corpus import write_corpus
from tests.every_family.packed import Document, documents_of, rows_of
from tests.every_family.test_packed_as_alone import TEXT, assert_same_media, assert_same_sequence
from tests.families.processors import FAMILY_NAMES
from tests.runs import chat, count, count_settings, run, write_jsonl
from vlmprep.automodel import fake_image
from vlmprep.automodel.fake_image import inject_fake_image_into_conversation, mask_fake_vision_tokens_single
from vlmprep.engines.local import LocalEngine
from vlmprep.families.base import BaseFamily
from vlmprep.families.loading import load_family
from vlmprep.families.media.sounds import sampling_rate_of
from vlmprep.pipeline.estimate import estimate
from vlmprep.pipeline.inspect.pack import view_pack
from vlmprep.pipeline.plan import make_plan
from vlmprep.pipeline.run import PackedRun
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.pipeline.verify.run import verify
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.packset import IGNORE_INDEX, SAMPLES_FILE
from vlmprep.schema.progress import Silent

PACK_SIZE = 16_384
TALKS = (
    ("\n\nA question behind two newlines?", "Its answer."),
    ("  blanks first", "Yes."),
    ("1 number", "2 numbers."),
)
"""Beginnings that merge with what the template writes in front of them, where no image stands between."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A pack set with a fake image in every sample without pictures, and the same without any."""

    processor: Any
    folder: Path
    """Of the corpus."""
    rows: list[dict[str, Any]]
    done: PackedRun
    packset: Path
    packs: Any
    bare: Any


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def made(
    request: pytest.FixtureRequest, family_processor_dir: FamilyProcessorDir, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    folder = family_processor_dir(request.param)
    family: Any = load_family(FamilySettings(processor=str(folder)))
    root = tmp_path_factory.mktemp(request.param)
    kinds = family.kinds - {"video"} - ({"audio"} if request.param == "phi4_multimodal" else set())
    source = write_corpus(root / "corpus", kinds, num_rows=6)
    with source.open("a") as file:
        for number, (question, answer) in enumerate(TALKS):
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"id": f"talk-{number}", "messages": messages}) + "\n")
    planning = PlanSettings(pack_size=PACK_SIZE, fake_image="sample")
    done = run(source, folder, root / "set", planning=planning, max_refused=0.0)
    without = PlanSettings(pack_size=PACK_SIZE, fake_image="none")
    run(source, folder, root / "bare", planning=without, max_refused=0.0)
    return Made(
        processor=family.processor,
        folder=root / "corpus",
        rows=rows_of(source),
        done=done,
        packset=root / "set",
        packs=vlmprep.open(root / "set"),
        bare=vlmprep.open(root / "bare"),
    )


def test_every_sample_without_pictures_is_the_processors_with_the_references_image_and_mask(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = made.packs.info(0).fake
    assert said.kind == "sample"
    white = Image.new("RGB", (said.width, said.height), (255, 255, 255))
    monkeypatch.setattr(fake_image, "_FAKE_IMAGE", white)
    fake_image._written.clear()
    num_fakes = num_real = 0
    for document in documents_of(made.packs):
        assert document.row is not None
        row = made.rows[document.row]
        if row.get("images"):
            truth = run_alone(made.processor, row, made.folder)
            assert (document.sequence["attention_mask"] != 0).all()
            num_real += 1
        else:
            truth = run_with_fake(made.processor, row, made.folder, white)
            seen = torch.ones_like(truth["input_ids"][0])
            mask_fake_vision_tokens_single({"input_ids": truth["input_ids"][0], "attention_mask": seen}, made.processor)
            shown = document.sequence["attention_mask"] != 0
            assert shown.tolist() == seen.bool()[:-1].tolist()
            assert int((~shown).sum()) == said.length > 0
            num_fakes += 1
        assert_same_sequence(document, truth)
        assert_same_media(document, {name: value for name, value in truth.items() if name not in TEXT}, row["id"])
    fake_image._written.clear()
    assert (num_fakes, num_fakes + num_real) == (made.done.plan.summary["statistics"]["fake_images"], len(made.rows))
    assert min(num_fakes, num_real) >= 2


def test_the_same_tokens_are_learned_as_without_the_image(made: Made) -> None:
    with_image, without = learned_of(made.packs), learned_of(made.bare)
    assert with_image == without
    assert len(without) == len(made.rows)
    assert all(without.values())


def test_counts_are_those_that_were_planned_and_the_set_verifies(made: Made) -> None:
    assert verify(made.packset, LocalEngine(0), Silent()).problems == ()
    index, plan = made.packs.index, made.done.plan
    assert index.num_tokens.tolist() == plan.num_tokens.tolist()
    assert index.num_visual_tokens.tolist() == plan.num_visual_tokens.tolist()
    assert not plan.needs_fake.any()
    assert int(index.num_images.sum()) == sum(len(row.get("images", ())) for row in made.rows)


def test_inspect_shows_the_image_inside_its_document(made: Made) -> None:
    view = view_pack(made.packset, 0)
    texts = [document for document in view.documents if not any(not medium.fake for medium in document.media)]
    assert texts
    for document in texts:
        assert [medium.fake for medium in document.media] == [True]
        assert document.sample is not None
        assert any(span.text.startswith("<fake image ") for span in document.spans)


def run_with_fake(processor: Any, row: dict[str, Any], folder: Path, white: Image.Image) -> dict[str, Any]:
    """Everything that the processor returns for a row with the fake image injected as the reference does it."""
    template = processor.chat_template or processor.tokenizer.chat_template
    conversation = inject_fake_image_into_conversation(conversation_of(row))
    text = processor.apply_chat_template(conversation, chat_template=template, tokenize=False)
    media: dict[str, Any] = {"images": images_of_one(processor, [white])}
    if names := row.get("audios"):
        rate = sampling_rate_of(processor)
        media["audio"] = [load_audio(str(folder / name), rate, backend="soundfile") for name in names]
    return dict(processor(text=[text], return_tensors="pt", **media))


def learned_of(packs: Any) -> dict[int, list[int]]:
    """The labels of every row, in order."""
    return {document.row: learned(document) for document in documents_of(packs) if document.row is not None}


def learned(document: Document) -> list[int]:
    labels = document.sequence["labels"].numpy()
    return np.extract(labels != IGNORE_INDEX, labels).tolist()


@pytest.fixture(scope="module")
def qwen(family_processor_dir: FamilyProcessorDir) -> Path:
    return family_processor_dir("qwen2_5_vl")


def test_a_sample_that_no_longer_fits_is_refused_with_the_number(qwen: Path, tmp_path: Path) -> None:
    rows = [talk("short", "Q", "A"), talk("long", "Q" + " word" * 30, "A")]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    done = run(source, qwen, tmp_path / "all", planning=PlanSettings(pack_size=1024, fake_image="sample"))
    longest = done.plan.num_tokens.max() - min(counts_of(done, "num_tokens_with_fake")) + 1
    done = run(source, qwen, tmp_path / "set", planning=PlanSettings(pack_size=int(longest) - 1, fake_image="sample"))
    (refused,) = done.plan.refused.to_pylist()
    assert refused["reason_code"] == "overlong"
    assert (
        f"{longest} tokens after the shift with the fake image in it, a pack holds {longest - 1}" in refused["reason"]
    )
    bare = run(source, qwen, tmp_path / "bare", planning=PlanSettings(pack_size=int(longest) - 1, fake_image="none"))
    assert bare.plan.refused.num_rows == 0


def test_where_no_user_speaks_the_image_is_a_turn_of_its_own(qwen: Path, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}]
    source = write_jsonl(tmp_path / "rows.jsonl", [{"id": "s", "messages": messages}])
    family: Any = load_family(FamilySettings(processor=str(qwen)))
    processor = family.processor
    text = processor.apply_chat_template(
        inject_fake_image_into_conversation(
            [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        ),
        tokenize=False,
    )
    white = Image.new("RGB", (56, 56), (255, 255, 255))
    truth = processor(text=[text], images=[white], return_tensors="pt")
    run(source, qwen, tmp_path / "set", planning=PlanSettings(fake_image="sample"), max_refused=0.0)
    (document,) = documents_of(vlmprep.open(tmp_path / "set"))
    assert_same_sequence(document, truth)
    assert verify(tmp_path / "set", LocalEngine(0), Silent()).problems == ()


def test_a_document_does_not_begin_with_hidden_tokens(
    qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseFamily, "fake_tokens", lambda _, encoded: np.arange(len(encoded.input_ids)) < 3)
    source = write_jsonl(tmp_path / "rows.jsonl", [talk("a", "Q", "A")])
    run(source, qwen, tmp_path / "set", planning=PlanSettings(fake_image="sample"))
    (row,) = pq.read_table(tmp_path / "set" / SAMPLES_FILE).to_pylist()
    assert (row["status"], row["reason_code"]) == ("refused", "no-fake-image")


def talk(key: str, question: str, answer: str) -> dict[str, Any]:
    """A row without media."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": key, "messages": messages}


def counts_of(done: PackedRun, column: str) -> list[int]:
    return [int(count) for count in done.ledger.read([column])[column].to_pylist()]


def test_a_ledger_without_these_counts_is_not_planned_so(processor_dir: ProcessorDir, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "What?", "That.")])
    planning = PlanSettings(pack_size=512, fake_image="sample")
    without = count(rows, processor_dir(), tmp_path / "without")
    with pytest.raises(StopRun, match="does not say how long samples are with a fake image"):
        make_plan(without, planning, tmp_path / "plan")
    settings = replace(count_settings(processor_dir()), count_with_fake=True)
    counted = estimate([str(rows)], settings, tmp_path / "with", LocalEngine(0), Silent())
    (tokens,) = counted.read(["num_tokens_with_fake"])["num_tokens_with_fake"].to_pylist()
    made = make_plan(counted, planning, tmp_path / "plan")
    assert made.num_tokens.tolist() == [tokens - 1]
    assert tokens > counted.summary["totals"]["num_tokens"]
