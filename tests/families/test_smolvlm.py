"""SmolVLM against its own processor."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from tests.conftest import FamilyProcessorDir
from tests.families.processors import build_processor
from tests.families.tiled import (
    EDGE_SIZES,
    check_clips,
    check_images,
    check_joint_media,
    full_run,
    interleaved,
    make_tiled,
    random_sizes,
    restored,
    sampled,
    tensors_of,
    whole_clip,
)
from vlmprep.families.idefics3 import SmolVLM
from vlmprep.families.media.clips import clip_metadata
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import ImageSize, Loader, VideoSize


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_images_are_the_processors_own(family_processor_dir: FamilyProcessorDir, backend: Loader) -> None:
    family = make_tiled(family_processor_dir, "smolvlm", backend)
    check_images(family, [*EDGE_SIZES, *random_sizes(60 if backend == "torchvision" else 20)])


def test_images_of_the_published_size(family_processor_dir: FamilyProcessorDir) -> None:
    family = make_tiled(family_processor_dir, "smolvlm", small_tiles=False)
    check_images(family, [*random_sizes(2, seed=1, most=1500), (1, 2000)])


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_tiles_of_several_samples_are_those_of_one_with_all_images(
    family_processor_dir: FamilyProcessorDir, backend: Loader
) -> None:
    family = make_tiled(family_processor_dir, "smolvlm", backend)
    found = check_joint_media(family, [[(56, 56), (300, 100), (20, 30), (80, 400)]])
    assert found["pixel_values"].shape[:2] == (1, 17 + 9 + 13 + 5)


CLIP = VideoSize(num_frames=9, frames_per_second=2.5, height=70, width=50, num_bytes=1)


def with_sampling(num_frames: int, backend: Literal["torchvision", "pil"] = "torchvision") -> SmolVLM:
    processor = build_processor("smolvlm", image_backend=backend, small_tiles=True)
    processor.video_processor.num_frames, processor.video_processor.fps = num_frames, 2
    return SmolVLM(processor)


@pytest.mark.parametrize("num_frames", [20, 3])
@pytest.mark.parametrize(
    "size", [CLIP, replace(CLIP, num_frames=40, frames_per_second=29.97, height=3), replace(CLIP, num_frames=1)]
)
def test_clips_are_the_processors_own(size: VideoSize, num_frames: int) -> None:
    found = check_clips(with_sampling(num_frames), [size])
    assert 1 <= found["pixel_values"].shape[1] <= num_frames


def test_the_longest_clip_of_a_sample_is_written_for_all() -> None:
    family = with_sampling(20)
    sizes = [CLIP, replace(CLIP, num_frames=4), replace(CLIP, num_frames=6)]
    counts = family.measure(sizes)
    sample = interleaved(sizes)
    clips = [whole_clip(size) for size in sizes]
    metadata = [clip_metadata(size) for size in sizes]
    for each in metadata:
        each.frames_indices = list(range(each.total_num_frames))
    made = full_run(family, [(sample, clips)], video_metadata=[metadata])
    assert family.encode(sample, counts).expand().input_ids.tolist() == made["input_ids"][0].tolist()
    assert [count.replacement.count("series of seven frames") for count in counts] == [1, 1, 1]
    assert [count.num_patches for count in counts] == [7, 3, 5]
    frames = made["pixel_values"].flatten(0, 1)
    not_padding = frames.abs().sum(dim=(1, 2, 3)) > 0  # by this the model drops what fills up the shorter clips
    decoded = [sampled(family, size, clip) for size, clip in zip(sizes, clips, strict=True)]
    assert torch.equal(restored(family, tensors_of(family, decoded, counts))["pixel_values"][0], frames[not_padding])


def test_what_the_processor_would_lose_or_make_up_is_refused() -> None:
    image = ImageSize(height=20, width=20, num_bytes=1)
    family = with_sampling(20)
    with pytest.raises(RefuseSample, match="loses the images"):
        family.measure([CLIP, image])
    with pytest.raises(RefuseSample, match="time of every picture"):
        family.measure([replace(CLIP, frames_per_second=None)])
    with pytest.raises(RefuseSample, match="compute it differently"):
        with_sampling(20, "pil").measure([CLIP])
