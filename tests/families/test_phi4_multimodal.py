"""Phi-4-multimodal against its own processor: tokens from sizes, tiles and overviews to the bit, sounds as heard alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import FamilyProcessorDir
from tests.families.mixed import a_sound, medium
from tests.families.processors import build_processor
from tests.families.tiled import EDGE_SIZES, noise, random_sizes
from tests.families.truth import sample_of
from vlmprep.families.loading import load_family
from vlmprep.families.phi4_multimodal import Phi4Multimodal
from vlmprep.packing.document import build_fake_document
from vlmprep.runtime.pixels import restore, restore_all
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import AudioSize, ImageSize, MediaSize

IMAGE_FIELDS = {"image_pixel_values", "image_sizes", "image_attention_mask"}
HIDDEN = 1e-5
"""How far a sound's features may lie from those that a run with others gives: some units in the last place."""


def small(side: int = 112, most_tiles: int = 36) -> Phi4Multimodal:
    """Tiles of another size than published, to be quick."""
    processor = build_processor("phi4_multimodal")
    processor.image_processor.size = {"height": side, "width": side}
    processor.image_processor.dynamic_hd = most_tiles
    return Phi4Multimodal(processor)


def size_of(decoded: Any) -> MediaSize:
    if isinstance(decoded, np.ndarray):
        return AudioSize(num_samples=len(decoded), sampling_rate=16_000, num_bytes=1)
    return ImageSize(height=decoded.shape[1], width=decoded.shape[2], num_bytes=1)


