"""Models without a family of their own: predicted work is what torch counts where pictures have one size; else there is none."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import transformers

from tests.families.costs.flops import count_flops
from tests.families.costs.predicted import predicted
from tests.families.other_processors import build_other
from tests.families.tiled import noise, restored
from tests.tiny_configs import siglip, text
from vlmprep.families.costs import cost_model
from vlmprep.families.general.family import general_family
from vlmprep.schema.errors import StopRun
from vlmprep.schema.media import NO_WORK, ImageSize

SIZES = [(37, 211), (150, 120), (56, 56)]
LANGUAGE = {**text(128), "model_type": "llama"}
VISION = {**siglip(14), "image_size": 56}
CLIP = {**VISION, "model_type": "clip_vision_model"}
SIGLIP = {**VISION, "model_type": "siglip_vision_model"}
PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
"""Those that the tiny processor has."""

Made = Callable[[], Any]
MODELS: dict[str, tuple[str, Made]] = {
    "llava": ("llava", lambda: transformers.LlavaConfig(vision_config=CLIP, text_config=LANGUAGE)),
    "llava of several layers": (
        "llava",
        lambda: transformers.LlavaConfig(vision_config=CLIP, text_config=LANGUAGE, vision_feature_layer=[-1, -2]),
    ),
    "llava_next": (
        "llava_next",
        lambda: transformers.LlavaNextConfig(vision_config=CLIP, text_config=LANGUAGE, image_grid_pinpoints=PINPOINTS),
    ),
    "gemma3": (
        "gemma3 with crops",
        lambda: transformers.Gemma3Config(
            vision_config=SIGLIP, text_config={**text(128), "head_dim": 16}, mm_tokens_per_image=4
        ),
    ),
    "aya_vision": ("aya_vision", lambda: transformers.AyaVisionConfig(vision_config=SIGLIP, text_config=LANGUAGE)),
    "cohere2_vision": (
        "cohere2_vision",
        lambda: transformers.Cohere2VisionConfig(
            vision_config=SIGLIP, text_config=LANGUAGE, alignment_intermediate_size=48
        ),
    ),
}
"""Which processor, and the config of a tiny model for its pictures of 56 x 56."""


def tiny(config: Any) -> Any:
    torch.manual_seed(0)
    config.vision_config._attn_implementation = "eager"
    return transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_one_size_are_predicted_exactly(name: str) -> None:
    processor, config = MODELS[name]
    family, model = general_family(build_other(processor)), tiny(config())
    known = inspect.signature(model.model.get_image_features).parameters
    found = []
    for num_images in (1, 2):
        images = [noise(family.loader, *size) for size in SIZES[:num_images]]
        counts = family.measure(
            [ImageSize(height=height, width=width, num_bytes=1) for height, width in SIZES[:num_images]]
        )
        fields = restored(family, [family.tensors(image, count) for image, count in zip(images, counts, strict=True)])
        given = {field: tensor for field, tensor in fields.items() if field in known and "pixel" in field}
        if name == "llava_next":
            given["image_sizes"] = fields["image_sizes"]
        found.append(count_flops(model, partial(model.model.get_image_features, return_dict=True, **given)).total)
        assert found[-1] == predicted(model.config, counts) > 0
    assert found[0] < found[1]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("pixtral", transformers.Mistral3Config),
        ("lfm2_vl", transformers.Lfm2VlConfig),
        ("llama4", transformers.Llama4Config),
        ("ovis2", transformers.Ovis2Config),
    ],
)
def test_what_is_not_known_is_not_guessed(name: str, config: Any) -> None:
    with pytest.raises(StopRun, match="not known, so its work cannot be predicted") as caught:
        cost_model(config())
    assert "--balance vt" in caught.value.hint
    if name == "pixtral":  # whose patches are no pictures of one size
        (count,) = general_family(build_other(name)).measure([ImageSize(height=37, width=211, num_bytes=1)])
        assert count.work == NO_WORK


def test_a_config_that_cannot_be_is_stopped() -> None:
    vision = {**SIGLIP, "image_size": 28}
    with pytest.raises(StopRun, match="2 x 2 patches to 4 x 4"):
        cost_model(transformers.Gemma3Config(vision_config=vision, text_config=text(128), mm_tokens_per_image=16))
