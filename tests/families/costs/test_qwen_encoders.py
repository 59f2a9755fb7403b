"""The encoders of the Qwen families: predicted work is what torch counts, to the operation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.families.costs.flops import count_flops
from tests.models import AnyFamily, tiny_model
from vlmprep.families.costs.table import ENCODERS
from vlmprep.families.qwen.work import picture_work, sound_work
from vlmprep.schema.media import EncoderWork

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


def terms(config: object) -> dict[str, float]:
    """Fields of the cost model that the encoders give."""
    merged: dict[str, float] = {}
    for part in ENCODERS[config.model_type]:  # type: ignore[attr-defined]
        merged |= part(config)
    return merged


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
