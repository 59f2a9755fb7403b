"""Language models: predicted work is what torch counts, to the operation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.families.costs.language_models import VARIANTS, counted, otherwise, variant, with_every_pair, without_rotary
from tests.models import FAMILIES, AnyFamily, tiny_model
from tests.tiny_configs import qwen3_vision
from vlmprep.families.costs.decoders import DECODERS
from vlmprep.families.costs.language import language_terms, text_config
from vlmprep.schema.cost import CostModel
from vlmprep.schema.errors import StopRun

LENGTHS = (7, 64, 150)
"""Tokens: less than a window, a chunk, and neither a multiple of a chunk nor of anything else."""


def model_of(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    if config.model_type == "qwen3_vl_moe_text":  # transformers has no language model of it alone
        from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

        whole: Any = Qwen3VLMoeForConditionalGeneration
        return whole._from_config(
            Qwen3VLMoeConfig(text_config=config.to_dict(), vision_config=qwen3_vision(14)), attn_implementation="eager"
        ).eval()
    auto: Any = AutoModelForCausalLM  # untyped
    return auto.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_predicted_exactly(family: AnyFamily) -> None:
    model = tiny_model(family, attn_implementation="eager")
    cost, text = language_terms(model.config), text_config(model.config)
    for length in LENGTHS:
        found = without_rotary(counted(model, length))
        assert found == with_every_pair(cost, length) + otherwise(text, length), length


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_layer_is_predicted_exactly(name: str) -> None:
    config = variant(VARIANTS[name])
    model, cost = model_of(config), language_terms(config)
    for length in LENGTHS:
        found = without_rotary(counted(model, length))
        assert found == with_every_pair(cost, length) + otherwise(config, length), length


def test_every_decoder_is_tried() -> None:
    of_families = {text_config(tiny_model(family).config).model_type for family in FAMILIES}
    assert {settings["model_type"] for settings in VARIANTS.values()} | of_families == set(DECODERS)


@pytest.mark.parametrize(
    "name", ["llama", "mistral, windows", "qwen2, some windows", "gemma4", "gemma4, keys of others"]
)
@pytest.mark.parametrize("length", [3, 5, 6, 40])
def test_the_pairs_are_those_that_the_model_sees(name: str, length: int) -> None:
    """A query's weights are zero for keys that it does not see."""
    config = variant(VARIANTS[name])
    layers = list(DECODERS[config.model_type](config))
    model = model_of(config).double()
    with torch.no_grad():
        weights = model(input_ids=torch.randint(1, 100, (1, length)), output_attentions=True).attentions
    assert len(weights) == len(layers) > 1
    seen = [int((weight[0, 0] > 0).sum()) for weight in weights]
    cost = language_terms(config)
    expected = cost.per_token * length
    expected += sum(layer.per_token_pair * pairs for layer, pairs in zip(layers, seen, strict=True))
    assert cost.language(np.array([length]))[0] == expected


def test_windows_cost_less_than_whole_documents() -> None:
    cost = language_terms(variant(VARIANTS["mistral, windows"]))
    (window,) = cost.windows
    assert (window.window, cost.per_token_pair) == (5, 0.0)
    whole = replace(cost, windows=(), per_token_pair=window.per_token_pair)
    lengths = np.array([1, 5, 6, 1000])
    assert ((whole.language(lengths) - cost.language(lengths)) > 0).tolist() == [False, False, True, True]


def test_two_documents_cost_less_than_one_of_both() -> None:
    cost = CostModel(per_token=7.0, per_token_pair=2.0)
    together, apart = cost.language(np.array([30])), cost.language(np.array([10, 20]))
    assert together[0] - apart.sum() == 2.0 * 10 * 20


@pytest.mark.parametrize(
    ("model_type", "window"), [("gemma2", 6), ("gemma3_text", 6), ("olmo2", None), ("phi3", None), ("starcoder2", None)]
)
def test_a_model_of_usual_layers_is_predicted_exactly(model_type: str, window: int | None) -> None:
    assert model_type not in DECODERS
    config = variant({"model_type": model_type, "head_dim": 16, "sliding_window": window})
    model, cost = model_of(config), language_terms(config)
    for length in LENGTHS:
        assert without_rotary(counted(model, length)) == with_every_pair(cost, length)


@pytest.mark.parametrize(
    ("model_type", "more", "message"),
    [
        ("mixtral", {"sliding_window": None}, "weights in layers"),
        ("phi3", {"sliding_window": 5}, "layer_types"),
        ("gpt2", {}, "weights in layers"),
        ("llama4_text", {}, "layer of type chunked_attention"),
    ],
)
def test_what_is_not_understood_is_not_guessed(model_type: str, more: dict[str, Any], message: str) -> None:
    config = variant({"model_type": model_type, **more})
    with pytest.raises(StopRun, match=message) as stopped:
        language_terms(config)
    assert "--balance vt" in str(stopped.value)


def test_a_missing_field_is_named() -> None:
    known = variant(VARIANTS["llama"]).to_dict()
    config = SimpleNamespace(**known)  # as the code that comes with a model may have it
    assert language_terms(config) == language_terms(variant(VARIANTS["llama"]))
    del config.intermediate_size
    with pytest.raises(StopRun, match=r"llama .* does not say intermediate_size"):
        language_terms(config)


def test_a_model_whose_tokens_all_see_each_other_is_not_predicted() -> None:
    config = variant({**VARIANTS["gemma4"], "use_bidirectional_attention": "all"})
    with pytest.raises(StopRun, match="use_bidirectional_attention"):
        language_terms(config)
