"""Every family: documents of a pack give what they give alone, with every collate and backend that runs on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.documents import fake_document, make_document
from tests.leaks import MEDIA, RECURRENT, TOLERANCE, Setup, kernels, run, take_gradients, worst_difference
from tests.models import FAMILIES, AnyFamily

WAYS = [
    (family, collate, backend)
    for family in FAMILIES
    for collate in ("hf", "neat", "documents")
    for backend in ("sdpa", "eager")
    if not (family in RECURRENT and collate == "neat")
]
OTHER_MEDIA = [
    (family, media, collate)
    for media, families in MEDIA.items()
    for family in families
    for collate in ("hf", "documents")
]


@pytest.mark.parametrize(("family", "collate", "backend"), WAYS)
def test_logits_loss_and_gradients_of_packs_are_those_of_their_documents_alone(
    family: AnyFamily, collate: str, backend: str, tmp_path: Path
) -> None:
    setup = Setup(family=family, collate=collate, backend=backend)
    batch = setup.batch(tmp_path / "set", setup.split)
    packed_states = collate == "hf" and family in RECURRENT
    with kernels(installed=packed_states) as told:
        logits, loss = run(setup.model, batch)
        loss.backward()
    gradients = take_gradients(setup.model)

    assert len(told) == (2 if packed_states else 0)
    assert worst_difference(setup, logits) <= TOLERANCE
    assert batch.num_label_tokens_in_step > 20
    assert loss.item() == pytest.approx(setup.alone.loss, abs=1e-5)
    expected = setup.alone.gradients
    assert gradients.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-4 * largest, name


@pytest.mark.parametrize(("family", "media", "collate"), OTHER_MEDIA)
def test_clips_and_sounds_leak_no_more_than_images(family: AnyFamily, media: str, collate: str, tmp_path: Path) -> None:
    setup = Setup(family=family, collate=collate, backend="sdpa", media=media)
    batch = setup.batch(tmp_path / "set", setup.split)
    with kernels(installed=collate == "hf" and family in RECURRENT):
        logits, _ = run(setup.model, batch)
    assert worst_difference(setup, logits) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_changing_one_document_moves_no_other(family: AnyFamily, tmp_path: Path) -> None:
    setup = Setup(family=family, collate="documents" if family in RECURRENT else "hf", backend="sdpa")
    logits, _ = run(setup.model, setup.batch(tmp_path / "set", [setup.documents]))
    changed = [setup.documents[0].changed(0, 101), *setup.documents[1:]]
    moved, _ = run(setup.model, setup.batch(tmp_path / "changed", [changed]))
    first, *others = setup.places([setup.documents])
    assert (moved[first.row, first.place] - logits[first.row, first.place]).abs().max() > 0.01
    assert len(others) == 3
    for placed in others:
        assert (moved[placed.row, placed.place] - logits[placed.row, placed.place]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fake_image_changes_no_loss_and_reaches_the_vision_encoder(family: AnyFamily, tmp_path: Path) -> None:
    setup = Setup(family=family, collate="documents" if family in RECURRENT else "hf", backend="sdpa")
    texts = [make_document(setup.model, [length], seed=length) for length in (9, 14)]
    logits, loss = run(setup.model, setup.batch(tmp_path / "without", [texts]))
    fake = fake_document(setup.model)
    with_fake, same_loss = run(setup.model, setup.batch(tmp_path / "with", [texts], fake=fake))

    assert same_loss.item() == pytest.approx(loss.item(), abs=1e-6)
    for placed in setup.places([texts]):
        place = (placed.row, placed.place)
        assert (with_fake[place] - logits[place]).abs().max() <= TOLERANCE
    loss.backward()
    assert all(weight.grad is None for weight in vision_weights(setup.model).values())
    same_loss.backward()
    reached = {name: weight.grad for name, weight in vision_weights(setup.model).items() if weight.grad is not None}
    assert reached
    assert all(gradient.isfinite().all() for gradient in reached.values())
    assert all(gradient.abs().max() == 0 for gradient in reached.values()), "no real token sees the fake image"
    take_gradients(setup.model)


def vision_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """Weights of the vision encoder."""
    towers = ("visual.", "vision_tower.", "vision_model.", "image_embed.img_processor.")
    weights = {name: weight for name, weight in model.named_parameters() if any(tower in name for tower in towers)}
    assert weights
    return weights
