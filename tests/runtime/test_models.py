"""Documents in a pack, against the same documents alone, in the real model classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import vlmprep
from tests.documents import Document, Recipe, fake_document, lay_pack, make_document
from tests.models import Family, tiny_model
from tests.packsets import PIXEL_RULE, WrittenPack, write_pack_set

TOLERANCE = 1e-5
RECIPES: tuple[Recipe, ...] = ([6, (4, 6), 9], [11], [3, (2, 2), 2, (6, 4), 5], [2, (8, 2), 20])
"""An image, none, two, and one in a long document."""
FORMS = [(collate, backend) for collate in ("hf", "neat") for backend in ("sdpa", "eager")]

pytestmark = [
    pytest.mark.parametrize("family", get_args(Family)),
    pytest.mark.parametrize(("collate", "backend"), FORMS),
]


@pytest.fixture
def model(family: Family, backend: str) -> Any:
    return tiny_model(family, attn_implementation=backend)


@pytest.fixture
def documents(model: Any) -> list[Document]:
    return [make_document(model, recipe, seed=seed) for seed, recipe in enumerate(RECIPES)]


def read_batch(
    root: Path, packs: Sequence[WrittenPack], collate: str, backend: str, max_length: int | None = None
) -> vlmprep.runtime.Batch:
    """All packs as one batch, through a pack set on disk."""
    packs_set = vlmprep.open(write_pack_set(root, packs, compression="zstd"))
    loader = vlmprep.Loader(
        packs_set,
        packs_per_rank=len(packs),
        shuffle=False,
        collate=collate,  # type: ignore[arg-type]
        attn_implementation=backend,
        max_length=max_length,
    )
    [batch] = loader
    return batch


def run(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits [B, S, V] and the mean loss, as the users of either form get them."""
    if "shift_labels" in batch:
        output = model(**batch)
        return output.logits, output.loss
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "_packed_seq_ids")}
    inputs = {name: value for name, value in inputs.items() if not name.endswith("_per_sample")}
    logits = model(**inputs, use_cache=False).logits
    return logits, cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def run_alone(model: Any, document: Document) -> tuple[Tensor, Tensor]:
    """Logits [S, V] and the summed loss of one document: no packing, the model makes its own positions."""
    fields = {name: torch.from_numpy(value) for name, value in document.fields.items()}
    inputs = {name: fields[name][None].long() for name in ("input_ids", "mm_token_type_ids")}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "pixel_values" in fields:
        inputs["image_grid_thw"] = fields["image_grid_thw"]
        inputs["pixel_values"] = processor_pixels(document.fields["pixel_values"])
    logits = model(**inputs, use_cache=False).logits[0]
    return logits, cross_entropy(logits, fields["labels"].long(), reduction="sum")


def processor_pixels(stored: np.ndarray) -> Tensor:
    """Rescaled, normalized and repeated in time by plain float64 arithmetic."""
    mean, std = (np.array(PIXEL_RULE[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    pixels = np.repeat(((stored / 255 - mean) / std)[:, :, None], 2, axis=2)
    return torch.from_numpy(pixels.reshape(len(stored), -1).astype(np.float32))


def rows_of(packs: Sequence[Sequence[Document]]) -> list[tuple[int, slice, Document]]:
    """(row, place in the row, document) of every document."""
    places = []
    for row, documents in enumerate(packs):
        start = 0
        for document in documents:
            places.append((row, slice(start, start + len(document)), document))
            start += len(document)
    return places


def test_logits_and_loss_of_a_pack_are_those_of_its_documents_alone(
    model: Any, documents: list[Document], collate: str, backend: str, tmp_path: Path
) -> None:
    split = [documents[:3], documents[3:]]  # rows of unequal length: the second is padded
    batch = read_batch(tmp_path / "set", [lay_pack(row) for row in split], collate, backend)
    logits, loss = run(model, batch)

    assert logits.isfinite().all()
    losses, labels = 0.0, 0
    for row, place, document in rows_of(split):
        alone, summed = run_alone(model, document)
        torch.testing.assert_close(logits[row, place], alone, rtol=0, atol=TOLERANCE)
        losses, labels = losses + summed.item(), labels + int((document.fields["labels"] != -100).sum())
    assert labels == batch.num_label_tokens_in_step > 20
    assert loss.item() == pytest.approx(losses / labels, abs=TOLERANCE)
    if collate == "hf":
        shares = model(**batch, num_items_in_batch=2 * batch.num_label_tokens_in_step)
        assert shares.loss.item() == pytest.approx(loss.item() / 2, abs=TOLERANCE)


def test_a_fixed_row_length_changes_neither_logits_nor_loss(
    model: Any, documents: list[Document], collate: str, backend: str, tmp_path: Path
) -> None:
    pack = lay_pack(documents)
    size = len(pack.fields["input_ids"])
    logits, loss = run(model, read_batch(tmp_path / "set", [pack], collate, backend))
    padded, padded_loss = run(model, read_batch(tmp_path / "padded", [pack], collate, backend, max_length=size + 13))

    assert padded.shape[1] == size + 13
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[:, :size], logits, rtol=0, atol=TOLERANCE)
    assert padded_loss.item() == pytest.approx(loss.item(), abs=TOLERANCE)


def test_changing_one_document_moves_no_other(
    model: Any, documents: list[Document], collate: str, backend: str, tmp_path: Path
) -> None:
    logits, _ = run(model, read_batch(tmp_path / "set", [lay_pack(documents)], collate, backend))
    for changed, document in enumerate(documents):
        others = [*documents]
        others[changed] = document.changed(0, 101)
        moved, _ = run(model, read_batch(tmp_path / f"{changed}", [lay_pack(others)], collate, backend))
        for number, (_, place, _) in enumerate(rows_of([documents])):
            difference = (moved[0, place] - logits[0, place]).abs().max().item()
            if number == changed:
                assert difference > 0.01, "the change must be seen where it was made"
            else:
                assert difference <= TOLERANCE


def test_a_fake_image_changes_no_loss_and_gives_the_vision_encoder_gradients(
    model: Any, collate: str, backend: str, tmp_path: Path
) -> None:
    texts = [make_document(model, [length], seed=length) for length in (9, 14)]
    without, loss_without = run(model, read_batch(tmp_path / "without", [lay_pack(texts)], collate, backend))
    pack = lay_pack(texts, fake=fake_document(model))
    with_fake, loss = run(model, read_batch(tmp_path / "with", [pack], collate, backend))

    size = sum(len(document) for document in texts)
    assert with_fake.shape[1] > size
    torch.testing.assert_close(with_fake[:, :size], without, rtol=0, atol=TOLERANCE)
    assert loss.item() == pytest.approx(loss_without.item(), abs=TOLERANCE)
    loss_without.backward()
    assert all(weight.grad is None for weight in model.model.visual.parameters())
    loss.backward()
    missing = [name for name, weight in model.model.visual.named_parameters() if weight.grad is None]
    assert not missing
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
