"""Models that packs mean nothing to, and models whose positions are their own, are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers

from tests.families.other_processors import build_other
from tests.families.processors import FAMILY_NAMES, FamilyName, build_processor
from vlmprep.families.general.family import GeneralFamily
from vlmprep.families.general.models import model_types, refuse_own_positions, refuse_unpackable
from vlmprep.families.loading import load_family
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings

ENCODER_DECODER = "it is an encoder-decoder"
CROSS_ATTENTION = "its text reads media through cross-attention"


NEMOTRON_PARSE = """
from transformers import ProcessorMixin


class NemotronParseProcessor(ProcessorMixin):
    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(self, images=None, text=None, **kwargs):
        made = self.image_processor(images, return_tensors="pt") if images is not None else {}
        return {**made, **(self.tokenizer(text, return_tensors="pt") if text is not None else {})}
"""
"""The published interface: an image processor and a tokenizer, no placeholder for images, code that lies beside the model."""


@pytest.mark.parametrize(
    ("name", "why"), [("florence2", ENCODER_DECODER), ("donut", ENCODER_DECODER), ("mllama", CROSS_ATTENTION)]
)
def test_models_that_packs_mean_nothing_to_are_refused(name, why, tmp_path):
    build_other(name).save_pretrained(tmp_path)
    with pytest.raises(StopRun, match=f"Processor cannot be packed: {why}") as caught:
        load_family(FamilySettings(processor=str(tmp_path)))
    assert "vlmprep.automodel" in caught.value.hint


def test_nemotron_parse_is_refused(tmp_path):
    build_other("donut").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "processor_config.json").read_text())
    config |= {
        "processor_class": "NemotronParseProcessor",
        "auto_map": {"AutoProcessor": "nemotron_parse.NemotronParseProcessor"},
    }
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    (tmp_path / "nemotron_parse.py").write_text(NEMOTRON_PARSE)
    with pytest.raises(StopRun, match=f"NemotronParseProcessor cannot be packed: {ENCODER_DECODER}") as caught:
        load_family(FamilySettings(processor=str(tmp_path), trust_remote_code=True))
    assert "nemotron_parse_collate_fn" in caught.value.hint


def test_a_config_says_that_a_model_of_foreign_code_is_an_encoder_decoder():
    processor = SimpleNamespace()
    refuse_unpackable(processor, transformers.PretrainedConfig())
    with pytest.raises(StopRun, match=ENCODER_DECODER):
        refuse_unpackable(processor, transformers.PretrainedConfig(is_encoder_decoder=True))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_families_are_no_encoder_decoders(name: FamilyName):
    refuse_unpackable(build_processor(name), None)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_positions_on_several_axes_are_refused_the_general_way(name: FamilyName):
    with pytest.raises(StopRun, match="computes positions of its own"):
        refuse_own_positions(build_processor(name), None)


def test_a_config_decides_where_several_models_share_a_processor():
    processor = build_other("pixtral")
    refuse_own_positions(processor, transformers.Mistral3Config())
    with pytest.raises(StopRun, match="get_rope_index"):
        refuse_own_positions(processor, transformers.Qwen2VLConfig())


def test_a_model_that_nothing_is_known_of_is_refused():
    with pytest.raises(StopRun, match="no model for SimpleNamespace") as caught:
        refuse_own_positions(SimpleNamespace(), None)
    assert "--model-config" in caught.value.hint


def test_the_model_that_a_processor_is_named_after_comes_first():
    assert model_types(build_other("llava"))[0] == "llava"
    assert len(model_types(build_other("llava"))) > 1
    assert model_types(build_other("video_llama3")) == ["video_llama_3"]


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_saved_processor_without_a_family_is_loaded_the_general_way(name: str, tmp_path: Path):
    build_other(name).save_pretrained(tmp_path)
    family = load_family(FamilySettings(processor=str(tmp_path)))
    assert isinstance(family, GeneralFamily)
    assert (family.name, family.position_axes) == (name, 1)
