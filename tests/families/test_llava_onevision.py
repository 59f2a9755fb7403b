"""LLaVA-OneVision against its own processor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.conftest import FamilyProcessorDir
from tests.families.processors import build_processor
from tests.families.tiled import (
    EDGE_SIZES,
    check_clips,
    check_images,
    check_joint_media,
    counted,
    make_tiled,
    random_sizes,
    restored,
    sampled,
    tensors_of,
    whole_clip,
)
from vlmprep.families.llava_onevision import LlavaOnevision
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import ImageSize, Loader, VideoSize


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_images_are_the_processors_own(family_processor_dir: FamilyProcessorDir, backend: Loader) -> None:
    family = make_tiled(family_processor_dir, "llava_onevision", backend)
    check_images(family, [*EDGE_SIZES, *random_sizes(60 if backend == "torchvision" else 20)])


def test_images_that_stand_alone_are_cut(family_processor_dir: FamilyProcessorDir) -> None:
    family = make_tiled(family_processor_dir, "llava_onevision")
    sizes = [*EDGE_SIZES, *random_sizes(60, seed=2)]
    check_images(family, sizes, most=1)
    assert len({counted(family, [size])[0].num_patches for size in sizes}) > 3
    assert {count.num_patches for count in counted(family, sizes)} == {1}


def test_images_of_the_published_size(family_processor_dir: FamilyProcessorDir) -> None:
    family = make_tiled(family_processor_dir, "llava_onevision", small_tiles=False)
    check_images(family, [*random_sizes(2, seed=1, most=1500), (1, 2000)])


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_tiles_of_several_samples_lie_behind_each_other(
    family_processor_dir: FamilyProcessorDir, backend: Loader
) -> None:
    family = make_tiled(family_processor_dir, "llava_onevision", backend)
    check_joint_media(family, [[(56, 56)], [(300, 100), (20, 30)], [(80, 400)]])


CLIP = VideoSize(num_frames=9, frames_per_second=2.5, height=70, width=50, num_bytes=1)


def with_sampling(num_frames: int | None) -> LlavaOnevision:
    processor = build_processor("llava_onevision", small_tiles=True)
    processor.video_processor.do_sample_frames = num_frames is not None
    processor.video_processor.num_frames = num_frames
    return LlavaOnevision(processor)


@pytest.mark.parametrize("num_frames", [None, 4])
def test_clips_are_the_processors_own(num_frames: int | None) -> None:
    family = with_sampling(num_frames)
    image = ImageSize(height=200, width=90, num_bytes=1)
    frames = num_frames or 9
    assert check_clips(family, [CLIP, image])["pixel_values_videos"].shape == (1, frames, 3, 56, 56)
    joint = check_clips(family, [image, CLIP, replace(CLIP, height=3), image])
    assert joint["pixel_values_videos"].shape == (2, frames, 3, 56, 56)


def test_clips_of_several_lengths_join_as_a_list() -> None:
    family, tensors = with_sampling(None), []
    sizes = [CLIP, replace(CLIP, num_frames=4)]
    for size in sizes:
        tensors += tensors_of(family, [sampled(family, size, whole_clip(size))], family.measure([size]))
    joint: Any = restored(family, tensors)
    assert joint.keys() == {"pixel_values_videos"}
    assert [tuple(clip.shape) for clip in joint["pixel_values_videos"]] == [(1, 9, 3, 56, 56), (1, 4, 3, 56, 56)]
    for clip, own in zip(joint["pixel_values_videos"], tensors, strict=True):
        assert torch.equal(clip, restored(family, [own])["pixel_values_videos"])


def test_clips_of_several_lengths_in_one_sample_are_refused() -> None:
    with pytest.raises(RefuseSample, match="clips of 4, 9 frames") as refusal:
        with_sampling(None).measure([CLIP, replace(CLIP, num_frames=4)])
    assert refusal.value.code == "clip-length"
