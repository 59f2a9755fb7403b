"""Encoders that see pictures as grids of patches: predicted work is what torch counts, to the operation, from sizes alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.families import kimi_vl_remote
from tests.families.costs.flops import count_flops
from tests.families.costs.predicted import predicted, terms
from tests.families.mixed import Clips, a_clip, an_image, decoded, size_of
from tests.families.processors import build_processor, build_tokenizer, template
from tests.families.tiled import noise, restored
from tests.models import tiny_model
from vlmprep.families.base import BaseFamily
from vlmprep.families.gemma4 import Gemma4
from vlmprep.families.kimi import KimiK25
from vlmprep.families.kimi_vl import KimiVL
from vlmprep.families.nemotron_omni import NemotronOmni
from vlmprep.families.phi4_multimodal import Phi4Multimodal
from vlmprep.schema.media import MediaCount

Fields = dict[str, torch.Tensor]


def in_a_pack(family: BaseFamily, media: Sequence[Any]) -> tuple[list[MediaCount], Fields]:
    """Counts of images and clips from their sizes, and their fields as a model gets them."""
    counts = family.measure([size_of(entry) for entry in media])
    made = [family.tensors(decoded(family, entry), count) for entry, count in zip(media, counts, strict=True)]
    return counts, restored(family, made)


PROJECTORS = {
    "gemma4": ("model.embed_vision",),
    "kimi_k25": ("model.mm_projector",),
    "phi4_multimodal": tuple(f"model.embed_tokens_extend.image_embed.img_projection_{way}" for way in ("up", "down")),
    "nemotron_h_omni": ("multi_modal_projector",),
}
"""What stands between encoder and language model, by model_type."""


def check(model: Any, run: Callable[[], Any], counts: Sequence[MediaCount]) -> None:
    """Running takes as many operations as counts and config say, and gives as many features as there are placeholders."""
    made: list[torch.Tensor] = []
    flops = count_flops(model, lambda: made.append(run()))
    num_tokens = sum(count.num_visual_tokens for count in counts)
    assert len(made[0]) == num_tokens > 0
    assert flops.total == predicted(model.config, counts) > 0
    projector = flops.of(*PROJECTORS[model.config.model_type])
    assert projector == num_tokens * terms(model.config)["per_visual_token"] > 0


@functools.cache
def gemma4() -> tuple[Gemma4, Any]:
    processor = build_processor("gemma4")
    processor.image_processor.max_soft_tokens, processor.video_processor.num_frames = 70, 3

    def fit(config: Any) -> None:
        vision = config.vision_config
        vision.pooling_kernel_size, vision.position_embedding_size = 3, 1_024
        vision.num_key_value_heads, vision.head_dim = 1, 24

    return Gemma4(processor), tiny_model("gemma4", patch_size=16, attn_implementation="eager", fit=fit)


@pytest.mark.parametrize("sizes", [[(48, 48)], [(300, 100)], [(97, 1_000), (20, 30)]], ids=str)
def test_images_of_gemma4_cost_the_budget_whatever_their_size(sizes: list[tuple[int, int]]) -> None:
    family, model = gemma4()
    counts, fields = in_a_pack(family, [an_image(family, *size) for size in sizes])
    get = model.model.get_image_features
    check(model, lambda: torch.cat(get(return_dict=True, **fields).pooler_output), counts)
    assert all(count.work.num_encoder_patches == 630 for count in counts)


def test_clips_of_gemma4_cost_a_budget_for_every_frame() -> None:
    family, model = gemma4()
    counts, fields = in_a_pack(family, [a_clip(3, 60, 90, 1.0), a_clip(5, 200, 40, 1.0)])
    get = model.model.get_video_features
    check(model, lambda: torch.cat(get(return_dict=True, **fields).pooler_output), counts)
    assert [count.work.num_pictures for count in counts] == [3, 3]


@functools.cache
def kimi() -> tuple[KimiK25, Any]:
    return KimiK25(build_processor("kimi_k25")), tiny_model("kimi_k25", attn_implementation="eager")


def moonvit(model: Any, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    made = model.model.mm_projector(model.model.vision_tower(pixels, grid_thw=grid).pooler_output)
    return torch.as_tensor(made.squeeze(1))


@pytest.mark.parametrize("sizes", [[(28, 28)], [(100, 210)], [(60, 300), (56, 56), (20, 30)]], ids=str)
def test_images_of_kimi_see_themselves(sizes: list[tuple[int, int]]) -> None:
    family, model = kimi()
    counts, fields = in_a_pack(family, [an_image(family, *size) for size in sizes])
    check(model, lambda: moonvit(model, fields["pixel_values"], fields["image_grid_thw"]), counts)


@pytest.mark.parametrize("num_frames", [1, 4, 7, 11])
def test_frames_of_a_chunk_of_kimi_see_each_other(num_frames: int) -> None:
    family, model = kimi()
    counts, fields = in_a_pack(family, [a_clip(num_frames, 60, 90, 2.0), a_clip(num_frames, 30, 30, 2.0)])
    grids = fields["video_grid_thw"].split(1)  # one by one: the model takes chunks of one length at a time
    pixels = fields["pixel_values_videos"].split([int(grid.prod()) for grid in grids])
    check(model, lambda: torch.cat(list(map(functools.partial(moonvit, model), pixels, grids))), counts)
    assert counts[0].work.num_pictures == -(-num_frames // 4) == len(grids) / 2


def test_kimi_vl_has_the_encoder_of_kimi() -> None:
    """Its code comes with the model; published are the words of its config, and layers and projector that are Kimi-K2.5's."""
    model = kimi()[1]
    pad = "<|media_pad|>"
    text = template("ROLE:", "<|im_end|>", {"image": pad}, marked=False)
    tokens = build_tokenizer(text, media_pad=pad, start="<|im_start|>", end_of_turn="<|im_end|>")
    images = kimi_vl_remote.KimiVLImageProcessor(pad_input=True)
    family = KimiVL(kimi_vl_remote.KimiVLProcessor(images, tokens, chat_template=text))
    counts, fields = in_a_pack(family, [noise("pil", *size) for size in ((100, 210), (20, 30))])
    vision = model.config.vision_config
    words = ("hidden_size", "intermediate_size", "num_hidden_layers", "patch_size", "merge_kernel_size")
    published = SimpleNamespace(
        model_type="kimi_vl",
        vision_config=SimpleNamespace(**{name: getattr(vision, name) for name in words}),
        text_config=model.config.text_config,
    )
    grids = fields["image_grid_hws"]
    grid = torch.cat([torch.ones(len(grids), 1, dtype=torch.long), grids], dim=1)
    flops = count_flops(model, lambda: moonvit(model, fields["pixel_values"], grid))
    assert flops.total == predicted(published, counts) > 0


