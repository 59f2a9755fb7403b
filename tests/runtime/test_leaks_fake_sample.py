"""Packs of `--fake-image sample` in models: documents give what the model gives for the processor's inputs and the reference's
mask, the image's tokens change nothing but places, and the vision encoder is reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tests.every_family.corpus as corpus
import vlmprep
from tests.conftest import FamilyProcessorDir
from tests.every_family.alone import conversation_of, images_of_one, run_alone
from tests.every_family.packed import documents_of, rows_of
from tests.leaks import TOLERANCE, take_gradients
from tests.runs import run
from tests.runtime.test_leaks_families import vision_weights
from tests.runtime.test_leaks_real_packs import CASES, batches, fitting_model
from vlmprep.automodel.fake_image import inject_fake_image_into_conversation
from vlmprep.families.loading import load_family
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.packset import IGNORE_INDEX

SEQUENCE = ("input_ids", "mm_token_type_ids", "token_type_ids")
WINDOWED = ("gemma4",)
"""Models with layers that see a number of tokens back, hidden ones counted."""
WAYS: list[tuple[str, Literal["neat", "documents"]]] = [
    ("qwen2_5_vl", "neat"),
    ("qwen2_5_vl", "documents"),
    ("gemma4", "neat"),
    ("internvl", "neat"),
    ("internvl", "documents"),
    ("idefics3", "neat"),
]


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "collate"), WAYS)
def test_documents_are_what_the_model_makes_of_them_with_the_references_mask(
    name: str,
    collate: Literal["neat", "documents"],
    backend: str,
    family_processor_dir: FamilyProcessorDir,
    tmp_path: Path,
) -> None:
    case = replace(next(case for case in CASES if case.model == name), backend=backend)
    folder = family_processor_dir(case.processor, small_tiles=case.small_tiles)
    source = corpus.write_corpus(tmp_path / "corpus", frozenset({"image"}), num_rows=6)
    planning = PlanSettings(pack_size=8192, fake_image="sample")
    run(source, folder, tmp_path / "set", planning=planning, max_refused=0.0)
    packs = vlmprep.open(tmp_path / "set")
    family: Any = load_family(FamilySettings(processor=str(folder)))
    model = fitting_model(case, family.processor)
    rows, documents = rows_of(source), {document.row: document for document in documents_of(packs)}

    num_fakes = 0
    for logits, number in batches(packs, model, collate, attn_implementation=backend):
        shown = documents[number].sequence["attention_mask"] != 0
        if rows[number].get("images"):
            with torch.no_grad():
                truth = run_alone(family.processor, rows[number], tmp_path / "corpus")
                expected = model(**truth, use_cache=False).logits[0, :-1]
            assert shown.all()
            assert (logits - expected).abs().max() <= TOLERANCE
            continue
        inputs = with_fake_image(family, rows[number])
        positions = placed(documents[number].sequence["position_ids"])
        expected = run_masked(model, inputs, positions, shown)
        assert 0 < int(shown.sum()) < len(shown)
        assert (logits[shown] - expected[shown]).abs().max() <= TOLERANCE
        seen = run_masked(model, inputs, positions, torch.ones_like(shown))
        assert (seen[shown] - expected[shown]).abs().max() > 0.01, "the image would be seen"
        if name not in WINDOWED:
            text = {"input_ids": inputs["input_ids"][:, shown]}
            without = run_masked(model, text, positions[..., shown], shown[shown])
            assert (logits[shown] - without).abs().max() <= TOLERANCE, "hidden tokens change places alone"
        num_fakes += 1
    assert num_fakes == sum("images" not in row for row in rows) >= 2


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma4", "internvl"])
def test_texts_alone_reach_the_vision_encoder(
    name: str, family_processor_dir: FamilyProcessorDir, tmp_path: Path
) -> None:
    case = next(case for case in CASES if case.model == name)
    folder = family_processor_dir(case.processor, small_tiles=case.small_tiles)
    source = corpus.write_corpus(tmp_path / "corpus", frozenset(), num_rows=3)
    planning = PlanSettings(pack_size=8192, fake_image="sample")
    run(source, folder, tmp_path / "set", planning=planning, max_refused=0.0)
    packs = vlmprep.open(tmp_path / "set")
    family: Any = load_family(FamilySettings(processor=str(folder)))
    model = fitting_model(case, family.processor)
    loader = vlmprep.Loader(packs, packs_per_rank=len(packs), shuffle=False, collate="neat", model_config=model.config)
    [batch] = loader
    learned = batch["labels"] != IGNORE_INDEX
    with torch.enable_grad():
        logits = model(**batch).logits
        torch.nn.functional.cross_entropy(logits[learned], batch["labels"][learned]).backward()
    reached = {name: weight.grad for name, weight in vision_weights(model).items() if weight.grad is not None}
    assert reached
    assert all(gradient.abs().max() == 0 for gradient in reached.values()), "no real token sees the fake image"
    assert any(gradient.abs().max() > 0 for gradient in take_gradients(model).values())


def with_fake_image(family: Any, row: dict[str, Any]) -> dict[str, Tensor]:
    """What the processor makes of a row with the reference's image injected, less the last token."""
    processor, (height, width) = family.processor, family.fake_image_size
    template = processor.chat_template or processor.tokenizer.chat_template
    conversation = inject_fake_image_into_conversation(conversation_of(row))
    text = processor.apply_chat_template(conversation, chat_template=template, tokenize=False)
    white = Image.fromarray(np.full((height, width, 3), 255, dtype=np.uint8))
    made = processor(text=[text], images=images_of_one(processor, [white]), return_tensors="pt")
    return {name: value[:, :-1] if name in SEQUENCE else value for name, value in made.items()}


def placed(positions: Tensor) -> Tensor:
    """Positions with the batch's axis."""
    return (positions[None] if positions.ndim == 1 else positions[:, None]).long()


def run_masked(model: Any, inputs: dict[str, Tensor], positions: Tensor, shown: Tensor) -> Tensor:
    """Logits [S, V] of one document with a 2-D mask, at the places that it has in the pack."""
    masked = {**inputs, "attention_mask": shown.long()[None], "position_ids": positions}
    with torch.no_grad():
        logits: Tensor = model(**masked, use_cache=False).logits[0]
    return logits
