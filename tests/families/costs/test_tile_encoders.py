"""Encoders that see tiles of one size: predicted work is what torch counts, to the operation, whole samples at once."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.conftest import FamilyProcessorDir
from tests.families.costs.flops import count_flops
from tests.families.costs.predicted import predicted
from tests.families.processors import FamilyName
from tests.families.tiled import counted, make_tiled, noise, restored, sampled, tensors_of, whole_clip
from tests.models import tiny_model
from vlmprep.families.base import BaseFamily
from vlmprep.families.costs.encoders_tiles import internvl_vision, llava_vision
from vlmprep.schema.errors import StopRun
from vlmprep.schema.media import MediaCount, VideoSize

SIDES: dict[str, Any] = {"internvl": [56, 56], "step3p7": 112}
IMAGES = [[(56, 56)], [(300, 100)], [(300, 100), (20, 30)], [(2, 200)], [(80, 400), (56, 56), (17, 90)]]
"""Heights and widths of the images of some samples."""
CLIP = VideoSize(num_frames=9, frames_per_second=2.5, height=70, width=50, num_bytes=1)


def model_for(family: BaseFamily, **settings: Any) -> Any:
    """A tiny model for the small tiles of a family's processor."""

    def fit(config: Any) -> None:
        config.vision_config.image_size = SIDES.get(family.name, 56)
        if family.name == "llava_onevision":
            config.image_grid_pinpoints = family.processor.image_processor.image_grid_pinpoints
            config.vision_aspect_ratio = family.processor.vision_aspect_ratio
        for name, value in settings.items():
            setattr(config.vision_config if hasattr(config.vision_config, name) else config, name, value)

    return tiny_model(family.name, attn_implementation="eager", fit=fit)  # type: ignore[arg-type]


def encoded(model: Any, get: Any, fields: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Operations that the encoder and projector take for these fields, and how many features they give."""
    known = inspect.signature(get).parameters
    made: list[Any] = []
    given = {name: value for name, value in fields.items() if name in known}
    flops = count_flops(model, lambda: made.append(get(**given, return_dict=True).pooler_output))
    return flops.total, sum(each.reshape(-1, each.shape[-1]).shape[0] for each in made[0])


def images_of(family: BaseFamily, sizes: list[tuple[int, int]]) -> tuple[list[MediaCount], dict[str, torch.Tensor]]:
    """A sample's counts, and its fields as a model gets them."""
    counts = counted(family, sizes)
    return counts, restored(family, tensors_of(family, [noise(family.loader, *size) for size in sizes], counts))


@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "idefics3", "smolvlm", "step3p7"])
def test_images_are_predicted_exactly(family_processor_dir: FamilyProcessorDir, name: FamilyName) -> None:
    family = make_tiled(family_processor_dir, name)
    model = model_for(family)
    found = set()
    for sizes in IMAGES:
        counts, fields = images_of(family, sizes)
        flops, num_features = encoded(model, model.model.get_image_features, fields)
        assert num_features == sum(count.num_visual_tokens for count in counts)
        assert flops == predicted(model.config, counts) > 0
        found.add(flops)
    assert len(found) > 2


@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "smolvlm"])
def test_clips_are_predicted_exactly(family_processor_dir: FamilyProcessorDir, name: FamilyName) -> None:
    family = make_tiled(family_processor_dir, name)
    model = model_for(family)
    get = model.model.get_video_features if name == "llava_onevision" else model.model.get_image_features
    for size in (CLIP, replace(CLIP, num_frames=40, height=20)):
        counts = family.measure([size])
        fields = restored(family, tensors_of(family, [sampled(family, size, whole_clip(size))], counts))
        flops, num_features = encoded(model, get, fields)
        assert num_features == counts[0].num_visual_tokens
        assert counts[0].work.num_pictures > 1
        assert flops == predicted(model.config, counts) > 0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llava_onevision", {"vision_use_head": True}),
        ("llava_onevision", {"vision_feature_layer": [-1, -2]}),
        ("idefics3", {"patch_size": 28, "hidden_size": 16}),
        ("internvl", {"intermediate_size": 80, "num_hidden_layers": 1}),
    ],
    ids=str,
)
def test_other_settings_of_the_model_are_predicted_exactly(
    family_processor_dir: FamilyProcessorDir, name: FamilyName, settings: dict[str, Any]
) -> None:
    family = make_tiled(family_processor_dir, name)
    model, plain = model_for(family, **settings), model_for(family)
    counts, fields = images_of(family, [(300, 100)])
    flops, _ = encoded(model, model.model.get_image_features, fields)
    assert flops == predicted(model.config, counts) != predicted(plain.config, counts)


@pytest.mark.parametrize("vision", [llava_vision, internvl_vision])
def test_an_encoder_of_another_kind_is_not_guessed(vision: Any) -> None:
    from transformers import LlavaOnevisionConfig, PixtralVisionConfig

    config = LlavaOnevisionConfig(vision_config=PixtralVisionConfig())
    config.downsample_ratio = 0.5
    with pytest.raises(StopRun, match="vision encoder is pixtral") as caught:
        vision(config)
    assert "--balance vt" in caught.value.hint