@functools.cache
def phi4() -> tuple[Phi4Multimodal, Any]:
    def fit(config: Any) -> None:
        config.vision_config.image_size = config.vision_config.crop_size = 448

    return Phi4Multimodal(build_processor("phi4_multimodal")), tiny_model(
        "phi4_multimodal", attn_implementation="eager", fit=fit
    )


@pytest.mark.parametrize("sizes", [[(10, 448)], [(448, 700)], [(448, 700), (700, 448)]], ids=str)
def test_tiles_of_phi4_and_their_overview_are_predicted(sizes: list[tuple[int, int]]) -> None:
    family, model = phi4()
    counts, fields = in_a_pack(family, [an_image(family, *size) for size in sizes])
    num_tokens = sum(count.num_visual_tokens for count in counts)
    ids = torch.full((1, num_tokens), model.config.vision_config.image_token_id)
    embed = model.model.embed_tokens_extend.image_embed
    check(model, lambda: embed(ids, torch.zeros(1, num_tokens, 32), **fields)[0], counts)
    assert len({count.work.num_pictures for count in counts}) == 1, "the model computes what fills up a shorter image"


@functools.cache
def nemotron(**settings: Any) -> tuple[NemotronOmni, Any]:
    processor = build_processor("nemotron_omni")
    processor.image_processor.min_num_patches, processor.image_processor.max_num_patches = 16, 120
    processor.video_processor.video_target_num_patches = 30

    def fit(config: Any) -> None:
        for name, value in {"num_registers": 3, **settings}.items():
            setattr(config.vision_config, name, value)

    return NemotronOmni(processor), tiny_model("nemotron_h_omni", patch_size=16, attn_implementation="eager", fit=fit)


@pytest.mark.parametrize("settings", [{}, {"use_swiglu_ffn": True, "mlp_ratio": 2.0, "num_cls_tokens": 2}], ids=str)
@pytest.mark.parametrize("sizes", [[(64, 64)], [(100, 210), (300, 80)]], ids=str)
def test_images_of_nemotron_see_themselves_and_what_stands_beside(
    sizes: list[tuple[int, int]], settings: dict[str, Any]
) -> None:
    family, model = nemotron(**settings)
    counts, fields = in_a_pack(family, [an_image(family, *size) for size in sizes])
    check(model, lambda: torch.cat(model.get_image_features(return_dict=True, **fields).pooler_output), counts)


@pytest.mark.parametrize("num_frames", [4, 7])
def test_a_clip_of_nemotron_lacks_half_of_an_embedding(num_frames: int) -> None:
    family, model = nemotron()
    clip: Clips = a_clip(num_frames, 90, 60, 2.0)
    counts, fields = in_a_pack(family, [clip])
    made: list[Any] = []
    flops = count_flops(model, lambda: made.append(model.get_video_features(return_dict=True, **fields).pooler_output))
    assert made[0].shape[:2].numel() == counts[0].num_visual_tokens
    embedding = flops.of("vision_model.embeddings.video_patch_projection")
    assert flops.total - embedding / 2 == predicted(model.config, counts) > 0
