"""InternVL against its own processor."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from tests.conftest import FamilyProcessorDir
from tests.families.processors import build_processor
from tests.families.tiled import (
    EDGE_SIZES,
    check_clips,
    check_images,
    check_joint_media,
    interleaved,
    make_tiled,
    random_sizes,
)
from vlmprep.families.internvl import InternVL
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import ImageSize, Loader, VideoSize


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_images_are_the_processors_own(family_processor_dir: FamilyProcessorDir, backend: Loader) -> None:
    family = make_tiled(family_processor_dir, "internvl", backend)
    check_images(family, [*EDGE_SIZES, *random_sizes(60 if backend == "torchvision" else 20)])


def test_images_of_the_published_size(family_processor_dir: FamilyProcessorDir) -> None:
    family = make_tiled(family_processor_dir, "internvl", small_tiles=False)
    check_images(family, [*random_sizes(2, seed=1, most=1500), (1, 2000)])


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_tiles_of_several_samples_lie_behind_each_other(
    family_processor_dir: FamilyProcessorDir, backend: Loader
) -> None:
    family = make_tiled(family_processor_dir, "internvl", backend)
    check_joint_media(family, [[(56, 56)], [(300, 100), (20, 30)], [(80, 400)]])


def with_sampling(num_frames: int | None, backend: Literal["torchvision", "pil"] = "torchvision") -> InternVL:
    processor = build_processor("internvl", image_backend=backend, small_tiles=True)
    processor.video_processor.do_sample_frames = num_frames is not None
    processor.video_processor.num_frames = num_frames
    return InternVL(processor)


@pytest.mark.parametrize("num_frames", [None, 4])
def test_clips_and_images_share_a_field_in_the_texts_order(num_frames: int | None) -> None:
    family = with_sampling(num_frames)
    clip = VideoSize(num_frames=7, frames_per_second=12.5, height=70, width=50, num_bytes=1)
    image = ImageSize(height=200, width=90, num_bytes=1)
    found = check_clips(family, [clip, image, clip, image])
    assert len(found["pixel_values"]) == 2 * (num_frames or 7) + 2 * family.measure([image])[0].num_patches
    check_clips(family, [replace(clip, num_frames=5, height=3)])


def test_a_clip_of_images_is_taken_whole() -> None:
    clip = VideoSize(num_frames=3, frames_per_second=None, height=70, width=50, num_bytes=1)
    (count,) = with_sampling(2).measure([clip])
    assert count.num_patches == 3
    assert count.num_visual_tokens == 3 * 4


def test_a_clip_shorter_than_its_sampling_is_refused() -> None:
    clip = VideoSize(num_frames=3, frames_per_second=10.0, height=70, width=50, num_bytes=1)
    with pytest.raises(RefuseSample, match="exceeds `total_num_frames=3`") as refusal:
        with_sampling(8).measure([clip])
    assert refusal.value.code == "unsampled-clip"


def test_clips_beside_images_of_another_backend_are_refused() -> None:
    clip = VideoSize(num_frames=3, frames_per_second=10.0, height=70, width=50, num_bytes=1)
    with pytest.raises(RefuseSample, match="compute it differently"):
        with_sampling(None, "pil").measure([clip])


IMAGES_FIRST = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- for part in message.content if part.type == 'image' -%}{{- '<IMG_CONTEXT>\\n' -}}{%- endfor -%}
    {%- for part in message.content if part.type == 'video' -%}{{- '<video>\\n' -}}{%- endfor -%}
    {%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
"""


def test_a_template_that_reorders_images_and_clips_is_refused() -> None:
    processor = build_processor("internvl", small_tiles=True)
    processor.chat_template = IMAGES_FIRST
    family = InternVL(processor)
    image = ImageSize(height=56, width=56, num_bytes=1)
    clip = VideoSize(num_frames=2, frames_per_second=1.0, height=9, width=9, num_bytes=1)
    assert family.encode(interleaved([image, clip]), family.measure([image, clip])).num_tokens > 4 + 2 * 4
    with pytest.raises(RefuseSample) as refusal:
        family.encode(interleaved([clip, image]), family.measure([clip, image]))
    assert refusal.value.code == "reordered-media"
