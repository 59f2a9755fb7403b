"""Nemotron-Omni against its own processor: tokens from sizes, every field to the bit where bits can agree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import FamilyProcessorDir
from tests.families.mixed import a_sound, medium
from tests.families.processors import build_processor, build_tokenizer
from tests.families.tiled import EDGE_SIZES, noise, random_sizes
from tests.families.truth import sample_of
from vlmprep.families.loading import load_family
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.families.nemotron_omni import NemotronOmni
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import AudioSize, ImageSize, MediaSize, VideoSize

CLOSE = 1e-4
"""How far a sound's features may lie from those that a run with others gives: sums over other shapes."""


@cache
def small(**settings: int) -> NemotronOmni:
    """Fewer patches than published, to be quick."""
    processor = build_processor("nemotron_omni")
    bounds = {"min_num_patches": 16, "max_num_patches": 120, **settings}
    for name, value in bounds.items():
        setattr(processor.image_processor, name, value)
    processor.video_processor.video_target_num_patches = 30
    return NemotronOmni(processor)


def a_clip(family: Any, num_frames: int, height: int, width: int, rate: float | None = 24.0) -> Clip:
    """What loading a clip gives."""
    size = VideoSize(num_frames=num_frames, frames_per_second=rate, height=height, width=width, num_bytes=1)
    metadata = clip_metadata(size)
    metadata.frames_indices = sampled_frames(family.processor.video_processor, metadata)
    frames = torch.stack([noise("torchvision", height, width, seed=at) for at in metadata.frames_indices])
    return Clip(frames=frames, metadata=metadata)


def size_of(decoded: Any) -> MediaSize:
    if isinstance(decoded, np.ndarray):
        return AudioSize(num_samples=len(decoded), sampling_rate=16_000, num_bytes=1)
    if isinstance(decoded, Clip):
        height, width = decoded.frames.shape[2:]
        frames, rate = decoded.metadata.total_num_frames, decoded.metadata.fps
        return VideoSize(num_frames=frames, frames_per_second=rate, height=height, width=width, num_bytes=1)
    return ImageSize(height=decoded.shape[1], width=decoded.shape[2], num_bytes=1)


def own_run(family: Any, text: str, media: Sequence[Any]) -> dict[str, Any]:
    """What the processor returns for these media, the metadata of a clip given as its loader gives them."""
    clips = [each for each in media if isinstance(each, Clip)]
    images = [each for each in media if isinstance(each, torch.Tensor)]
    sounds = [each for each in media if isinstance(each, np.ndarray)]
    given: dict[str, Any] = {}
    if clips:
        given["videos"] = [clip.frames for clip in clips]
        given["videos_kwargs"] = {"video_metadata": clips[0].metadata, "do_sample_frames": False}
    if images:
        given["images"] = images
    if sounds:
        given["audio"] = sounds
    return dict(family.processor(text=[text], return_tensors="pt", **given))


