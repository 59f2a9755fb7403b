"""Sound encoders of convolutions and conformer layers: predicted work is what torch counts, less what every sound costs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from tests.families.costs.flops import Flops, count_flops
from tests.families.costs.predicted import predicted, terms
from tests.families.mixed import a_sound
from tests.families.processors import build_processor
from tests.families.tiled import restored
from tests.models import tiny_model
from vlmprep.families.base import BaseFamily
from vlmprep.families.costs.encoders_sound import parakeet
from vlmprep.families.gemma4 import Gemma4
from vlmprep.families.nemotron_omni import NemotronOmni
from vlmprep.families.phi4_multimodal import Phi4Multimodal
from vlmprep.schema.errors import StopRun
from vlmprep.schema.media import AudioSize, MediaCount

HIDDEN, LAYERS = 32, 2


def counted(family: BaseFamily, num_samples: int) -> MediaCount:
    (count,) = family.measure([AudioSize(num_samples=num_samples, sampling_rate=16_000, num_bytes=1)])
    return count


def of_frames(family: BaseFamily, num_features: int) -> tuple[MediaCount, dict[str, Any]]:
    """A sound of so many frames of features: its count, and its fields as a model gets them."""
    lengths = (160 * num_features + more for more in range(-640, 960, 80))
    for num_samples in lengths:
        count = counted(family, num_samples)
        if count.work.num_sound_features == num_features:
            return count, restored(family, [family.tensors(a_sound(num_samples), count)])
    raise AssertionError(f"no sound has {num_features} frames")


@functools.cache
def gemma4() -> tuple[Gemma4, Any]:
    return Gemma4(build_processor("gemma4")), tiny_model("gemma4", patch_size=16)


@functools.cache
def phi4() -> tuple[Phi4Multimodal, Any]:
    def fit(config: Any) -> None:
        config.audio_config.input_size, config.audio_config.nemo_final_size = 80, 10

    return Phi4Multimodal(build_processor("phi4_multimodal")), tiny_model(
        "phi4_multimodal", attn_implementation="eager", fit=fit
    )


@functools.cache
def nemotron() -> tuple[NemotronOmni, Any]:
    def fit(config: Any) -> None:
        config.audio_config.num_mel_bins, config.audio_config._attn_implementation = 80, "eager"

    model = tiny_model("nemotron_h_omni", attn_implementation="eager", fit=fit)
    return NemotronOmni(build_processor("nemotron_omni")), model.eval()  # whose training wants more than one frame


def run_gemma4(fields: dict[str, Any]) -> tuple[Flops, int]:
    """Operations, and those of the keys of distances, which all sounds of a batch share."""
    model = gemma4()[1]
    flops = count_flops(model, lambda: model.model.get_audio_features(return_dict=True, **fields))
    keys = [f"model.audio_tower.layers.{layer}.self_attn.relative_k_proj" for layer in range(LAYERS)]
    return flops, flops.of(*keys)


def run_phi4(fields: dict[str, Any]) -> tuple[Flops, int]:
    """Operations, and those of the convolutions on the two frames of zeros beside every piece of a sound."""
    model = phi4()[1]
    embed = model.model.embed_tokens_extend.audio_embed
    ids = torch.full((1, int(fields["audio_embed_sizes"].sum())), model.config.audio_config.audio_token_id)
    given = {name: fields.get(name) for name in ("audio_input_features", "audio_embed_sizes", "audio_attention_mask")}
    flops = count_flops(model, lambda: embed(ids, torch.zeros(*ids.shape, HIDDEN), **given))
    num_pieces = -(-ids.shape[1] // 500)
    return flops, LAYERS * num_pieces * 2 * (2 * 3 * HIDDEN + 2 * HIDDEN**2)


def run_nemotron(fields: dict[str, Any]) -> tuple[Flops, int]:
    """Operations, and (below 0) those of the one distance that 2 T - 1 lacks of 2 T."""
    model = nemotron()[1]
    flops = count_flops(model, lambda: model.get_audio_features(return_dict=True, **fields))
    return flops, -LAYERS * 2 * HIDDEN**2


FAMILIES: dict[str, tuple[Any, Any, int]] = {
    "gemma4": (gemma4, run_gemma4, 48),
    "phi4": (phi4, run_phi4, 8),
    "nemotron": (nemotron, run_nemotron, 8),
}
"""Tiny models, how they are run, and of how many frames of features a sound is a multiple that leaves nothing half filled."""


PHI4_SOUND = "model.embed_tokens_extend.audio_embed"
IN_FRONT = {
    "gemma4": ("model.audio_tower.subsample_conv_projection",),
    "phi4": (
        f"{PHI4_SOUND}.encoder.embed",
        *(f"{PHI4_SOUND}.{way}_proj_for_speech" for way in ("up", "down")),
    ),
    "nemotron": ("audio_tower.subsampling",),
}
"""What counts by features: what stands in front of the layers, in Phi-4 what stands behind as well."""


@pytest.mark.parametrize("times", [1, 3, 10])
@pytest.mark.parametrize("name", FAMILIES)
def test_sounds_that_fill_their_frames_are_predicted_exactly(name: str, times: int) -> None:
    make, run, multiple = FAMILIES[name]
    family, model = make()
    count, fields = of_frames(family, times * multiple)
    flops, whatever_its_length = run(fields)
    assert flops.total - whatever_its_length == predicted(model.config, [count]) > 0
    in_front = flops.of(*IN_FRONT[name])
    assert 0 < abs(whatever_its_length) < terms(model.config)["per_sound_frame"]
    assert in_front == count.work.num_sound_features * terms(model.config)["per_sound_feature"] > 0


@pytest.mark.parametrize("num_features", [41, 100, 333, 991])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_sounds_miss_by_less_than_a_block(name: str, num_features: int) -> None:
    make, run, multiple = FAMILIES[name]
    family, model = make()
    count, fields = of_frames(family, num_features)
    flops, whatever_its_length = run(fields)
    missed = flops.total - whatever_its_length - predicted(model.config, [count])
    found = terms(model.config)
    block = multiple * found["per_sound_feature"] + (12 * found["per_sound_frame"] if name == "gemma4" else 0)
    assert 0 <= missed < block
    assert missed < 0.1 * flops.total


@pytest.mark.parametrize("num_features", [4_000, 4_008, 8_800])
def test_long_sounds_of_phi4_are_cut_into_pieces(num_features: int) -> None:
    family, model = phi4()
    count, fields = of_frames(family, num_features)
    pieces = -(-num_features // 4_000)
    assert count.work.num_sound_frames == 500 * pieces
    flops, borders = run_phi4(fields)
    assert flops.total - borders == predicted(model.config, [count])


def test_models_that_do_not_hear_have_no_work_of_sound() -> None:
    from transformers import Gemma4Config

    assert "per_sound_frame" not in terms(Gemma4Config(audio_config=None))


def test_other_convolutions_are_not_guessed() -> None:
    config = tiny_model("nemotron_h_omni").config
    config.audio_config.subsampling_conv_kernel_size = 5
    with pytest.raises(StopRun, match="first convolutions") as caught:
        parakeet(config)
    assert "--balance vt" in caught.value.hint
