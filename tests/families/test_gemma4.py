"""Gemma 4 against its own processor: images, clips and sounds, alone and together; every bit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing

from tests.conftest import FamilyProcessorDir
from tests.families.mixed import a_clip, a_sound, an_image, check_images, check_together
from tests.families.processors import build_processor
from tests.families.tiled import EDGE_SIZES, random_sizes
from tests.families.truth import full_run, sample_of
from vlmprep.families.gemma4 import Gemma4
from vlmprep.families.loading import load_family
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import AudioSize, ImageSize, Loader, VideoSize

BACKENDS: tuple[Loader, ...] = ("torchvision", "pil")
REAL_SIZES = (
    (480, 640),
    (1080, 1920),
    (2200, 1700),
    (48, 48),
    (768, 768),
    (803, 803),
    (804, 804),
    (12, 843),
    (97, 6_790),
)


def make(
    folders: FamilyProcessorDir, backend: Loader = "torchvision", *, marked: bool = False, **settings: Any
) -> Gemma4:
    folder = folders("gemma4", marked=marked)
    family = load_family(FamilySettings(processor=str(folder), image_backend=backend, **settings))
    assert isinstance(family, Gemma4)
    assert family.loader == backend
    return family


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_of_every_shape_are_the_processors(backend: Loader, family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir, backend)
    assert family._resizes_alone == (backend == "torchvision")
    check_images(family, [*EDGE_SIZES, *random_sizes(1 if backend == "pil" else 4, most=500)])


def test_every_size_counts_as_the_processor_counts_it(family_processor_dir: FamilyProcessorDir) -> None:
    """Without a pixel: the processor's own code on tensors that have sizes alone."""
    family = make(family_processor_dir)
    processor = family.processor
    lengths = set()
    for height, width in (*REAL_SIZES, *EDGE_SIZES, *random_sizes(120, seed=1, most=4_000)):
        (count,) = family.measure([ImageSize(height=height, width=width, num_bytes=1)])
        empty = torch.empty((3, height, width), dtype=torch.uint8, device="meta")
        made = processor.image_processor(images=[empty])
        assert [count.num_visual_tokens] == made["num_soft_tokens_per_image"]
        assert count.num_patches == count.inputs["image_grid_hw"].prod() == 9 * count.num_visual_tokens
        lengths.add(count.num_visual_tokens)
    assert len(lengths) > 20
    assert max(lengths) <= 280


