"""The encoders of the Qwen families: predicted work is what torch counts, to the operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.families.costs.flops import count_flops
from tests.families.costs.predicted import predicted, terms
from tests.families.processors import FamilyName, build_processor
from tests.models import AnyFamily, tiny_model
from tests.tiny_configs import qwen3_vision
from vlmprep.families.qwen.omni import Qwen3Omni
from vlmprep.families.qwen.vl import Qwen2VL, Qwen3VL, Qwen25VL
from vlmprep.families.qwen.work import picture_work, sound_work
from vlmprep.schema.errors import StopRun
from vlmprep.schema.media import AudioSize, EncoderWork, ImageSize, MediaSize, VideoSize

PATCH = 14
GRIDS = [
    [[1, 4, 4]],
    [[1, 6, 10]],
    [[1, 2, 14], [1, 8, 8]],
    [[3, 6, 4]],
    [[2, 10, 6], [1, 12, 2], [4, 2, 2]],
]
"""Images and clips alone and together; sides that windows of 4 x 4 patches fill, and sides that they do not."""
VISION: tuple[AnyFamily, ...] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_omni_moe")
MERGERS = {"qwen3_vl": ("merger", "deepstack_merger_list"), "qwen3_omni_moe": ("merger", "merger_list")}


def all_work(pieces: list[EncoderWork]) -> EncoderWork:
    return sum(pieces[1:], start=pieces[0])


@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("family", VISION)
def test_vision_is_predicted_exactly(family: AnyFamily, grids: list[list[int]]) -> None:
    model = tiny_model(family, patch_size=PATCH, attn_implementation="eager")
    visual = "model.visual" if hasattr(model, "model") and hasattr(model.model, "visual") else "visual"
    encoder, grid = model.get_submodule(visual), torch.tensor(grids)
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * PATCH**2)
    flops = count_flops(model, lambda: encoder(pixels, grid_thw=grid))

    window = 4 if family == "qwen2_5_vl" else None
    work = all_work([picture_work(np.array([each]), window) for each in grids])
    found = terms(model.config)
    layers = found["per_patch"] * work.num_encoder_patches
    layers += found["per_patch_pair"] * work.num_patch_pairs
    layers += found.get("per_window_pair", 0.0) * work.num_window_pairs
    mergers = [f"{visual}.{name}" for name in MERGERS.get(family, ("merger",))]
    assert flops.of(*mergers) == found["per_visual_token"] * work.num_encoder_patches / 4 > 0
    assert flops.of(visual, but=mergers) == layers > 0


@pytest.mark.parametrize("name", ["Qwen3VLMoe", "Qwen3_5Moe"])
def test_encoders_before_experts_are_predicted_exactly(name: str) -> None:
    import transformers

    vision = qwen3_vision(PATCH) | ({"deepstack_visual_indexes": [0, 1]} if name == "Qwen3VLMoe" else {})
    config = getattr(transformers, f"{name}Config")(vision_config=vision)
    encoder: Any = getattr(transformers, f"{name}VisionModel")._from_config(
        config.vision_config, attn_implementation="eager"
    )
    grid = torch.tensor([[2, 6, 4]])
    flops = count_flops(encoder, lambda: encoder(torch.randn(48, 3 * 2 * PATCH**2), grid_thw=grid))
    work, found = picture_work(grid.numpy()), terms(config)
    assert flops.total == (
        found["per_patch"] * work.num_encoder_patches
        + found["per_patch_pair"] * work.num_patch_pairs
        + found["per_visual_token"] * work.num_encoder_patches / 4
    )


def test_windows_and_whole_frames_are_told_apart() -> None:
    model = tiny_model("qwen2_5_vl", patch_size=PATCH, attn_implementation="eager")
    grid = torch.tensor([[1, 6, 10]])
    flops = count_flops(model, lambda: model.model.visual(torch.randn(60, 3 * 2 * PATCH**2), grid_thw=grid))
    work, found = picture_work(grid.numpy(), 4), terms(model.config)
    scores = [
        flops.of(f"{layer}.attn", but=[f"{layer}.attn.qkv", f"{layer}.attn.proj"])
        for layer in ("model.visual.blocks.0", "model.visual.blocks.1")
    ]
    assert work.num_window_pairs == 2 * 16**2 + 8**2 + 2 * 8**2 + 4**2 < work.num_patch_pairs == 60**2
    assert scores == [
        found["per_window_pair"] * work.num_window_pairs,
        found["per_patch_pair"] * work.num_patch_pairs,
    ]


@pytest.mark.parametrize("frames", [[101], [100], [350], [1700], [101, 830, 99]], ids=str)
def test_sound_is_predicted_exactly(frames: list[int]) -> None:
    model = tiny_model("qwen3_omni_moe", attn_implementation="eager")
    sound, config = model.model.audio_tower, model.config.audio_config
    config._attn_implementation = "eager"
    lengths = torch.tensor(frames)
    tokens = 0

    def run() -> None:
        nonlocal tokens
        made = sound(torch.randn(config.num_mel_bins, sum(frames)), feature_lens=lengths)
        tokens = len(made.last_hidden_state)

    flops = count_flops(model, run)
    chunk, (window_chunks, per_chunk) = 2 * config.n_window, (config.n_window_infer // (2 * config.n_window), 13)
    outputs = [per_chunk * (length // chunk) + -(-(length % chunk) // 8) for length in frames]
    assert sum(outputs) == tokens
    work = all_work(
        [
            sound_work(length, output, chunk=chunk, window=window_chunks * per_chunk)
            for length, output in zip(frames, outputs, strict=True)
        ]
    )
    found = terms(model.config)
    convolutions = [f"model.audio_tower.{name}" for name in ("conv2d1", "conv2d2", "conv2d3", "conv_out")]
    in_chunks = found["per_sound_feature"] * work.num_sound_features
    assert in_chunks > 0
    assert flops.of(*convolutions) == pytest.approx(in_chunks, rel=1e-12)  # a hundredth of a chunk is no float
    rest = found["per_sound_frame"] * work.num_sound_frames + found["per_sound_pair"] * work.num_sound_pairs
    assert flops.of("model.audio_tower", but=convolutions) == rest > 0


FROM_SIZES: dict[FamilyName, tuple[type[Qwen2VL], AnyFamily, int]] = {
    "qwen2_vl": (Qwen2VL, "qwen2_vl", 14),
    "qwen2_5_vl": (Qwen25VL, "qwen2_5_vl", 14),
    "qwen3_vl": (Qwen3VL, "qwen3_vl", 16),
}
SIZES: list[MediaSize] = [
    ImageSize(height=56, width=56, num_bytes=0),
    ImageSize(height=97, width=411, num_bytes=0),
    VideoSize(num_frames=9, frames_per_second=2.0, height=120, width=90, num_bytes=0),
]


@pytest.mark.parametrize("name", FROM_SIZES)
def test_the_work_of_a_medium_follows_from_its_size(name: FamilyName) -> None:
    family_class, model_name, patch = FROM_SIZES[name]
    model = tiny_model(model_name, patch_size=patch, attn_implementation="eager")
    counts = family_class(build_processor(name), model.config).measure(SIZES)
    grids = [grid for count in counts for field, grid in count.inputs.items() if field.endswith("grid_thw")]
    assert len(grids) == len(SIZES)
    for count, grid in zip(counts, map(torch.from_numpy, grids), strict=True):
        pixels = torch.randn(count.num_patches, 3 * 2 * patch**2)
        flops = count_flops(model, lambda p=pixels, g=grid: model.model.visual(p, grid_thw=g))  # type: ignore[misc]
        assert flops.total == predicted(model.config, [count]) > 0
        assert (count.work.num_window_pairs > 0) == (name == "qwen2_5_vl")


def test_the_work_of_a_sound_follows_from_its_length_and_the_sounds_beside_it() -> None:
    processor = build_processor("qwen3_omni")
    family = Qwen3Omni(processor)
    model = tiny_model("qwen3_omni_moe", attn_implementation="eager")
    sizes = [AudioSize(num_samples=samples, sampling_rate=16_000, num_bytes=0) for samples in (48_000, 16_321, 300_000)]
    counts = family.measure(sizes)
    frames = torch.tensor([int(count.inputs["audio_feature_lengths"][0]) for count in counts])
    features = torch.randn(model.config.audio_config.num_mel_bins, int(frames.sum()))
    flops = count_flops(model, lambda: model.model.audio_tower(features, feature_lens=frames))
    assert flops.total == pytest.approx(predicted(model.config, counts), rel=1e-12)
    assert [count.work.num_sound_frames for count in counts] == [count.num_placeholders for count in counts]
    assert len({count.work.num_sound_pairs for count in counts}) == len(sizes)


def test_a_heard_clip_costs_what_it_shows_and_what_is_heard() -> None:
    sound = AudioSize(num_samples=40_000, sampling_rate=16_000, num_bytes=0)
    clip = VideoSize(num_frames=8, frames_per_second=2.0, height=90, width=120, num_bytes=0, audio=sound)
    family = Qwen3Omni(build_processor("qwen3_omni"))
    family.hears_clips = True
    (heard,) = family.measure([clip])
    (alone,) = family.measure([sound])
    family.hears_clips = False
    (seen,) = family.measure([clip])
    assert seen.work.num_sound_frames == alone.work.num_encoder_patches == 0
    assert heard.work == seen.work + alone.work


def test_a_window_smaller_than_a_visual_token_is_not_taken() -> None:
    config = tiny_model("qwen2_5_vl").config
    config.vision_config.window_size = 20
    with pytest.raises(StopRun, match="window of 20 pixels"):
        Qwen25VL(build_processor("qwen2_5_vl"), config)
