"""Tokens hidden inside a document, as a fake image in a user's turn has them: nobody sees them, and hf refuses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.documents import Document, alone_inputs, lay_pack, rules_of
from tests.leaks import RECURRENT, TOLERANCE, Alone, alone, manifest_name, run
from tests.models import FAMILIES, AnyFamily
from vlmprep.runtime.collate import Pack, documents, hf, neat
from vlmprep.runtime.forms import form_of
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.pixels import PixelRule

WAYS = [
    (family, collate)
    for family in FAMILIES
    for collate in ("neat", "documents")
    if not (collate == "neat" and family in RECURRENT)
]
HIDDEN, SEEN = 0, 3
"""Documents of tests.leaks.IMAGES: one whose image is hidden, one whose image is not."""


@pytest.mark.parametrize(("family", "collate"), WAYS)
def test_hidden_tokens_are_seen_by_no_document(family: AnyFamily, collate: str) -> None:
    made = alone(family, "sdpa", "images")
    form = form_of(manifest_name(family), made.model.config)
    pack = with_hidden(made, HIDDEN)
    batch: dict[str, Any] = neat([pack], form=form) if collate == "neat" else documents([pack], form=form)
    restore_all(batch, {name: PixelRule.from_json(rule) for name, rule in rules_of(made.model).items()})
    with torch.no_grad():
        logits, _ = run(made.model, batch)
    first, second = made.documents[HIDDEN], made.documents[SEEN]
    if collate == "documents":
        rows = logits[0, : len(first)], logits[1, : len(second)]
    else:
        rows = logits[0, : len(first)], logits[0, len(first) :]

    shown = torch.from_numpy(first.fields["mm_token_type_ids"] == 0)
    assert 0 < int(shown.sum()) < len(shown)
    expected = masked_alone(made.model, first, shown)
    assert (rows[0][shown] - expected[shown]).abs().max() <= TOLERANCE
    assert (made.logits[HIDDEN][shown] - expected[shown]).abs().max() > 0.01, "the image would be seen"
    assert (rows[1] - made.logits[SEEN]).abs().max() <= TOLERANCE


def test_packs_without_a_mask_refuse_hidden_tokens() -> None:
    made = alone("qwen2_5_vl", "sdpa", "images")
    with pytest.raises(ValueError, match="--fake-image sample"):
        hf([with_hidden(made, HIDDEN)])


def with_hidden(made: Alone, hidden: int) -> Pack:
    """Two documents in a pack, the visual tokens of the first hidden."""
    laid = [made.documents[hidden], made.documents[SEEN]]
    fields = dict(lay_pack(laid).fields)
    numbers = fields["attention_mask"].astype(np.int32)
    visual = laid[0].fields["mm_token_type_ids"] != 0
    numbers[: len(visual)][visual] = 0
    return {name: torch.from_numpy(value) for name, value in {**fields, "attention_mask": numbers}.items()}


def masked_alone(model: Any, document: Document, shown: torch.Tensor) -> torch.Tensor:
    """Logits [S, V] of one document with a 2-D mask over its hidden tokens, at the places that it has."""
    inputs = alone_inputs(model, document)
    positions = torch.from_numpy(document.fields["position_ids"]).long()
    inputs["attention_mask"] = shown.long()[None]
    inputs["position_ids"] = positions[None] if positions.ndim == 1 else positions[:, None]
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs, use_cache=False).logits[0]
    return logits