def test_images_of_a_pack_join_to_what_the_processor_makes_of_all(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir)
    sizes = [(100, 300), (57, 20), (300, 301), (640, 90)]
    _, found = check_together(family, [an_image(family, *size) for size in sizes])
    assert found["pixel_values"].shape == (4, 2_520, 768)
    assert found["image_position_ids"].shape == (4, 2_520, 2)
    assert (found["image_position_ids"][:, -1] == -1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_kinds_of_media_together(backend: Loader, family_processor_dir: FamilyProcessorDir) -> None:
    num_frames = 32 if backend == "torchvision" else 5
    family = make(family_processor_dir, backend, options=(("num_frames", num_frames),))
    media = [
        an_image(family, 60, 90),
        a_clip(33, 48, 64, 12.0),
        a_sound(9_000),
        an_image(family, 200, 130),
        a_sound(16_001),
        a_clip(40, 70, 40, 29.97, seed=1),
        a_sound(640),
    ]
    counts, found = check_together(family, media)
    assert [count.num_visual_tokens > 0 for count in counts] == [True, True, False, True, False, True, False]
    assert found["num_frames_per_video"].tolist() == [num_frames] * 2
    assert found["pixel_values_videos"].shape == (2 * num_frames, 630, 768)
    assert found["input_features"].shape[0] == 3
    assert not found["input_features_mask"].all()


@pytest.mark.parametrize(("num_frames", "rate"), [(32, 24.0), (64, 0.5), (333, 29.97), (1_000, 7.5)])
def test_times_of_sampled_frames_are_the_processors(
    num_frames: int, rate: float, family_processor_dir: FamilyProcessorDir
) -> None:
    family = make(family_processor_dir)
    counts, _ = check_together(family, [a_clip(num_frames, 16, 20, rate)])
    assert counts[0].replacement.count("<|image>") == 32
    assert counts[0].replacement.startswith("00:00 <|image>")
    assert len(counts[0].run_lengths) == 32


def test_clips_that_the_processor_cannot_sample_are_refused(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir)
    frames, rate = a_clip(31, 16, 16, 8.0)
    with pytest.raises(RefuseSample, match="num_frames=32"):
        family.measure([VideoSize(num_frames=31, frames_per_second=rate, height=16, width=16, num_bytes=1)])
    with pytest.raises(ValueError, match="num_frames=32"):
        family.processor.video_processor(videos=[torch.from_numpy(frames)])
    with pytest.raises(RefuseSample, match="a list of images has none"):
        family.measure([VideoSize(num_frames=40, frames_per_second=None, height=16, width=16, num_bytes=1)])


@pytest.mark.parametrize("lengths", [(161,), (320, 161), (1_000, 4_801, 48_000), (47_999, 128 * 90, 128 * 90 + 1)])
def test_sounds_of_every_length_are_the_processors(
    lengths: tuple[int, ...], family_processor_dir: FamilyProcessorDir
) -> None:
    family = make(family_processor_dir)
    counts, found = check_together(family, [a_sound(length, seed=at) for at, length in enumerate(lengths)])
    assert [count.num_visual_tokens for count in counts] == [0] * len(lengths)
    frames = [int(count.inputs["num_feature_frames"][0]) for count in counts]
    assert found["input_features"].shape == (len(lengths), max(frames), 128)


def test_the_longest_sound_is_taken_and_no_longer_one(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir)
    (count,) = family.measure([AudioSize(num_samples=480_000, sampling_rate=16_000, num_bytes=1)])
    assert count.run_lengths == (750,)
    with pytest.raises(RefuseSample, match=r"30\.0 s, of which the processor would keep the first 30\.0 s"):
        family.measure([AudioSize(num_samples=480_001, sampling_rate=16_000, num_bytes=1)])
    cut = family.processor.feature_extractor([np.zeros(600_000, dtype=np.float32)])
    whole = family.processor.feature_extractor([np.zeros(480_000, dtype=np.float32)])
    assert cut["input_features"][0].shape == whole["input_features"][0].shape
    for short in (1, 160):
        with pytest.raises(RefuseSample, match="too short"):
            family.measure([AudioSize(num_samples=short, sampling_rate=16_000, num_bytes=1)])
        assert not family.processor.feature_extractor([np.zeros(short, dtype=np.float32)])["input_features_mask"][
            0
        ].any()


def test_a_sound_of_another_rate_is_counted_as_it_is_heard(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir)
    fast, own = family.measure(
        [
            AudioSize(num_samples=44_100, sampling_rate=44_100, num_bytes=1),
            AudioSize(num_samples=16_000, sampling_rate=16_000, num_bytes=1),
        ]
    )
    assert fast.run_lengths == own.run_lengths == (25,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_settings_of_the_processor_reach_counts_and_numbers(
    backend: Loader, family_processor_dir: FamilyProcessorDir
) -> None:
    options = (
        ("max_soft_tokens", 140),
        ("num_frames", 6),
        ("do_normalize", True),
        ("image_mean", (0.1, 0.2, 0.3)),
        ("image_std", (0.9, 0.7, 0.6)),
        ("rescale_factor", 1 / 200),
    )
    family = make(family_processor_dir, backend, options=options)
    assert family.pixel_rules()["pixel_values"].most == 1_260
    check_images(family, [(60, 90), (300, 200), (1, 50)])
    counts, _ = check_together(family, [an_image(family, 64, 64), a_clip(9, 40, 30, 8.0)])
    assert counts[1].inputs["num_frames_per_video"].tolist() == [6]


def test_labels_are_those_of_marks_in_the_template(family_processor_dir: FamilyProcessorDir) -> None:
    plain, marked = make(family_processor_dir), make(family_processor_dir, marked=True)
    image = Media(kind="image", content=b"")
    sample = sample_of(
        ("system", "Be brief."),
        ("user", [image, "What is this?"]),
        ("assistant", "A cat."),
        ("user", "Sure?"),
        ("assistant", "Yes, <sure>.\n"),
    )
    counts = plain.measure([ImageSize(height=64, width=64, num_bytes=1)])
    own, truth = plain.encode(sample, counts).expand(), marked.encode(sample, counts).expand()
    made = full_run(marked, sample, [an_image(marked, 64, 64)], return_assistant_tokens_mask=True)
    assert own.input_ids.tolist() == truth.input_ids.tolist() == made["input_ids"].tolist()
    assert own.is_label.tolist() == [bool(learned) for learned in np.ravel(made["assistant_masks"])]
    learned = own.input_ids[own.is_label].tolist()
    assert marked.decode(learned) == "A cat.<turn|>Yes, <sure>.\n<turn|>"
    assert own.is_label.tolist() == truth.is_label.tolist()


TRIMMING_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {%- if loop.first or role != 'model' or loop.previtem.role != 'assistant' -%}{{- '<|turn>' + role + '\\n' -}}{%- endif -%}
    {%- if role == 'system' or message.content is string -%}{{- message.content | trim -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'text' -%}{{- part.text | trim -}}
            {%- else -%}{{- '\\n\\n<|' + part.type + '|>\\n\\n' -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<turn|>\\n' -}}
{%- endfor -%}"""
"""With the published one's habits: texts are trimmed, a system's is a string, a model that speaks twice goes on with its turn."""


@pytest.mark.parametrize("thinking_prefix", [False, True])
def test_a_template_that_begins_with_a_token_and_trims_is_followed(thinking_prefix: bool) -> None:
    processor = build_processor("gemma4")
    processor.tokenizer.add_special_tokens({"bos_token": "<bos>"})
    bos = processor.tokenizer.bos_token_id
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    processor.chat_template = processor.tokenizer.chat_template = TRIMMING_TEMPLATE
    family = Gemma4(processor, thinking_prefix=thinking_prefix)
    image = Media(kind="image", content=b"")
    turns: list[Any] = [
        ("system", " Be brief. "),
        ("user", ["  Look ", image, " what?\n"]),
        ("assistant", " A cat.\n"),
        ("assistant", "\n\nBlack."),
    ]
    sample = sample_of(*turns)
    tokens = family.encode(sample, family.measure([ImageSize(height=64, width=64, num_bytes=1)])).expand()
    text = family.decode(tokens.input_ids.tolist()).replace("<|image|>", "")
    thought = "<|channel>thought\n<channel|>" if thinking_prefix else ""
    assert text == (
        "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\nLook\n\n<|image><image|>\n\nwhat?<turn|>\n"
        f"<|turn>model\n{thought}A cat.<turn|>\nBlack.<turn|>\n"
    )
    assert family.decode(tokens.input_ids[tokens.is_label].tolist()) == "A cat.<turn|>Black.<turn|>"
    assert tokens.input_ids.tolist().count(bos) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_fake_image_is_the_smallest_and_the_processors(
    backend: Loader, family_processor_dir: FamilyProcessorDir
) -> None:
    family = make(family_processor_dir, backend)
    encoded, count, pixels = family.fake_image()
    assert (pixels.height, pixels.width) == family.fake_image_size
    made = family.processor(text=["<|image|>"], images=[pixels], return_tensors="pt")
    assert encoded.expand().input_ids.tolist() == made["input_ids"][0].tolist()
    assert not encoded.is_label.any()
    assert (encoded.num_tokens, count.num_visual_tokens, count.num_patches) == (142, 140, 1_260)
    stored = family.tensors(pixels, count)
    assert (stored["pixel_values"] == 255).all()
    (square,) = family.measure([ImageSize(height=56, width=56, num_bytes=1)])
    assert square.num_visual_tokens == 256
    others = itertools.product((1, 2, 3, 7, 31, 100), (1, 5, 60, 71, 72, 150, 500, 3_000))
    sizes = [ImageSize(height=height, width=width, num_bytes=1) for height, width in others]
    assert min(other.num_visual_tokens for other in family.measure(sizes)) == 140


def test_a_decoder_that_gives_other_colours_goes_the_long_way(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir)
    gray = torch.full((1, 50, 70), 99, dtype=torch.uint8)
    (count,) = family.measure([ImageSize(height=50, width=70, num_bytes=1)])
    tensors = family.tensors(gray, count)
    assert (tensors["pixel_values"] == 99).all()
    assert tensors["image_grid_hw"].tolist() == count.inputs["image_grid_hw"].tolist()


def test_a_processor_that_leaves_out_resizing_is_stopped(family_processor_dir: FamilyProcessorDir) -> None:
    with pytest.raises(StopRun, match="do_resize off"):
        make(family_processor_dir, options=(("do_resize", False),))


def test_a_picture_file_in_another_mode_has_the_same_grid(family_processor_dir: FamilyProcessorDir) -> None:
    family = make(family_processor_dir, "pil")
    picture = Image.new("L", (90, 60), 7)
    (count,) = family.measure([ImageSize(height=60, width=90, num_bytes=1)])
    tensors = family.tensors(picture, count)
    assert (tensors["pixel_values"] == 7).all()
    assert len(tensors["pixel_values"]) == count.num_patches