def packed_and_own(family: Any, media: Sequence[Any]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Fields as a training job gets them from a pack, and as the processor gives them; tokens are compared here."""
    counts = family.measure([size_of(each) for each in media])
    kinds = [medium(count.kind) for count in counts]
    sample = sample_of(("user", ["Look:", *kinds, "What\n is this?"]), ("assistant", "Noise.\n"))
    tokens = family.encode(sample, counts).expand()
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "Look:"},
        *({"type": count.kind} for count in counts),
        {"type": "text", "text": "What\n is this?"},
    ]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Noise.\n"}]}
    turns = [{"role": "user", "content": content}, answer]
    template = family.processor.chat_template or family.processor.tokenizer.chat_template  # where a reloaded one has it
    text = family.processor.apply_chat_template(turns, chat_template=template)
    images = [each for each in media if not isinstance(each, np.ndarray)]
    sounds = [each for each in media if isinstance(each, np.ndarray)]
    own = dict(
        family.processor(
            text=[text],
            images=images or None,
            audio=sounds or None,
            return_tensors="pt",
            return_mm_token_type_ids=True,
        )
    )
    assert tokens.input_ids.tolist() == own.pop("input_ids")[0].tolist()
    assert tokens.mm_token_type_ids.tolist() == own.pop("mm_token_type_ids")[0].tolist()
    assert own.pop("attention_mask").all()
    assert family.decode(tokens.input_ids[tokens.is_label].tolist()) == "Noise.\n<|end|>"
    each_made = [family.tensors(decoded, count) for decoded, count in zip(media, counts, strict=True)]
    for made, count in zip(each_made, counts, strict=True):
        assert count.inputs
        assert all(np.array_equal(made[name], expected) for name, expected in count.inputs.items())
        large = [array for name, array in made.items() if name in family.pixel_rules()]
        assert count.stored_bytes == sum(array.nbytes for array in large)
    names = {name for made in each_made for name in made}
    fields = {name: np.concatenate([made[name] for made in each_made if name in made]) for name in names}
    return restore_all({name: torch.from_numpy(field) for name, field in fields.items()}, family.pixel_rules()), own


def assert_equal_images(family: Any, sizes: Sequence[tuple[int, int]]) -> None:
    found, own = packed_and_own(family, [noise("torchvision", *size) for size in sizes])
    assert found.keys() == own.keys() == IMAGE_FIELDS
    for name in IMAGE_FIELDS:
        assert found[name].dtype == own[name].dtype
        assert torch.equal(found[name], own[name]), name


@pytest.mark.parametrize("side", [112, 70])
def test_images_are_the_processors_own(side):
    family = small(side)
    sizes = [size for size in [*EDGE_SIZES, *random_sizes(40)] if is_taken(family, size)]
    assert len(sizes) > 35
    for first in range(0, len(sizes) - 2, 3):
        assert_equal_images(family, sizes[first : first + 1 + first % 3])


def is_taken(family: Any, size: tuple[int, int]) -> bool:
    """Whether the processor takes an image of this size, and that the family says the same."""
    try:
        family.measure([ImageSize(height=size[0], width=size[1], num_bytes=1)])
    except RefuseSample:
        with pytest.raises(ValueError, match="aspect ratio"):
            family.processor.image_processor(images=[noise("torchvision", *size)])
        return False
    return True


def test_images_of_more_tiles_than_allowed_are_the_processors_own():
    family = small(70, most_tiles=7)
    for size in [(400, 500), (90, 700), (650, 120), (300, 300)]:
        assert_equal_images(family, [size, (60, 50)])


def test_images_of_the_published_size_are_the_processors_own(family_processor_dir: FamilyProcessorDir):
    family = load_family(FamilySettings(processor=str(family_processor_dir("phi4_multimodal"))))
    assert isinstance(family, Phi4Multimodal)
    assert family.position_axes == 1
    assert family.kinds == {"image", "audio"}
    assert_equal_images(family, [(500, 700), (200, 300), (448, 448)])
    assert_equal_images(family, [(30, 40)])


def test_a_long_thin_image_is_refused():
    with pytest.raises(RefuseSample, match="a 1 x 900 image: the aspect ratio is very extreme"):
        small().measure([ImageSize(height=900, width=1, num_bytes=1)])


def test_tiles_are_stored_as_levels_and_the_overview_not_at_all():
    family = small()
    decoded = noise("torchvision", 200, 300)
    (count,) = family.measure([size_of(decoded)])
    made = family.tensors(decoded, count)
    assert made["image_pixel_values"].shape == (6, 3, 112, 112)
    assert made["image_pixel_values"].dtype == np.uint8
    assert made["image_attention_mask"].shape == (7, 8, 8)
    assert count.num_patches == 6


def test_an_overview_is_resized_before_it_becomes_a_smaller_type():
    family = small()
    decoded = noise("torchvision", 200, 300)
    made = family.tensors(decoded, family.measure([size_of(decoded)])[0])
    fields = {name: torch.from_numpy(array) for name, array in made.items()}
    rule = family.pixel_rules()["image_pixel_values"]
    exact = restore(fields["image_pixel_values"], rule, torch.float32, fields)
    assert torch.equal(restore(fields["image_pixel_values"], rule, torch.bfloat16, fields), exact.to(torch.bfloat16))


def test_one_sound_is_the_processors_own_and_has_no_mask():
    family = small()
    for num_samples in (400, 559, 560, 4_000, 16_000):
        found, own = packed_and_own(family, [a_sound(num_samples)])
        assert found.keys() == own.keys() == {"audio_input_features", "audio_embed_sizes"}
        for name in own:
            assert torch.equal(found[name], own[name])


def test_several_sounds_are_filled_up_and_masked():
    family = small()
    found, own = packed_and_own(family, [a_sound(16_000), a_sound(9_000), noise("torchvision", 90, 60), a_sound(400)])
    sounds = {"audio_input_features", "audio_embed_sizes", "audio_attention_mask"}
    assert found.keys() == own.keys() == IMAGE_FIELDS | sounds
    for name in own.keys() - {"audio_input_features"}:
        assert found[name].dtype == own[name].dtype
        assert torch.equal(found[name], own[name]), name
    mask = own["audio_attention_mask"]
    assert mask.shape == found["audio_input_features"].shape[:2] == own["audio_input_features"].shape[:2]
    assert 0 < mask.sum() < mask.numel()
    assert (found["audio_input_features"] - own["audio_input_features"])[mask].abs().max() < HIDDEN
    assert not found["audio_input_features"][~mask].any()


def test_every_length_counts_as_the_processor_counts_it():
    family = small()
    lengths = [400, 401, 1_679, 1_680, 1_681, 5_000, 44_100, *np.random.default_rng(0).integers(400, 60_000, 40)]
    for num_samples in lengths:
        size = AudioSize(num_samples=int(num_samples), sampling_rate=16_000, num_bytes=1)
        (count,) = family.measure([size])
        own = family.processor.audio_processor([np.zeros(num_samples, np.float32)], sampling_rate=16_000)
        assert count.run_lengths == (int(own["audio_embed_sizes"][0]),)
        assert count.num_visual_tokens == 0


def test_a_sound_too_short_for_a_frame_is_refused():
    family = small()
    with pytest.raises(RefuseSample, match="399 samples is too short"):
        family.measure([AudioSize(num_samples=399, sampling_rate=16_000, num_bytes=1)])


def test_settings_that_the_overview_rests_on_are_checked():
    processor = build_processor("phi4_multimodal")
    processor.image_processor.resample = 2
    with pytest.raises(StopRun, match="resampling 2"):
        Phi4Multimodal(processor)
    processor = build_processor("phi4_multimodal")
    processor.audio_processor.audio_feat_stride = 2
    with pytest.raises(StopRun, match="audio_feat_stride"):
        Phi4Multimodal(processor)


def test_the_fake_image_is_the_smallest_of_one_tile():
    family = Phi4Multimodal(build_processor("phi4_multimodal"))
    encoded, count, pixels = family.fake_image()
    made = family.tensors(pixels, count)
    assert made["image_pixel_values"].shape == (1, 3, 448, 448)
    assert encoded.num_tokens == count.num_visual_tokens + 1 == 291
    sizes = [(10, 448), (448, 10), (56, 56), (448, 448), (1, 40), (40, 1), (20, 900), (900, 20)]
    counts = family.measure([ImageSize(height=height, width=width, num_bytes=1) for height, width in sizes])
    assert min(found.num_visual_tokens for found in counts) == count.num_visual_tokens


def test_the_shift_leaves_the_fake_image_all_its_placeholders():
    document = build_fake_document(small())
    assert np.count_nonzero(document.mm_token_type_ids) == document.num_visual_tokens > 200
