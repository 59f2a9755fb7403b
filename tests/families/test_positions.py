"""Positions from a config alone against the model class's own method."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.families.qwen_truth import clip_size
from tests.families.truth import encode, make_family, sample_of
from vlmprep.families.loading import load_family
from vlmprep.families.qwen.mrope import MropePositions
from vlmprep.families.qwen.omni import Qwen3Omni
from vlmprep.families.qwen.vl import Qwen2VL, Qwen3VL, Qwen3VLMoe, Qwen25VL, Qwen35, Qwen35Moe
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import FamilySettings, Tokens
from vlmprep.schema.media import AudioSize, ImageSize, MediaSize

IMAGE, CLIP, SOUND = (Media(kind=kind, content=b"-") for kind in ("image", "video", "audio"))
SMALL = 100_000
FAMILIES: dict[str, tuple[Any, Any]] = {
    "qwen2_vl": (Qwen2VL, "qwen2_vl"),
    "qwen2_5_vl": (Qwen25VL, "qwen2_5_vl"),
    "qwen3_vl": (Qwen3VL, "qwen3_vl"),
    "qwen3_vl_moe": (Qwen3VLMoe, "qwen3_vl"),
    "qwen3_5": (Qwen35, "qwen3_vl"),
    "qwen3_5_moe": (Qwen35Moe, "qwen3_vl"),
}
"""By model: the family, and whose processor it has."""
OMNI = ("qwen3_omni", "qwen3_omni that hears clips")
CONVERSATIONS: dict[str, list[Any]] = {
    "text": [("user", "Hello"), ("assistant", "Hi.")],
    "one image": [("user", [IMAGE, "Look"]), ("assistant", "Yes.")],
    "an image between texts": [("user", ["Look", IMAGE, "there"]), ("assistant", "Yes.")],
    "images side by side": [("user", [IMAGE, IMAGE, IMAGE]), ("assistant", "Yes.")],
    "images in several turns": [
        ("user", [IMAGE, "and", IMAGE]),
        ("assistant", "Yes."),
        ("user", [IMAGE]),
        ("assistant", "No."),
    ],
    "a clip": [("user", [CLIP, "Look"]), ("assistant", "Yes.")],
    "clips side by side": [("user", [CLIP, CLIP, CLIP]), ("assistant", "Yes.")],
    "clips and images": [
        ("user", [CLIP, "and", IMAGE, IMAGE, CLIP]),
        ("assistant", "Yes."),
        ("user", [IMAGE, CLIP, "?"]),
        ("assistant", "No."),
    ],
}
CONVERSATIONS_HEARD: dict[str, list[Any]] = {
    "a sound": [("user", [SOUND, "Listen"]), ("assistant", "Yes.")],
    "sounds side by side": [("user", [SOUND, SOUND]), ("assistant", "Yes."), ("user", [SOUND]), ("assistant", "No.")],
    "a sound and an image": [("user", [SOUND, IMAGE]), ("assistant", "Yes.")],
    "all kinds": [
        ("user", [SOUND, "and", CLIP, IMAGE, CLIP]),
        ("assistant", "Yes."),
        ("user", [IMAGE, CLIP, SOUND, "?"]),
        ("assistant", "No."),
    ],
}
IMAGE_SIZES = [(300, 100), (28, 28), (64, 640)]
CLIP_SIZES = [(9, 23.976, 300, 100), (30, 24.0, 28, 64), (5, 12.5, 64, 64)]
SOUND_LENGTHS = [30_000, 5_001, 16_000]


def model_on_meta(model_class: Any, config: Any) -> Any:
    """A model class with its own config, shrunk where positions do not look, and without weights."""
    config = config.__class__.from_dict(config.to_dict())
    config.text_config.num_hidden_layers = 1
    if layer_types := getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = layer_types[-1:]
    config.vision_config.depth = 1
    config.vision_config.deepstack_visual_indexes = [0]
    if hasattr(config, "audio_config"):
        config.audio_config.encoder_layers = 1
    with torch.device("meta"):
        return model_class(config)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, processor_dir):
    made, processor = FAMILIES[request.param]
    return made(make_family(processor_dir, processor, "torchvision", SMALL).processor)


@pytest.fixture(scope="module", params=OMNI)
def omni(request, family_processor_dir):
    processor = AutoProcessor.from_pretrained(family_processor_dir("qwen3_omni"))
    processor.load_audio_from_video = request.param == OMNI[1]
    processor.videos_kwargs = {"size": {"shortest_edge": 4_096, "longest_edge": 16_384}}
    return Qwen3Omni(processor)


def sizes_for(sample: Any) -> list[MediaSize]:
    """A size for each medium of a sample."""
    audio = [AudioSize(num_samples=length, sampling_rate=16_000, num_bytes=1) for length in SOUND_LENGTHS]
    clips = [clip_size(*size) for size in CLIP_SIZES]
    heard = [dataclasses.replace(clip, audio=sound) for clip, sound in zip(clips, audio, strict=True)]
    left: dict[str, Any] = {
        "image": iter([ImageSize(height=h, width=w, num_bytes=1) for h, w in IMAGE_SIZES]),
        "video": iter(heard),
        "audio": iter(audio),
    }
    return [next(left[medium.kind]) for medium in sample.media()]


def sequence_of(family: Any, sample: Any, sizes: Sequence[MediaSize]) -> tuple[Tokens, dict[str, Any]]:
    """The tokens of a sample and the small inputs of its media."""
    counts = family.measure(sizes)
    names = {name for count in counts for name in count.inputs}
    inputs = {name: np.concatenate([count.inputs[name] for count in counts if name in count.inputs]) for name in names}
    return family.encode(sample, counts).expand(), inputs


def models_positions(family: Any, tokens: Tokens, inputs: dict[str, Any]) -> Any:
    """What the model's own method gives."""
    truth, _ = model_on_meta(family._model_classes()[0], family.config).get_rope_index(
        input_ids=torch.from_numpy(tokens.input_ids.astype(np.int64))[None],
        mm_token_type_ids=torch.from_numpy(tokens.mm_token_type_ids.astype(np.int64))[None],
        **{name: torch.from_numpy(grid) for name, grid in inputs.items()},
    )
    return truth[:, 0]


