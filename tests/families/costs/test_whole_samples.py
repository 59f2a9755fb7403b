"""From files to operations: what a ledger's counts and a config say of a sample is what torch counts when the model reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tests.every_family.corpus as corpus
from tests.conftest import FamilyProcessorDir
from tests.every_family.alone import run_alone
from tests.every_family.packed import rows_of
from tests.families.costs.flops import count_flops
from tests.families.costs.language_models import otherwise, with_every_pair, without_rotary
from tests.runs import count
from tests.runtime.test_leaks_real_packs import CASES, Case, fitting_model
from vlmprep.families.costs import load_cost_model
from vlmprep.families.costs.language import text_config
from vlmprep.families.loading import load_family
from vlmprep.schema.cost import COST_COUNTS
from vlmprep.schema.family import FamilySettings

EAGER = [replace(case, backend="eager") for case in CASES]
IMAGE_SIZES = ((60, 90), (37, 301), (120, 64))
CLIPS = ((33, 48, 64, 12), (40, 64, 112, 24))
EXACT = 1e-12
"""Sums of floats; torch counts integers."""
OF_SOUNDS = {"gemma4": 0.02, "phi4_multimodal": 0.02, "nemotron_h_omni": 0.002}
"""Their sound encoders have borders that no count tells; a share of an encoder of two layers, and of sounds of two seconds."""


@pytest.mark.parametrize("case", EAGER, ids=lambda case: f"{case.model}-{'-'.join(sorted(case.kinds))}")
def test_a_sample_costs_what_torch_counts(
    case: Case, family_processor_dir: FamilyProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, sizes in (("SOUNDS", case.sounds), ("IMAGE_SIZES", IMAGE_SIZES), ("CLIPS", CLIPS)):
        monkeypatch.setattr(corpus, name, sizes)
    folder = family_processor_dir(case.processor, small_tiles=case.small_tiles)
    source = corpus.write_corpus(tmp_path / "corpus", case.kinds, num_rows=5)
    family: Any = load_family(FamilySettings(processor=str(folder)))
    model = readable(fitting_model(case, family.processor))
    model.config.save_pretrained(tmp_path / "config")
    settings = FamilySettings(processor=str(folder), model_config=str(tmp_path / "config"))
    ledger = count(source, folder, tmp_path / "ledger", model_config=settings.model_config).read(list(COST_COUNTS))
    counts = {name: ledger[name].to_numpy() for name in COST_COUNTS}
    cost = load_cost_model(settings)
    rows, encoders = rows_of(source), cost.encoders(counts)
    assert len(rows) == len(encoders) == 5
    for row, tokens, expected in zip(rows, counts["num_tokens"].tolist(), encoders.tolist(), strict=True):
        truth = run_alone(family.processor, row, tmp_path / "corpus")
        found = without_rotary(count_flops(model, lambda inputs=truth: model(**inputs, use_cache=False)))  # type: ignore[misc]
        beyond = found - with_every_pair(cost, tokens) - otherwise(text_config(model.config), tokens)
        within = OF_SOUNDS.get(case.model, EXACT) if row.get("audios") else EXACT
        assert beyond == pytest.approx(expected, rel=within), row["id"]
        assert (expected > 0) == bool(row.keys() & {"images", "videos", "audios"})


def readable(model: Any) -> Any:
    """A model whose experts are computed one by one, as torch can count them."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model.eval()
