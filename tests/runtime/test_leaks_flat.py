"""Documents laid end to end, `flat` and `thd`: each gives what it gives alone, and what cannot be offered is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.documents import fake_document
from tests.leaks import RECURRENT, TOLERANCE, Placed, Setup, kernels, run, worst_difference
from tests.models import FAMILIES, AnyFamily
from tests.varlen import Spans, run_varlen, spans_of_flat, spans_of_thd
from vlmprep.runtime import Batch

CAUSAL = [family for family in FAMILIES if family not in (*RECURRENT, "gemma4_bidirectional")]
WITHOUT_WINDOWS = [family for family in CAUSAL if family not in ("gemma4", "step3p7", "phi4_multimodal")]
"""Families whose text layers need nothing but sequences from attention."""


def placed(setup: Setup, spans: Spans, width: int) -> list[Placed]:
    """Where the documents are, by the batch's own word."""
    documents = [document for pack in setup.split for document in pack]
    assert [stop - start for start, stop in spans][: len(documents)] == [len(document) for document in documents]
    return [
        Placed(row=start // width, place=slice(start % width, start % width + stop - start), document=document)
        for (start, stop), document in zip(spans, documents, strict=False)
    ]


def worst(setup: Setup, logits: Tensor, spans: Spans) -> float:
    """The largest |dlogit| to the documents alone."""
    found = placed(setup, spans, logits.shape[1])
    assert len(found) == len(setup.alone.logits) == 4
    return max(
        (logits[each.row, each.place] - alone).abs().max().item()
        for each, alone in zip(found, setup.alone.logits, strict=True)
    )


def for_transformers(batch: Batch) -> dict[str, Any]:
    """Without what its vision encoders would take for their own."""
    return {name: value for name, value in batch.items() if name not in ("cu_seqlens", "max_seqlen")}


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*CAUSAL, *RECURRENT])
def test_flat_rows_are_taken_by_transformers(family: AnyFamily, backend: str, tmp_path: Path) -> None:
    setup = Setup(family=family, collate="flat", backend=backend)
    batch = setup.batch(tmp_path / "set", setup.split)
    assert batch["input_ids"].shape == (1, sum(map(len, setup.documents)))
    with torch.no_grad(), kernels(installed=family in RECURRENT) as told:
        logits, loss = run(setup.model, for_transformers(batch))
    assert worst_difference(setup, logits) < TOLERANCE
    assert worst(setup, logits, spans_of_flat(batch)) < TOLERANCE
    assert loss.item() == pytest.approx(setup.alone.loss, abs=1e-5)
    assert bool(told) == (family in RECURRENT)


@pytest.mark.parametrize("family", WITHOUT_WINDOWS)
def test_flat_tells_varlen_attention_where_documents_are(family: AnyFamily, tmp_path: Path) -> None:
    setup = Setup(family=family, collate="flat", backend="sdpa")
    batch = setup.batch(tmp_path / "set", setup.split, max_length=150)
    spans = spans_of_flat(batch)
    with torch.no_grad():
        logits = run_varlen(setup.model, batch, spans)
        mixed = run_varlen(setup.model, batch, [(0, 150)])
    assert worst(setup, logits, spans) < TOLERANCE
    assert worst(setup, mixed, spans) > 0.1


@pytest.mark.parametrize("alignment", [1, 8])
@pytest.mark.parametrize("family", WITHOUT_WINDOWS)
def test_thd_rows_hold_what_transformer_engine_needs(family: AnyFamily, alignment: int, tmp_path: Path) -> None:
    setup = Setup(family=family, collate="thd", backend="sdpa")
    fake = fake_document(setup.model)
    batch = setup.batch(
        tmp_path / "set", setup.split, fake, changes={"settings": {"document_alignment": alignment}}, max_length=120
    )
    spans = spans_of_thd(batch)
    assert all(start % alignment == 0 for start, _ in spans)
    documents = [*setup.split[0], fake, *setup.split[1], fake]
    assert [stop - start for start, stop in spans] == [len(document) for document in documents]
    real = [spans[0], spans[1], spans[3], spans[4]]
    with torch.no_grad():
        logits = run_varlen(setup.model, batch, spans)
        shifted = run_varlen(setup.model, batch, [(max(start - 3, 0), stop) for start, stop in spans])
    assert torch.isfinite(logits).all()
    assert worst(setup, logits, real) < TOLERANCE
    assert worst(setup, shifted, real) > 0.1


def test_transformers_gives_cu_seqlens_to_its_vision_encoder(tmp_path: Path) -> None:
    setup = Setup(family="qwen2_5_vl", collate="flat", backend="sdpa")
    with torch.no_grad(), pytest.raises(RuntimeError, match="sum exactly"):
        run(setup.model, setup.batch(tmp_path / "set", setup.split))


def test_changing_a_document_moves_no_other(tmp_path: Path) -> None:
    setup = Setup(family="qwen2_5_vl", collate="flat", backend="sdpa")
    first, *others = setup.documents
    batches = [
        setup.batch(tmp_path / str(number), [[document], others])
        for number, document in enumerate((first, first.changed(2, 17)))
    ]
    with torch.no_grad():
        before, after = (run(setup.model, for_transformers(batch))[0][0] for batch in batches)
    assert (before - after)[: len(first)].abs().max() > 0.01
    assert torch.equal(before[len(first) :], after[len(first) :])


@pytest.mark.parametrize(
    ("family", "collate", "options", "message"),
    [
        ("gemma4_bidirectional", "flat", {}, "see themselves whole"),
        ("gemma4_bidirectional", "thd", {}, "see themselves whole"),
        ("gemma4", "flat", {"model_config": None}, "use_bidirectional_attention: give the model's config"),
        ("gemma4", "thd", {"model_config": None}, "use_bidirectional_attention: give the model's config"),
        ("qwen3_5", "thd", {}, "layers that carry a state"),
        ("nemotron_h_omni", "thd", {}, "layers that carry a state"),
    ],
)
def test_what_lengths_do_not_say_is_refused(
    family: AnyFamily, collate: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    setup = Setup(family=family, collate=collate, backend="sdpa")
    with pytest.raises(ValueError, match=message):
        setup.batch(tmp_path / "set", setup.split, **options)
