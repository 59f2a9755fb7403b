"""Every family, from files on disk to packs: each document is what the model's own processor makes of its row alone.

Sequences, labels and media, to the bit, as a reader restores them; for images, clips and sounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlmprep
from tests.conftest import FamilyProcessorDir
from tests.every_family.alone import conversation_of, run_alone
from tests.every_family.corpus import write_corpus
from tests.every_family.packed import Document, documents_of, rows_of
from tests.families.processors import FAMILY_NAMES, FamilyName
from tests.runs import run, write_jsonl
from vlmprep.engines.local import LocalEngine
from vlmprep.families.loading import load_family
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.pipeline.verify.run import verify
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.packset import IGNORE_INDEX
from vlmprep.schema.progress import Silent

TEXT = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}


@dataclass(frozen=True)
class Made:
    """A pack set, what made it and what it was made of."""

    name: FamilyName
    processor: Any
    processor_folder: Path
    folder: Path
    """Of the corpus."""
    packset: Path
    rows: list[dict[str, Any]]
    packs: Any
    kinds: frozenset[str]


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def made(
    request: pytest.FixtureRequest, family_processor_dir: FamilyProcessorDir, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    folder = family_processor_dir(request.param, small_tiles=request.param == "smolvlm")  # Idefics3's are as published
    family: Any = load_family(FamilySettings(processor=str(folder)))
    root = tmp_path_factory.mktemp(request.param)
    source = write_corpus(root / "corpus", family.kinds, sounds_beside_images=request.param == "phi4_multimodal")
    run(source, folder, root / "set", planning=PlanSettings(pack_size=16_384), max_refused=0.0)
    return Made(
        name=request.param,
        processor=family.processor,
        processor_folder=folder,
        folder=root / "corpus",
        packset=root / "set",
        rows=rows_of(source),
        packs=vlmprep.open(root / "set"),
        kinds=family.kinds,
    )


def test_every_document_is_what_the_processor_makes_of_its_row(made: Made) -> None:
    seen: set[int] = set()
    kinds: set[str] = set()
    for document in documents_of(made.packs):
        if document.row is None:
            continue
        row = made.rows[document.row]
        truth = run_alone(made.processor, row, made.folder)
        assert_same_sequence(document, truth)
        assert_same_media(document, {name: value for name, value in truth.items() if name not in TEXT}, row["id"])
        seen.add(document.row)
        kinds.update(document.media_kinds)
    assert seen == set(range(len(made.rows)))
    assert kinds == set(made.kinds)


def assert_same_sequence(document: Document, truth: dict[str, Any]) -> None:
    ids = truth["input_ids"][0].numpy()
    assert document.sequence["input_ids"].tolist() == ids[:-1].tolist()
    if "mm_token_type_ids" in truth:
        types = np.asarray(truth["mm_token_type_ids"][0])
        assert document.sequence["mm_token_type_ids"].tolist() == types[:-1].tolist()
    labels = document.sequence["labels"].numpy()
    learned = labels != IGNORE_INDEX
    assert labels[learned].tolist() == ids[1:][learned].tolist()


def assert_same_media(document: Document, truth: dict[str, Any], name: str) -> None:
    wanted = {field: value for field, value in truth.items() if value is not None and len(value)}
    assert document.media.keys() == wanted.keys(), name
    for field, value in wanted.items():
        expected, found = torch.as_tensor(value), document.media[field]
        assert found.shape == expected.shape, (name, field, found.shape, expected.shape)
        assert found.dtype == expected.dtype, (name, field, found.dtype, expected.dtype)
        assert torch.equal(found, expected), (name, field)


def test_labels_are_what_the_assistant_says(made: Made) -> None:
    """Each learned run, decoded, is an answer and its end of turn; white space of the turn's head may share a token with it."""
    checked = 0
    for document in documents_of(made.packs):
        if document.row is None:
            continue
        labels = document.sequence["labels"].numpy()
        said = [turn["content"] for turn in conversation_of(made.rows[document.row]) if turn["role"] == "assistant"]
        runs = np.split(labels, np.flatnonzero(np.diff(labels != IGNORE_INDEX)) + 1)
        learned = [made.processor.tokenizer.decode(run) for run in runs if run[0] != IGNORE_INDEX]
        assert len(learned) == len(said)
        for text, (part,) in zip(learned, said, strict=True):
            answer = part["text"].strip()
            assert text.strip().startswith(answer)
            assert text.strip()[len(answer) :] in made.processor.tokenizer.all_special_tokens
            checked += 1
    assert checked > len(made.rows)


def test_positions_restart_and_where_there_is_one_axis_count_up(made: Made) -> None:
    for document in documents_of(made.packs):
        positions = document.sequence["position_ids"]
        assert positions[..., 0].tolist() in (0, [0, 0, 0])
        if positions.ndim == 1:
            assert positions.tolist() == list(range(len(positions)))
        else:
            assert (positions >= 0).all()


def test_the_pack_set_passes_its_own_verification(made: Made) -> None:
    report = verify(made.packset, LocalEngine(0), Silent())
    assert report.problems == ()


def test_text_only_packs_hold_the_smallest_image(made: Made, tmp_path: Path) -> None:
    rows = [row for row in made.rows if not row.keys() & {"images", "videos", "audios"}]
    source = write_jsonl(tmp_path / "text.jsonl", rows)
    run(source, made.processor_folder, tmp_path / "set", planning=PlanSettings(pack_size=16_384), max_refused=0.0)
    packs = vlmprep.open(tmp_path / "set")
    documents, said = list(documents_of(packs)), packs.info(0).fake
    (fake,) = [document for document in documents if document.row is None]
    assert len(documents) == len(rows) + 1
    assert fake.media_kinds == ("image",)
    assert (fake.sequence["labels"] == IGNORE_INDEX).all()
    assert (fake.sequence["attention_mask"] == 0).all()
    assert said is not None
    image = Image.new("RGB", (said.width, said.height), (255, 255, 255))
    white = made.processor.image_processor([image], return_tensors="pt")
    assert white.keys() & fake.media.keys()
    for field in white.keys() & fake.media.keys():
        assert torch.equal(fake.media[field], torch.as_tensor(white[field])), field
    assert verify(tmp_path / "set", LocalEngine(0), Silent()).problems == ()
