"""Kimi-K2.5 against its own processor: images and clips, alone and together; every bit."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from tests.conftest import FamilyProcessorDir
from tests.families.mixed import a_clip, an_image, check_images, check_together
from tests.families.tiled import EDGE_SIZES, random_sizes
from tests.families.truth import full_run, sample_of
from vlmprep.families.kimi import KimiK25
from vlmprep.families.loading import load_family
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import AudioSize, ImageSize, VideoSize

STAMP = re.compile(r"(\d\d:\d\d:\d\d\.\d\d\d)<\|media_begin\|>video<\|media_content\|>")


def make(folders: FamilyProcessorDir, *, marked: bool = False, **settings: Any) -> KimiK25:
    family = load_family(FamilySettings(processor=str(folders("kimi_k25", marked=marked)), **settings))
    assert isinstance(family, KimiK25)
    return family


def test_images_of_every_shape_are_the_processors(family_processor_dir: FamilyProcessorDir) -> None:
    check_images(make(family_processor_dir), [*EDGE_SIZES, (1, 8_000), *random_sizes(20, most=900)])


def test_every_size_counts_as_the_processor_counts_it(family_processor_dir: FamilyProcessorDir) -> None:
    """Small budgets, so that every bound is met; the processor's own code on tensors that have sizes alone."""
    family = make(family_processor_dir, options=(("max_patches", 300), ("size", {"max_height": 40, "max_width": 40})))
    processor = family.processor.image_processor
    counts = set()
    for height, width in (*EDGE_SIZES, (5_000, 3), (561, 700), *random_sizes(150, seed=1, most=3_000)):
        (count,) = family.measure([ImageSize(height=height, width=width, num_bytes=1)])
        made = processor(images=[torch.empty((3, height, width), dtype=torch.uint8, device="meta")])
        assert made["pixel_values"].shape[0] == count.num_patches
        grid = count.inputs["image_grid_thw"][0].tolist()
        assert grid[0] * grid[1] * grid[2] == count.num_patches == 4 * count.num_visual_tokens
        counts.add(count.num_patches)
    assert len(counts) > 30
    check_images(family, [(561, 700), (900, 1_200), (3, 1_000)])


def test_images_and_clips_together(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir)
    media = [
        an_image(family, 60, 90),
        a_clip(40, 48, 64, 12.0),
        an_image(family, 200, 130),
        a_clip(9, 40, 30, 2.0, seed=1),
        a_clip(5, 57, 20, 29.97, seed=2),
    ]
    counts, found = check_together(family, media)
    assert [len(count.inputs.get("video_grid_thw", ())) for count in counts] == [0, 2, 0, 3, 1]
    assert found["video_grid_thw"][:, 0].tolist() == [4, 2, 4, 4, 1, 1]
    assert found["pixel_values_videos"].shape[1:] == (3, 14, 14)


@pytest.mark.parametrize(
    ("num_frames", "rate"), [(1, 24.0), (3, 29.97), (8, 2.0), (33, 7.5), (300, 10.0), (9_000, 29.97)]
)
def test_times_of_chunks_are_the_processors(
    num_frames: int, rate: float, family_processor_dir: FamilyProcessorDir
) -> None:
    family = make(family_processor_dir)
    (count,), found = check_together(family, [a_clip(num_frames, 16, 20, rate)])
    stamps = STAMP.findall(count.replacement)
    assert stamps[0] == "00:00:00.000"
    assert len(stamps) == len(found["video_grid_thw"]) == len(count.run_lengths)
    assert sorted(set(stamps)) == stamps


def test_clips_that_the_processor_cannot_sample_are_refused(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir)
    with pytest.raises(RefuseSample, match="exceeds total_num_frames"):
        family.measure([VideoSize(num_frames=12, frames_per_second=1.0, height=16, width=16, num_bytes=1)])
    slow = {"total_num_frames": 12, "fps": 1.0}
    with pytest.raises(ValueError, match="exceeds total_num_frames"):
        family.processor.video_processor(
            videos=[torch.zeros((12, 3, 16, 16), dtype=torch.uint8)], video_metadata=[slow]
        )
    with pytest.raises(RefuseSample, match="a list of images has none"):
        family.measure([VideoSize(num_frames=40, frames_per_second=None, height=16, width=16, num_bytes=1)])
    with pytest.raises(RefuseSample, match="with audio are not packed"):
        family.measure([AudioSize(num_samples=16_000, sampling_rate=16_000, num_bytes=1)])


def test_settings_of_the_processor_reach_the_numbers(family_processor_dir: FamilyProcessorDir) -> None:
    options = (("image_mean", (0.1, 0.2, 0.3)), ("image_std", (0.9, 0.7, 0.6)), ("rescale_factor", 1 / 200))
    family = make(family_processor_dir, options=options)
    check_together(family, [an_image(family, 64, 64), a_clip(8, 40, 30, 4.0)])


def test_labels_are_those_of_marks_in_the_template(family_processor_dir: FamilyProcessorDir) -> None:
    plain, marked = make(family_processor_dir), make(family_processor_dir, marked=True)
    image = Media(kind="image", content=b"")
    sample = sample_of(
        ("system", "Be brief."),
        ("user", [image, "What is this?"]),
        ("assistant", "A cat."),
        ("user", "Sure?"),
        ("assistant", "\n\nYes."),
    )
    counts = plain.measure([ImageSize(height=64, width=64, num_bytes=1)])
    own, truth = plain.encode(sample, counts).expand(), marked.encode(sample, counts).expand()
    made = full_run(marked, sample, [an_image(marked, 64, 64)], return_assistant_tokens_mask=True)
    assert own.input_ids.tolist() == truth.input_ids.tolist() == made["input_ids"].tolist()
    assert own.is_label.tolist() == truth.is_label.tolist() == made["assistant_masks"][0].astype(bool).tolist()
    assert marked.decode(own.input_ids[own.is_label].tolist()) == "A cat.<|im_end|>\n\nYes.<|im_end|>"


def test_the_fake_image_is_the_processors(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir)
    encoded, count, pixels = family.fake_image()
    wrapped = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>"
    made = family.processor(text=[wrapped], images=[pixels], return_tensors="pt")
    assert encoded.expand().input_ids.tolist() == made["input_ids"][0].tolist()
    assert not encoded.is_label.any()
    assert (count.num_visual_tokens, count.num_patches) == (4, 16)
    assert (family.tensors(pixels, count)["pixel_values"] == 255).all()


def test_a_processor_that_leaves_out_its_arithmetic_is_stopped(family_processor_dir: FamilyProcessorDir) -> None:
    with pytest.raises(StopRun, match="do_normalize off"):
        make(family_processor_dir, options=(("do_normalize", False),))
