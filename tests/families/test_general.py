"""Families that nobody wrote code for, held against their processors' own runs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.families.other_processors import build_other
from tests.families.processors import FamilyName, build_processor
from tests.families.truth import sample_of
from vlmprep.families.general.family import GeneralFamily, general_family
from vlmprep.families.loading import FAMILIES
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import ImageSize, VideoSize

IMAGE = Media(kind="image", content=b"-")
SIZES = ((37, 211), (150, 120), (56, 56), (260, 44))
"""Heights and widths, none of those that a family is tried on."""

PACKED = (
    "aria", "aya_vision", "cohere2_vision", "deepseek_vl", "gemma3", "gemma3 with crops", "janus", "lfm2_vl", "llama4",
    "llava", "llava_next", "mistral3", "ovis2", "pixtral", "video_llama3",
)  # fmt: skip
REFUSED = {
    "glm4v": "Glm4vModel computes positions of its own",
    "idefics2": "it has no replace_image_token",
    "paddleocr_vl": "PaddleOCRVLModel computes positions of its own",
    "paligemma": "it returns labels for single tokens",
    "perception_lm": "Unable to convert output 'pixel_values'",
}


@cache
def general_of(name: str) -> GeneralFamily:
    return general_family(build_other(name))


def noise(height: int, width: int, seed: int = 7) -> torch.Tensor:
    rng = np.random.default_rng(seed * 1_000_000 + height * 1_000 + width)
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))


def own_run(processor: Any, images: list[Any]) -> Any:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": "Compare.\n"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": "No."}]}]
    return processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")


def joined(family: Any, counts: list[Any], decoded: list[Any]) -> dict[str, torch.Tensor]:
    """All fields as a training job gets them from a pack."""
    each = [family.tensors(medium, count) for medium, count in zip(decoded, counts, strict=True)]
    for tensors, count in zip(each, counts, strict=True):
        for name, expected in count.inputs.items():
            assert np.array_equal(tensors[name], expected)
            assert tensors[name].dtype == expected.dtype
    names = {name for tensors in each for name in tensors}
    fields = {name: np.concatenate([tensors[name] for tensors in each if name in tensors]) for name in names}
    return restore_all({name: torch.from_numpy(field) for name, field in fields.items()}, family.pixel_rules())


def assert_equals_own_run(family: Any, images: list[Any]) -> None:
    sizes = [ImageSize(height=image.shape[1], width=image.shape[2], num_bytes=1) for image in images]
    counts = family.measure(sizes)
    sample = sample_of(("user", [*[IMAGE] * len(images), "Compare.\n"]), ("assistant", "No."))
    encoded = family.encode(sample, counts)
    tokens, truth = encoded.expand(), own_run(family.processor, images)
    assert tokens.input_ids.tolist() == truth["input_ids"][0].tolist()
    assert family.decode(tokens.input_ids[tokens.is_label].tolist()) == "No.<|im_end|>"
    types = truth.get("mm_token_type_ids", truth.get("token_type_ids"))
    if types is not None and types.any():
        assert tokens.mm_token_type_ids.tolist() == types[0].tolist()
        assert sum(count.num_visual_tokens for count in counts) <= int((types == 1).sum())
    assert all(count.num_visual_tokens > 0 for count in counts)
    fields = joined(family, counts, images)
    media = {
        name for name in truth if name not in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
    }
    assert set(fields) == media
    assert any(name.startswith("pixel_values") for name in media)
    for name in media:
        exact = truth[name].to(torch.float32) if truth[name].dtype == torch.bfloat16 else truth[name]
        assert fields[name].dtype == exact.dtype
        assert torch.equal(fields[name], exact), name


@pytest.mark.parametrize("name", PACKED)
def test_a_processor_without_a_family_is_packed_as_it_runs_itself(name):
    family = general_of(name)
    assert family.position_axes == 1
    assert "image" in family.kinds
    images = [noise(*size) for size in SIZES]
    assert_equals_own_run(family, images)
    assert_equals_own_run(family, images[1:2])


@pytest.mark.parametrize("name", REFUSED)
def test_a_processor_that_cannot_be_packed_is_refused_with_the_reason(name):
    with pytest.raises(StopRun, match=REFUSED[name]):
        general_family(build_other(name))


@pytest.mark.parametrize("name", ["qwen2_vl", "internvl", "step3p7"])
def test_the_general_way_counts_as_the_family_of_its_own(name: FamilyName):
    processor = build_processor(name)
    family: Any = FAMILIES[type(processor).__name__](processor)
    general = GeneralFamily(processor)
    for count in (1, 2):
        for height, width in (*SIZES, (700, 900), (1_000, 100)):
            sizes = [ImageSize(height=height, width=width, num_bytes=1)] * count
            for own, found in zip(family.measure(sizes), general.measure(sizes), strict=True):
                assert found.replacement == own.replacement
                assert found.run_lengths == own.run_lengths
                assert found.num_visual_tokens == own.num_visual_tokens


@pytest.mark.parametrize("name", ["idefics3", "kimi_k25"])
def test_families_of_their_own_are_packed_in_the_general_way_too(name: FamilyName):
    family = GeneralFamily(build_processor(name))
    images = [noise(40, 60), noise(30, 90)]
    counts = family.measure([ImageSize(height=i.shape[1], width=i.shape[2], num_bytes=1) for i in images])
    fields, truth = joined(family, counts, images), own_run(family.processor, images)
    for field in fields:
        assert torch.equal(fields[field], truth[field])
    assert "pixel_values" in fields


def test_levels_are_stored_wherever_they_become_the_numbers_again():
    stored = {}
    for name in ("llava", "llava_next", "llama4", "pixtral"):
        (count,) = general_of(name).measure([ImageSize(height=64, width=80, num_bytes=1)])
        stored[name] = general_of(name).tensors(noise(64, 80), count)
    assert stored["llava"]["pixel_values"].dtype == np.uint8
    assert stored["llava"]["pixel_values"].shape == (1, 3, 56, 56)
    assert stored["llava_next"]["pixel_values"].dtype == np.uint8
    assert stored["llava_next"]["pixel_values_items"].tolist() == [len(stored["llava_next"]["pixel_values"])]
    assert stored["pixtral"]["pixel_values"].dtype == np.uint8
    assert stored["pixtral"]["pixel_values_patches"].prod() == len(stored["pixtral"]["pixel_values"])
    assert stored["llama4"]["pixel_values"].dtype == np.uint16  # bfloat16, and its global view is resized as floats


def test_what_a_pack_takes_is_forecast():
    for name in ("llava_next", "llama4", "pixtral"):
        family = general_of(name)
        (count,) = family.measure([ImageSize(height=64, width=80, num_bytes=1)])
        made = family.tensors(noise(64, 80), count)
        assert count.stored_bytes == sum(field.nbytes for field in made.values())
        assert count.num_patches == len(made["pixel_values"])


def test_an_image_that_is_not_eight_bits_deep_is_refused():
    family = general_of("llava")
    (count,) = family.measure([ImageSize(height=64, width=80, num_bytes=1)])
    with pytest.raises(RefuseSample, match="not made of 8-bit levels"):
        family.tensors(noise(64, 80).to(torch.int32) * 257, count)


def test_the_fake_image_is_an_image_like_others():
    family = general_of("gemma3")
    encoded, count, pixels = family.fake_image()
    assert isinstance(pixels, Image.Image)
    ids = encoded.expand().input_ids.tolist()
    assert family.decode(ids).count("<image_soft_token>") == count.num_visual_tokens == 16
    assert set(family.tensors(pixels, count)) == {"pixel_values"}


def test_processors_of_pil_are_packed_too():
    family = general_family(build_other("llava", "pil"))
    assert family.loader == "pil"
    assert family.pixel_rules()["pixel_values"].arithmetic == "two_step"
    images = [Image.fromarray(noise(*size).permute(1, 2, 0).numpy()) for size in SIZES[:2]]
    counts = family.measure([ImageSize(height=i.height, width=i.width, num_bytes=1) for i in images])
    fields, truth = joined(family, counts, images), own_run(family.processor, images)
    assert torch.equal(fields["pixel_values"], truth["pixel_values"])


def test_looking_at_pixels_to_count_is_said(caplog):
    general_family(build_other("llava"))
    assert "LlavaProcessor looks at pixels to count images" in caplog.text
    caplog.clear()
    general_family(build_other("ovis2"))
    assert not caplog.text


def test_an_image_that_the_processor_treats_otherwise_in_company_is_refused(monkeypatch):
    family = general_family(build_other("ovis2"))
    own = type(family.processor).replace_image_token

    def short_beside_two_others(self: Any, image_inputs: Any, image_idx: int, **given: Any) -> str:
        text = str(own(self, image_inputs, image_idx, **given))
        return text if image_idx < 2 else text[: len(text) // 2]

    monkeypatch.setattr(type(family.processor), "replace_image_token", short_beside_two_others)
    size = ImageSize(height=90, width=70, num_bytes=1)
    assert len(family.measure([size] * 2)) == 2
    with pytest.raises(RefuseSample, match="something else of a image among 3"):
        family.measure([size] * 3)


@pytest.mark.parametrize("name", ["kimi_k25", "qwen3_vl"])
def test_clips_are_packed_as_the_processor_runs_itself(name: FamilyName):
    processor = build_processor(name)
    family = GeneralFamily(processor)
    assert family.kinds == {"image", "video"}
    size = VideoSize(num_frames=50, frames_per_second=25.0, height=40, width=60, num_bytes=1)
    rng = np.random.default_rng(3)
    whole = torch.from_numpy(rng.integers(0, 256, (50, 3, 40, 60), dtype=np.uint8))
    metadata = clip_metadata(size)
    metadata.frames_indices = sampled_frames(processor.video_processor, metadata)
    clip = Clip(frames=whole[metadata.frames_indices], metadata=metadata)
    (count,) = family.measure([size])
    sample = sample_of(("user", [Media(kind="video", content=b"-"), "Look."]), ("assistant", "Yes."))
    tokens = family.encode(sample, [count]).expand()
    content = [{"type": "video", "video": whole}, {"type": "text", "text": "Look."}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}]
    truth = processor.apply_chat_template(
        turns,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"videos_kwargs": {"video_metadata": [[clip_metadata(size)]]}},
    )
    assert tokens.input_ids.tolist() == truth["input_ids"][0].tolist()
    fields = joined(family, [count], [clip])
    assert "pixel_values_videos" in fields
    for field in fields:
        assert torch.equal(fields[field], truth[field])


def test_why_clips_and_sounds_are_not_packed_is_said(caplog):
    family = GeneralFamily(build_processor("nemotron_omni"))
    assert family.kinds == {"image"}
    assert family.unpacked.keys() == {"video", "audio"}
    assert "samples with video are not packed: it fails on noise: Sizes of tensors must match" in caplog.text
    assert "samples with audio are not packed: the general way has no sounds" in caplog.text


def test_tokens_that_depend_on_pixels_are_refused_when_tried_and_when_packed(monkeypatch):
    late = general_family(build_other("ovis2"))
    (count,) = late.measure([ImageSize(height=150, width=60, num_bytes=1)])
    own = late.processor.image_processor.preprocess

    def more_tokens_for_dark_images(images: Any, **given: Any) -> Any:
        made = own(images, **given)
        if made["pixel_values"].float().mean() < -0.2:
            made["grids"] = made["grids"] + 1
        return made

    monkeypatch.setattr(late.processor.image_processor, "preprocess", more_tokens_for_dark_images)
    with pytest.raises(StopRun, match="depends on the pixels"):
        general_family(late.processor)
    dark = noise(150, 60) // 8
    with pytest.raises(RefuseSample, match="depends on its pixels"):
        late.tensors(dark, count)
