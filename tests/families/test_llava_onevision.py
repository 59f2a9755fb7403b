"""LLaVA-OneVision against its own processor."""

from __future__ import annotations

from dataclasses import replace

import pytest

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


def test_clips_of_a_fixed_length_are_the_processors_own() -> None:
    family = with_sampling(4)
    image = ImageSize(height=200, width=90, num_bytes=1)
    assert check_clips(family, [CLIP, image])["pixel_values_videos"].shape == (1, 4, 3, 56, 56)
    joint = check_clips(family, [image, CLIP, replace(CLIP, num_frames=4, height=3), image])
    assert joint["pixel_values_videos"].shape == (2, 4, 3, 56, 56)


@pytest.mark.parametrize(("num_frames", "message"), [(None, "set do_sample_frames"), (8, "must have the 8")])
def test_clips_of_any_length_are_refused(num_frames: int | None, message: str) -> None:
    with pytest.raises(RefuseSample, match=message) as refusal:
        with_sampling(num_frames).measure([replace(CLIP, num_frames=4, frames_per_second=None)])
    assert refusal.value.code == "clip-length"
