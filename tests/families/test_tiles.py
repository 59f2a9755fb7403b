"""What holds for every family that cuts images into tiles: labels, the fake image, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import LlavaOnevisionConfig
from transformers.image_utils import SizeDict

from tests.conftest import FamilyProcessorDir
from tests.families.processors import FamilyName, build_processor
from tests.families.tiled import (
    IMAGE,
    assert_same_media,
    chat_about,
    counted,
    full_run,
    make_tiled,
    noise,
    restored,
    tensors_of,
)
from tests.families.truth import sample_of
from vlmprep.families.base import BaseFamily
from vlmprep.families.idefics3 import Idefics3, SmolVLM
from vlmprep.families.internvl import InternVL
from vlmprep.families.llava_onevision import LlavaOnevision
from vlmprep.families.step3p7 import Step3p7
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import VideoSize

FAMILIES: dict[FamilyName, type[BaseFamily]] = {
    "llava_onevision": LlavaOnevision,
    "internvl": InternVL,
    "idefics3": Idefics3,
    "smolvlm": SmolVLM,
    "step3p7": Step3p7,
}
NAMES = list(FAMILIES)
SIZES = [(56, 56), (300, 100), (20, 30)]


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_answers_whatever_the_images(family_processor_dir: FamilyProcessorDir, name: FamilyName) -> None:
    family = make_tiled(family_processor_dir, name)
    tokens = family.encode(chat_about(3), counted(family, SIZES)).expand()
    changes = np.flatnonzero(np.diff(tokens.is_label)) + 1
    runs = [run for run in np.split(np.arange(len(tokens.input_ids)), changes) if tokens.is_label[run[0]]]
    said = [family.decode(tokens.input_ids[run].tolist()) for run in runs]
    end = family.processor.tokenizer.eos_token
    assert [text.strip() for text in said] == ["a red square" + end, "still red.\n" + end]


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_marked_templates_are_the_processors_own(
    family_processor_dir: FamilyProcessorDir, name: FamilyName
) -> None:
    family = make_tiled(family_processor_dir, name, marked=True)
    tokens = family.encode(chat_about(3), counted(family, SIZES)).expand()
    chat = chat_about(3), [noise("torchvision", *size) for size in SIZES]
    made = full_run(family, [chat], marks=True)
    assert tokens.is_label.any()
    assert tokens.is_label.tolist() == np.asarray(made["assistant_masks"][0]).astype(bool).tolist()


@pytest.mark.parametrize(
    ("name", "num_tokens", "num_tiles"),
    [
        ("llava_onevision", 758, 2),
        ("internvl", 259, 1),
        ("idefics3", 857, 5),
        ("smolvlm", 332, 5),
        ("step3p7", 171, 1),
    ],
)
def test_the_fake_image_is_the_processors_own_and_the_cheapest(
    family_processor_dir: FamilyProcessorDir, name: FamilyName, num_tokens: int, num_tiles: int
) -> None:
    family = make_tiled(family_processor_dir, name, small_tiles=False)
    encoded, count, pixels = family.fake_image()
    assert (encoded.num_tokens, count.num_patches) == (num_tokens, num_tiles)
    assert (pixels.height, pixels.width) == family.fake_image_size
    others = [(1, 1), (1, 56), (2, 57), (14, 56), (56, 2), (56, 56), (384, 384), (448, 448), (512, 512)]
    assert all(counted(family, [size])[0].num_placeholders >= count.num_placeholders for size in others)
    (tensors,) = tensors_of(family, [pixels], [count])
    made = full_run(family, [(sample_of(("user", [IMAGE])), [pixels])])
    assert_same_media(restored(family, [tensors]), made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("setting", ["do_rescale", "do_normalize"])
def test_an_image_processor_without_its_arithmetic_is_refused(name: FamilyName, setting: str) -> None:
    processor = build_processor(name)
    setattr(processor.image_processor, setting, False)
    with pytest.raises(StopRun, match=f"the image processor has {setting} off"):
        FAMILIES[name](processor)


def test_settings_that_counts_do_not_follow_are_refused() -> None:
    def without(name: FamilyName, part: str, **settings: Any) -> Any:
        processor = build_processor(name)
        for setting, value in settings.items():
            setattr(getattr(processor, part), setting, value)
        return processor

    with pytest.raises(StopRun, match="no multiple"):
        Idefics3(without("idefics3", "image_processor", size=SizeDict(longest_edge=1000)))
    with pytest.raises(StopRun, match="makes no squares"):
        InternVL(without("internvl", "video_processor", size=SizeDict(height=448, width=224)))
    with pytest.raises(StopRun, match="crops the middle"):
        LlavaOnevision(without("llava_onevision", "image_processor", do_center_crop=True))
    with pytest.raises(StopRun, match="another image_grid_pinpoints"):
        LlavaOnevision(build_processor("llava_onevision"), LlavaOnevisionConfig(image_grid_pinpoints=[[384, 384]]))
    family = InternVL(without("internvl", "image_processor", size=SizeDict(height=384, width=384)))
    with pytest.raises(RefuseSample, match="384 pixels wide and frames of clips 448"):
        family.measure([VideoSize(num_frames=2, frames_per_second=1.0, height=9, width=9, num_bytes=1)])


@pytest.mark.parametrize("size", [(32, 100_000), (100_000, 32), (40, 200_000)])
def test_an_image_that_step_would_scale_away_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RefuseSample) as refusal:
        counted(Step3p7(build_processor("step3p7")), [size])
    assert refusal.value.code == "image-shape"