def packed_and_own(family: Any, media: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields as a training job gets them from a pack, and as the processor gives them; tokens are compared here."""
    counts = family.measure([size_of(each) for each in media])
    sample = sample_of(
        ("user", ["Look:", *(medium(count.kind) for count in counts), " here"]), ("assistant", "Noise.\n")
    )
    tokens = family.encode(sample, counts).expand()
    marks = {"image": "<image>", "video": "<video>", "audio": "<so_embedding>"}
    question = "Look:" + "".join(marks[count.kind] for count in counts) + " here"
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\nNoise.\n<|im_end|>\n"
    own = own_run(family, text, media)
    assert tokens.input_ids.tolist() == own.pop("input_ids")[0].tolist()
    assert own.pop("attention_mask").all()
    assert family.decode(tokens.input_ids[tokens.is_label].tolist()) == "Noise.\n<|im_end|>"
    made = [family.tensors(decoded, count) for decoded, count in zip(media, counts, strict=True)]
    for fields, count in zip(made, counts, strict=True):
        assert count.inputs
        assert all(np.array_equal(fields[name], expected) for name, expected in count.inputs.items())
        large = {name: array for name, array in fields.items() if name in family.pixel_rules()}
        assert count.stored_bytes == sum(array.nbytes for array in large.values())
        assert count.num_patches == sum(len(array) for name, array in large.items() if name.startswith("pixel_values"))
    return in_a_pack(family, made), own


def in_a_pack(family: Any, made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = {name for fields in made for name in fields}
    joined = {name: np.concatenate([fields[name] for fields in made if name in fields]) for name in names}
    return restore_all({name: torch.from_numpy(field) for name, field in joined.items()}, family.pixel_rules())


def assert_equal(family: Any, media: Sequence[Any]) -> None:
    found, own = packed_and_own(family, media)
    assert found.keys() == own.keys()
    assert own
    for name in own:
        assert found[name].dtype == own[name].dtype
        assert torch.equal(found[name], own[name]), name


def test_images_are_the_processors_own():
    sizes = [*EDGE_SIZES, *random_sizes(40)]
    for first in range(0, len(sizes) - 2, 3):
        assert_equal(small(), [noise("torchvision", *size) for size in sizes[first : first + 1 + first % 3]])


@pytest.mark.parametrize("max_num_patches", [0, 90])
def test_how_many_images_stand_in_a_sample_counts_where_the_context_is_short(max_num_patches):
    family = small(max_model_len=12, max_num_patches=max_num_patches)
    grids = set()
    for company in (0, 1, 3, 7):
        images = [noise("torchvision", 260, 300), *(noise("torchvision", 40, 60 + at) for at in range(company))]
        assert_equal(family, images)
        grids.add(tuple(family.measure([size_of(image) for image in images])[0].inputs["image_grid_hw"][0]))
    assert len(grids) > 1


def test_images_of_the_published_size_are_the_processors_own(family_processor_dir: FamilyProcessorDir):
    family = load_family(FamilySettings(processor=str(family_processor_dir("nemotron_omni"))))
    assert isinstance(family, NemotronOmni)
    assert family.position_axes == 1
    assert_equal(family, [noise("torchvision", 300, 500), noise("torchvision", 20, 400)])


@pytest.mark.parametrize(("num_frames", "rate"), [(6, 24.0), (7, 30.0), (1, 12.5), (4, None), (40, 29.97)])
def test_a_clip_is_the_processors_own(num_frames, rate):
    assert_equal(small(), [a_clip(small(), num_frames, 60, 100, rate)])


def test_clips_of_any_shape_are_the_processors_own():
    for height, width in [(100, 60), (33, 34), (200, 20), (20, 300)]:
        assert_equal(small(), [a_clip(small(), 3, height, width)])


def test_a_clip_with_sound_beside_it_is_the_processors_own():
    assert_equal(small(), [a_clip(small(), 5, 60, 40), a_sound(8_000)])


def test_clips_of_several_documents_come_back_one_by_one():
    family = small()
    clips = [a_clip(family, 3, 60, 100), a_clip(family, 4, 100, 60)]
    made = [family.tensors(clip, family.measure([size_of(clip)])[0]) for clip in clips]
    found = in_a_pack(family, made)["pixel_values_videos"]
    assert isinstance(found, list)
    for clip, frames in zip(clips, found, strict=True):
        own = own_run(family, "<video>", [clip])["pixel_values_videos"]
        assert torch.equal(frames, own)


def test_a_sound_is_the_processors_own():
    for num_samples in (320, 1_000, 4_000, 16_007):
        assert_equal(small(), [a_sound(num_samples)])


def test_several_sounds_are_filled_up_and_masked():
    found, own = packed_and_own(small(), [a_sound(16_000), noise("torchvision", 90, 60), a_sound(9_000), a_sound(480)])
    assert found.keys() == own.keys()
    for name in own.keys() - {"input_features"}:
        assert torch.equal(found[name], own[name]), name
    mask = own["input_features_mask"]
    assert 0 < mask.sum() < mask.numel()
    assert found["input_features"].shape == own["input_features"].shape
    assert (found["input_features"] - own["input_features"]).abs().max() < CLOSE
    assert not found["input_features"][~mask].any()


def test_answers_are_learned_and_media_are_not_where_the_template_has_marks():
    family = NemotronOmni(build_processor("nemotron_omni", marked=True))
    counts = family.measure([ImageSize(height=90, width=60, num_bytes=1)] * 2)
    sample = sample_of(
        ("user", [medium("image"), medium("image"), "One?"]),
        ("assistant", "Two."),
        ("user", "Sure?"),
        ("assistant", "Yes."),
    )
    tokens = family.encode(sample, counts).expand()
    assert family.decode(tokens.input_ids[tokens.is_label].tolist()) == "Two.<|im_end|>Yes.<|im_end|>"
    image = family.processor.tokenizer.convert_tokens_to_ids("<image>")
    assert not tokens.is_label[tokens.input_ids == image].any()


def test_what_the_model_cannot_be_given_together_is_refused():
    family = small()
    clip, image = size_of(a_clip(family, 3, 40, 40)), ImageSize(height=40, width=40, num_bytes=1)
    with pytest.raises(RefuseSample, match="2 clips"):
        family.measure([clip, clip])
    with pytest.raises(RefuseSample, match="a clip beside images"):
        family.measure([image, clip])
    with pytest.raises(RefuseSample, match="319 samples is too short"):
        family.measure([AudioSize(num_samples=319, sampling_rate=16_000, num_bytes=1)])


def test_settings_that_counts_rest_on_are_checked():
    processor = build_processor("nemotron_omni")
    processor.video_processor.norm_mean = None
    with pytest.raises(StopRun, match="no norm_mean"):
        NemotronOmni(processor)
    processor = build_processor("nemotron_omni")
    processor.audio_hop_length = 80
    with pytest.raises(StopRun, match="one for every 80"):
        NemotronOmni(processor)


def test_the_fake_image_is_an_image_like_others():
    encoded, count, pixels = small().fake_image()
    made = small().tensors(pixels, count)
    assert len(made["pixel_values"]) == count.num_patches >= 16
    assert encoded.num_tokens == count.num_visual_tokens + 2


def test_a_tokenizer_need_not_know_what_stands_for_a_clip():
    processor = build_processor("nemotron_omni")
    tokens = {
        "image_token": "<image>",
        "audio_token": "<so_embedding>",
        "sound_start": "<so_start>",
        "sound_end": "<so_end>",
        "image_start_token": "<img>",
        "image_end_token": "</img>",
        "start": "<|im_start|>",
        "end_of_turn": "<|im_end|>",
    }
    words = build_tokenizer(processor.chat_template, **tokens)
    images, videos, sounds = processor.image_processor, processor.video_processor, processor.feature_extractor
    images.min_num_patches, videos.video_target_num_patches = 16, 30
    family = NemotronOmni(type(processor)(images, videos, words, sounds, chat_template=processor.chat_template))
    assert family.processor.video_token_id is None
    assert_equal(family, [a_clip(family, 5, 60, 40)])
    assert_equal(family, [noise("torchvision", 60, 40)])
