"""From a folder's config.json to a cost model, without the processor beside it and without weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.families.costs.predicted import terms
from tests.models import FAMILIES, AnyFamily, tiny_model
from vlmprep.families.costs import cost_model, load_cost_model
from vlmprep.families.costs.language import language_terms
from vlmprep.schema.cost import COST_COUNTS, CostModel
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_config_says_all_that_the_model_says(family: AnyFamily, tmp_path: Path) -> None:
    config = tiny_model(family).config
    config.save_pretrained(tmp_path)
    found = load_cost_model(FamilySettings(processor=str(tmp_path)))
    assert found == cost_model(config)
    language = language_terms(config).to_json()
    assert found.to_json() == language | terms(config)
    assert found.per_token > 0
    assert found.per_token_pair > 0


def test_fields_that_a_config_does_not_list_are_the_defaults_of_its_class(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "hidden_size": 3584}))
    from transformers import Qwen2_5_VLConfig

    loaded = load_cost_model(FamilySettings(processor=str(tmp_path)))
    made: Any = Qwen2_5_VLConfig(text_config={"hidden_size": 3584})
    assert loaded == cost_model(made) != cost_model(Qwen2_5_VLConfig())


def test_a_named_config_wins_over_the_sibling_and_over_the_settings(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("sibling", "of_settings", "named")]
    made: list[CostModel] = []
    for width, folder in enumerate(folders, start=1):
        folder.mkdir()
        config = {"model_type": "qwen2_vl", "text_config": {"model_type": "qwen2_vl_text", "vocab_size": 1000 * width}}
        (folder / "config.json").write_text(json.dumps(config))
        made.append(load_cost_model(FamilySettings(processor=str(folder))))
    assert len({found.per_token for found in made}) == len(folders)
    sibling, of_settings, named = map(str, folders)
    settings = FamilySettings(processor=sibling, model_config=of_settings)
    assert load_cost_model(settings) == made[1]
    assert load_cost_model(settings, named) == made[2]


def test_a_config_of_another_familys_model_is_refused(tmp_path: Path) -> None:
    tiny_model("qwen2_5_vl").config.save_pretrained(tmp_path)
    settings = FamilySettings(processor=str(tmp_path))
    assert load_cost_model(settings, family="qwen2_5_vl") == load_cost_model(settings, family="model_of_tomorrow")
    with pytest.raises(StopRun, match=r"is of qwen2_5_vl, and the samples were counted for qwen2_vl"):
        load_cost_model(settings, family="qwen2_vl")


def test_models_with_the_same_encoder_share_their_counts(tmp_path: Path) -> None:
    tiny_model("qwen3_vl").config.save_pretrained(tmp_path)
    assert load_cost_model(FamilySettings(processor=str(tmp_path)), family="qwen3_5").per_patch > 0


def test_without_a_config_the_run_stops_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StopRun, match=r"no config\.json.*\n.*--model-config.*--balance vt"):
        load_cost_model(FamilySettings(processor=str(tmp_path)))


def test_a_model_whose_encoders_nobody_wrote_down_is_not_guessed() -> None:
    config = SimpleNamespace(model_type="of_tomorrow", text_config=SimpleNamespace(model_type="llama"))
    with pytest.raises(StopRun, match=r"of_tomorrow.*is not known"):
        cost_model(config)


def test_a_number_that_is_none_is_named() -> None:
    config = tiny_model("qwen2_vl").config.to_dict()
    vision = SimpleNamespace(**config["vision_config"] | {"depth": "many"})
    text = SimpleNamespace(**config["text_config"])
    with pytest.raises(StopRun, match=r"qwen2_vl.* says depth 'many'"):
        cost_model(SimpleNamespace(model_type="qwen2_vl", vision_config=vision, text_config=text))


def test_a_sample_costs_its_language_and_what_its_media_are() -> None:
    config = tiny_model("qwen3_omni_moe").config
    cost = cost_model(config)
    counts = {name: np.zeros(len(COST_COUNTS) + 1, dtype=np.int64) for name in COST_COUNTS}
    for index, name in enumerate(COST_COUNTS):
        counts[name][index] = 3
    each = cost.costs(counts)
    assert each[-1] == 0
    assert each[0] == 3 * cost.per_token + 6 * cost.per_token_pair
    said = cost.to_json()
    singular = {
        name: f"per_{name.removeprefix('num_').removesuffix('s')}".replace("patche", "patch") for name in COST_COUNTS
    }
    singular["num_encoder_patches"] = "per_patch"
    for index, name in enumerate(COST_COUNTS[1:], start=1):
        assert each[index] == 3 * said[singular[name]], name