def thinkers_positions(family: Any, tokens: Tokens, inputs: dict[str, Any]) -> Any:
    """What the thinker gives, with the arguments that its forward hands on."""
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerModel

    ids = torch.from_numpy(tokens.input_ids.astype(np.int64))[None]
    fields = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return model_on_meta(Qwen3OmniMoeThinkerModel, family.config.thinker_config).compute_3d_position_ids(
        input_ids=ids,
        image_grid_thw=fields.get("image_grid_thw"),
        video_grid_thw=fields.get("video_grid_thw"),
        inputs_embeds=None,
        attention_mask=torch.ones_like(ids),
        past_key_values=None,
        use_audio_in_video=family.hears_clips,
        audio_feature_lengths=fields.get("audio_feature_lengths"),
        video_second_per_grid=fields.get("video_second_per_grid"),
    )[:, 0]


def assert_positions(found: Any, truth: Any, tokens: Tokens, *, is_text: bool) -> None:
    assert found.shape == (3, len(tokens.input_ids))
    assert found.dtype == np.int32
    assert found.tolist() == truth.tolist()
    if is_text:
        assert found.tolist() == [list(range(len(tokens.input_ids)))] * 3
    else:
        assert len({tuple(axis) for axis in found.tolist()}) == 3


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_positions_are_the_models_own(family, conversation):
    sample = sample_of(*CONVERSATIONS[conversation])
    tokens, inputs = sequence_of(family, sample, sizes_for(sample))
    found = family.positions(tokens, inputs)
    assert_positions(found, models_positions(family, tokens, inputs), tokens, is_text=conversation == "text")


@pytest.mark.parametrize("conversation", CONVERSATIONS | CONVERSATIONS_HEARD)
def test_omnis_positions_are_the_thinkers_own(omni, conversation):
    sample = sample_of(*(CONVERSATIONS | CONVERSATIONS_HEARD)[conversation])
    tokens, inputs = sequence_of(omni, sample, sizes_for(sample))
    is_text = not {"image", "video"} & {medium.kind for medium in sample.media()}
    found = omni.positions(tokens, inputs)
    assert_positions(found, thinkers_positions(omni, tokens, inputs), tokens, is_text=is_text)


