"""What packs hold of tiles, given to the families' own models: as many features as placeholders, and no medium sees another."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.conftest import FamilyProcessorDir
from tests.families.processors import FamilyName, build_processor
from tests.families.tiled import counted, make_tiled, noise, restored, sampled, tensors_of, whole_clip
from tests.tiny_configs import CONFIGS, TinyTokens
from vlmprep.families.base import BaseFamily
from vlmprep.families.llava_onevision import LlavaOnevision
from vlmprep.schema.media import ImageSize, VideoSize

TOKENS = TinyTokens(
    vocab_size=128, image=120, video=121, vision_start=122, vision_end=123, audio=124, audio_start=125, audio_end=126
)
PATCH_SIZE = 14
IMAGES = [[(56, 56)], [(300, 100), (20, 30)], [(2, 200)], [(80, 400), (56, 56), (17, 90)]]
"""Heights and widths of the images of some samples."""
CLIP = VideoSize(num_frames=9, frames_per_second=2.5, height=70, width=50, num_bytes=1)
CLIPS = [[CLIP, replace(CLIP, num_frames=40, height=20)], [replace(CLIP, num_frames=12)]]
"""Clips of some samples."""


def tiny_model(family: BaseFamily) -> Any:
    """A model of the family for the small tiles of its processor."""
    from transformers import AutoModelForImageTextToText

    config = CONFIGS[family.name](TOKENS, PATCH_SIZE)
    config.vision_config.image_size = {"internvl": [56, 56], "step3p7": 112}.get(family.name, 56)
    if family.name == "llava_onevision":
        config.image_grid_pinpoints = family.processor.image_processor.image_grid_pinpoints
        config.vision_aspect_ratio = family.processor.vision_aspect_ratio
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).eval()


def features(get: Any, fields: dict[str, torch.Tensor]) -> torch.Tensor:
    """[tokens, hidden] of the media, as the model would put them in place of the placeholders."""
    known = inspect.signature(get).parameters
    with torch.no_grad():
        made = get(**{name: value for name, value in fields.items() if name in known}, return_dict=True).pooler_output
    return torch.cat([each.reshape(-1, each.shape[-1]) for each in made])


@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "idefics3", "smolvlm", "step3p7"])
def test_a_pack_of_images_gives_the_features_of_its_samples(
    family_processor_dir: FamilyProcessorDir, name: FamilyName
) -> None:
    family = make_tiled(family_processor_dir, name)
    model = tiny_model(family)
    tensors, expected, num_placeholders = [], [], 0
    for at, sizes in enumerate(IMAGES):
        counts = counted(family, sizes)
        own = tensors_of(family, [noise(family.loader, *size, seed=at) for size in sizes], counts)
        num_placeholders += sum(count.num_visual_tokens for count in counts)
        expected.append(features(model.model.get_image_features, restored(family, own)))
        tensors += own
    found = features(model.model.get_image_features, restored(family, tensors))
    assert len(found) == num_placeholders
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-6)
    assert found.std() > 0


@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "smolvlm"])
def test_a_pack_of_clips_gives_the_features_of_its_samples(
    family_processor_dir: FamilyProcessorDir, name: FamilyName
) -> None:
    family = make_tiled(family_processor_dir, name)
    model = tiny_model(family).model
    get = model.get_video_features if name == "llava_onevision" else model.get_image_features
    tensors, expected, num_placeholders = [], [], 0
    for sizes in CLIPS:
        counts = family.measure(sizes)
        own = tensors_of(family, [sampled(family, size, whole_clip(size)) for size in sizes], counts)
        num_placeholders += sum(count.num_visual_tokens for count in counts)
        expected.append(features(get, restored(family, own)))
        tensors += own
    if name != "llava_onevision":  # whose images are a field of their own
        (count,) = counts = family.measure([ImageSize(height=300, width=100, num_bytes=1)])
        tensors += tensors_of(family, [noise("torchvision", 300, 100)], counts)
        expected.append(features(get, restored(family, tensors[-1:])))
        num_placeholders += count.num_visual_tokens
    found = features(get, restored(family, tensors))
    assert len(found) == num_placeholders
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-6)


def test_clips_of_several_lengths_go_to_the_model_as_what_its_encoder_makes_of_each() -> None:
    processor = build_processor("llava_onevision", small_tiles=True)
    processor.video_processor.do_sample_frames = False
    family = LlavaOnevision(processor)
    model = tiny_model(family)
    tensors, alone, ids, positions = [], [], [], []
    for size in [CLIP, replace(CLIP, num_frames=4)]:
        (count,) = counts = family.measure([size])
        tensors += tensors_of(family, [sampled(family, size, whole_clip(size))], counts)
        own = torch.tensor([[size.num_frames, 7, *[TOKENS.video] * count.num_visual_tokens, 8, 9]])
        with torch.no_grad():
            alone.append(model(input_ids=own, use_cache=False, **restored(family, tensors[-1:])).logits)
        ids.append(own)
        positions.append(torch.arange(own.shape[1])[None])
    clips: Any = restored(family, tensors)["pixel_values_videos"]
    assert isinstance(clips, list)
    with torch.no_grad():
        made = [model.model.get_video_features(clip, return_dict=True).pooler_output.flatten(0, 1) for clip in clips]
        packed = model(
            input_ids=torch.cat(ids, dim=1),
            position_ids=torch.cat(positions, dim=1),
            mm_encoder_outputs={"video": BaseModelOutputWithPooling(pooler_output=torch.cat(made)[None])},
            use_cache=False,
        ).logits
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=1e-5)