def test_many_media_are_where_the_model_puts_them(family):
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(12):
        kinds = rng.integers(0, 2, rng.integers(1, 5)).tolist()
        media = [CLIP if kind else IMAGE for kind in kinds]
        shapes = rng.integers(20, 700, (len(kinds), 2)).tolist()
        sizes: list[MediaSize] = [
            clip_size(
                int(rng.integers(2, 30)), float(rng.choice([24.0, 29.97, 12.5])), height // 2 + 10, width // 2 + 10
            )
            if kind
            else ImageSize(height=height, width=width, num_bytes=1)
            for kind, (height, width) in zip(kinds, shapes, strict=True)
        ]
        sample = sample_of(("user", media), ("assistant", "Yes."))
        tokens, inputs = sequence_of(family, sample, sizes)
        walked = family.positions(tokens, inputs)
        assert walked.tolist() == family._positions._model_positions(tokens, inputs).tolist()
        compared += len(media)
    assert compared > 20


def test_the_short_way_is_taken(family):
    one_run_a_clip = family.name in ("qwen2_vl", "qwen2_5_vl")
    assert family._positions._walks_pictures == one_run_a_clip
    assert family._positions._walks_frames != one_run_a_clip


@pytest.mark.parametrize("kind", [1, 2])
def test_pictures_that_nothing_keeps_apart_are_refused(family, kind):
    # Their tokens are one run, in which the model would see one picture.
    grids = {"image_grid_thw" if kind == 1 else "video_grid_thw": np.array([[1, 4, 4], [1, 4, 4]])}
    types = np.repeat(np.array([0, kind, 0], dtype=np.uint8), [2, 8, 2])
    tokens = Tokens(input_ids=types.astype(np.int32), is_label=types > 0, mm_token_type_ids=types)
    with pytest.raises(RefuseSample, match="cannot be placed"):
        family.positions(tokens, grids)


def test_placeholders_without_a_picture_are_refused(family):
    types = np.array([0, 1, 1, 0], dtype=np.uint8)
    tokens = Tokens(input_ids=types.astype(np.int32), is_label=types > 0, mm_token_type_ids=types)
    with pytest.raises(RefuseSample, match="cannot be placed"):
        family.positions(tokens, {})


def test_a_model_that_walks_otherwise_is_asked_itself(family):
    """The short way is taken only where it was seen to agree."""

    class Otherwise(family._model_classes()[0]):  # type: ignore[misc]
        def get_rope_index(self, input_ids: Any, **_: Any) -> Any:
            return torch.arange(input_ids.shape[1]).expand(3, 1, -1) + 7, None

    positions = MropePositions(Otherwise, family.config)
    tokens = encode(family, sample_of(("user", "Q"), ("assistant", "A"))).expand()
    assert positions(tokens, {}).tolist() == [list(range(7, 7 + len(tokens.input_ids)))] * 3


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"])
def test_models_that_share_a_processor_are_told_apart_by_their_config(name, processor_dir, tmp_path):
    folder = tmp_path / name
    shutil.copytree(processor_dir("qwen3_vl", max_pixels=SMALL), folder)
    CONFIG_MAPPING[name]().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == name
    family = load_family(FamilySettings(processor=str(folder)))
    assert type(family) is FAMILIES[name][0]
    assert family.name == name == AutoConfig.from_pretrained(folder).model_type
    assert type(AutoProcessor.from_pretrained(folder)).__name__ == "Qwen3VLProcessor"


def test_a_config_that_merges_otherwise_stops_the_run(processor_dir):
    processor = make_family(processor_dir, "qwen2_vl", "torchvision", SMALL).processor
    config = CONFIG_MAPPING["qwen2_vl"]()
    config.vision_config.spatial_merge_size = 3
    with pytest.raises(StopRun, match="merges 3 x 3 patches, the processor 2 x 2"):
        Qwen2VL(processor, config)


def test_a_config_of_a_relative_stops_the_run(processor_dir):
    processor = make_family(processor_dir, "qwen2_vl", "torchvision", SMALL).processor
    with pytest.raises(StopRun, match="the model qwen2_5_vl, and the processor is packed for qwen2_vl"):
        Qwen2VL(processor, CONFIG_MAPPING["qwen2_5_vl"]())
