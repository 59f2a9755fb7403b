from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.automodel.examples import a_clip, a_picture, examples, plain, processor
from tests.models import tiny_model
from vlmprep.automodel.collate_fns import neat_packed_vlm_collater
from vlmprep.automodel.lengths import image_config
from vlmprep.automodel.neat_packing_vlm import (
    MEDIA_KEYS,
    PackedDatasetWrapper,
    _build_packed_vlm_sample,
    _compute_mrope_position_ids,
    _estimate_image_tokens,
    _estimate_sample_length,
    _estimate_video_tokens,
    _shift_sample,
    greedy_knapsack_vt_balanced,
    neat_pack_dataset_vlm,
)
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.schema.errors import RefuseSample


def sample(first: int, length: int, **fields: Any) -> dict[str, Any]:
    ids = torch.arange(first, first + length)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone(), **fields}


IMAGE: dict[str, Any] = {"pixel_values": torch.ones(4, 6), "image_grid_thw": torch.tensor([[1, 2, 2]])}


def test_the_shift_puts_each_token_beside_the_next_ones_label():
    shifted = _shift_sample(sample(10, 4, mm_token_type_ids=torch.tensor([0, 1, 0, 0]), **IMAGE))
    assert shifted["input_ids"].tolist() == [10, 11, 12]
    assert shifted["labels"].tolist() == [11, 12, 13]
    assert shifted["attention_mask"].tolist() == [1, 1, 1]
    assert shifted["mm_token_type_ids"].tolist() == [0, 1, 0]
    assert shifted["pixel_values"] is IMAGE["pixel_values"]
    positions = torch.arange(12).reshape(3, 4)
    assert "position_ids" not in _shift_sample(sample(10, 4, position_ids=positions))
    assert _shift_sample(sample(10, 4, position_ids=positions), has_mrope=True)["position_ids"].shape == (3, 3)


def test_packed_samples_are_numbered_and_positions_restart():
    samples = [_shift_sample(sample(10, 4, **IMAGE)), _shift_sample(sample(20, 3))]
    pack = _build_packed_vlm_sample(samples, 8, 0)
    assert pack["input_ids"].tolist() == [10, 11, 12, 20, 21]
    assert pack["labels"].tolist() == [11, 12, 13, 21, 22]
    assert pack["attention_mask"].tolist() == [1, 1, 1, 2, 2]
    assert pack["position_ids"].tolist() == [0, 1, 2, 0, 1]
    assert (pack["n_images"], pack["n_videos"]) == (1, 0)
    assert torch.equal(pack["pixel_values"], IMAGE["pixel_values"])
    assert {name for name in MEDIA_KEYS if pack[name] is None} == {*MEDIA_KEYS} - {*IMAGE}
    assert {pack[name].dtype for name in ("input_ids", "labels", "attention_mask", "position_ids")} == {torch.int64}
    assert "mm_token_type_ids" not in pack


def test_media_are_joined_in_order_and_in_their_own_type():
    second = {"pixel_values": torch.full((8, 6), 2.0), "image_grid_thw": torch.tensor([[1, 2, 2], [1, 2, 2]])}
    halves = [{**each, "pixel_values": each["pixel_values"].to(torch.bfloat16)} for each in (IMAGE, second)]
    pack = _build_packed_vlm_sample([_shift_sample(sample(5, 4, **fields)) for fields in halves], 9, 0)
    assert pack["pixel_values"].dtype == torch.bfloat16
    assert pack["pixel_values"][:, 0].tolist() == [1.0] * 4 + [2.0] * 8
    assert pack["n_images"] == 3


def test_hidden_tokens_stay_hidden_where_the_reference_shows_them():
    hides = sample(10, 4)
    hides["attention_mask"][1] = 0
    pack = _build_packed_vlm_sample([_shift_sample(sample(3, 3)), _shift_sample(hides)], 9, 0)
    assert pack["attention_mask"].tolist() == [1, 1, 2, 0, 2]


def test_positions_with_axes_are_kept():
    positions = torch.arange(4).expand(3, 4) * 2
    shifted = [_shift_sample(sample(10, 4, position_ids=positions), has_mrope=True)] * 2
    assert _build_packed_vlm_sample(shifted, 9, 0, has_mrope=True)["position_ids"][1].tolist() == [0, 2, 4, 0, 2, 4]
    assert _build_packed_vlm_sample(shifted, 9, 0)["position_ids"].tolist() == [0, 1, 2, 0, 1, 2]


def test_what_does_not_fit_is_an_error_and_not_dropped():
    with pytest.raises(ValueError, match="samples of 6 tokens do not fit into a pack of 5"):
        _build_packed_vlm_sample([_shift_sample(sample(1, 4))] * 2, 5, 0)
    assert len(_build_packed_vlm_sample([], 5, 0)["input_ids"]) == 0


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_are_those_of_the_model_given_or_not(name: Any, tmp_path: Path):
    made_by = processor(name)
    clip = a_clip(tmp_path / "a.mp4")
    with_clip = {
        "conversation": plain(
            ("user", [{"type": "video", "video": clip}, {"type": "text", "text": "Q"}]), ("assistant", "A")
        )
    }
    tokenized = PreTokenizedDatasetWrapper([*examples(), with_clip], made_by)
    asked: list[int] = []
    rope = model_rope(name, made_by)

    def get_rope_index(input_ids: Any, **fields: Any) -> Any:
        asked.append(input_ids.shape[1])
        return rope(input_ids, **fields)

    get_rope_index.__signature__ = inspect.signature(rope)  # type: ignore[attr-defined]
    bins = [[0, 1], [2, 3]]
    own = PackedDatasetWrapper(tokenized, bins, 4096)
    given = PackedDatasetWrapper(tokenized, bins, 4096, get_rope_index=get_rope_index)
    assert given.has_mrope
    assert not own.has_mrope
    for number in range(2):
        pack = given[number]
        assert pack["position_ids"].shape == (3, len(pack["input_ids"]))
        assert torch.equal(own[number]["position_ids"], pack["position_ids"])
    assert len(asked) == 4


def model_rope(name: Any, made_by: Any) -> Any:
    model = tiny_model(name)
    for config in (model.config, model.model.config):
        config.image_token_id, config.video_token_id = made_by.image_token_id, made_by.video_token_id
        config.vision_start_token_id = made_by.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    model.config.vision_config.spatial_merge_size = made_by.image_processor.merge_size
    return model.model.get_rope_index


def test_functions_that_give_no_positions_are_left_alone():
    assert _compute_mrope_position_ids(sample(1, 3), lambda positions: positions) is None
    flat = _compute_mrope_position_ids(sample(1, 3), lambda input_ids: torch.arange(3).expand(3, 1, 3))
    assert flat is not None
    assert flat.shape == (3, 3)


class Tokenized:
    """A data set that tokenizes by itself."""

    def __init__(self, lengths: list[int], bad: int = -1) -> None:
        self.lengths, self.bad = lengths, bad

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number == self.bad:
            raise OSError("gone")
        return sample(100 * number, self.lengths[number])


def test_any_data_set_of_tokenized_samples_is_packed():
    packed = neat_pack_dataset_vlm(Tokenized([5, 9, 3, 7, 4, 6]), 10, padding_idx=7)
    assert sorted(number for samples in packed.bins for number in samples) == list(range(6))
    assert (packed.padding_idx, packed.pack_size) == (7, 10)
    for number, samples in enumerate(packed.bins):
        pack = packed[number]
        ids = [
            token
            for each in samples
            for token in range(100 * each, 100 * each + Tokenized([5, 9, 3, 7, 4, 6]).lengths[each] - 1)
        ]
        assert pack["input_ids"].tolist() == ids
        assert len(ids) <= 10
    batch = neat_packed_vlm_collater([packed[0], packed[1]], padding_idx=7)
    assert batch["input_ids"].shape[0] == 2
    with pytest.raises(TypeError, match="no stored form"):
        _ = packed.packs
    collate = packed.robust_collate(len)
    assert collate is len, "the inner data set has none"


def test_failures_of_other_data_sets_follow_the_policy_too():
    with pytest.raises(OSError, match="gone"):
        neat_pack_dataset_vlm(Tokenized([5, 5, 5], bad=1), 10)
    packed = neat_pack_dataset_vlm(Tokenized([5, 5, 5], bad=1), 10, failures="refuse")
    assert packed.bins == [[0, 2]]
    assert packed.failures.samples == [1]
    by_hand = [[0, 1]]
    with pytest.raises(OSError, match="gone"):
        PackedDatasetWrapper(Tokenized([5, 5, 5], bad=1), by_hand, 10)[0]
    refused = PackedDatasetWrapper(Tokenized([5, 5, 5], bad=1), by_hand, 10, failures="refuse")
    assert refused[0]["input_ids"].tolist() == [0, 1, 2, 3]
    replaced = PackedDatasetWrapper(Tokenized([5, 5, 5], bad=1), by_hand, 10, max_retries=50, failures="substitute")
    assert replaced[0]["attention_mask"].max() == 2
    with pytest.raises(RefuseSample, match="11 tokens after the shift, a pack holds 10"):
        neat_pack_dataset_vlm(Tokenized([12, 3]), 10)
    assert neat_pack_dataset_vlm(Tokenized([12, 3]), 10, drop_long_samples=True).bins == [[1]]
    with pytest.raises(RefuseSample, match="are left in its pack"):
        PackedDatasetWrapper(Tokenized([9, 9]), [[0, 1]], 10)[0]


def test_bins_are_full_equal_and_ordered_by_visual_tokens():
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 400, 500)
    visual = np.where(rng.random(500) < 0.7, lengths // 2, 0)
    bins = greedy_knapsack_vt_balanced(lengths.tolist(), 1024, visual.tolist())
    assert sorted(number for samples in bins for number in samples) == list(range(500))
    tokens = [int(lengths[samples].sum()) for samples in bins]
    loads = [int(visual[samples].sum()) for samples in bins]
    assert max(tokens) <= 1024
    assert sum(tokens) / (1024 * len(bins)) > 0.97
    assert loads == sorted(loads)
    assert max(loads) / (sum(loads) / len(loads)) < 1.1
    assert greedy_knapsack_vt_balanced([], 8, []) == []
    with pytest.raises(ValueError, match="pack_size"):
        greedy_knapsack_vt_balanced([9], 8, [0])


@pytest.mark.parametrize("size", [(60, 90), (700, 500), (28, 28), (2000, 3000)])
def test_image_guesses_are_what_a_qwen_processor_makes_of_that_size(size: tuple[int, int]):
    made_by = processor("qwen2_5_vl")
    grid = made_by.image_processor(images=[a_picture(*size)], return_tensors="pt")["image_grid_thw"][0]
    config = image_config(made_by)
    assert config is not None
    assert _estimate_image_tokens(list(size), config) == int(grid.prod()) // 4


def test_video_guesses_follow_the_settings():
    config = {
        "fps": 2,
        "min_frames": 4,
        "max_frames": 16,
        "temporal_patch_size": 2,
        "patch_size": 16,
        "merge_size": 2,
        "factor": 32,
        "min_pixels": 4096,
        "max_pixels": 25_165_824,
    }
    a_group = (64 // 32) * (96 // 32)
    assert _estimate_video_tokens([100, 64, 96, 25.0, 4.0], config) == 4 * a_group  # 4 s at 2 a second: 8 frames
    assert _estimate_video_tokens([0, 64, 96, 25.0, 4.0], config) == 4 * a_group  # frames from seconds and rate
    assert _estimate_video_tokens([25, 64, 96, 25.0, 1.0], config) == 2 * a_group  # min_frames
    assert _estimate_video_tokens([2500, 64, 96, 25.0, 100.0], config) == 8 * a_group  # max_frames
    assert _estimate_video_tokens([9, 64, 96, 0.0, 4.5], config) == 5 * a_group  # no rate: 9 frames, a pair is filled


def test_sample_guesses_are_chars_over_three_and_500_a_medium_or_what_was_recorded():
    conversation = plain(
        ("user", [{"type": "image", "image": "a.png"}, {"type": "text", "text": "x" * 30}]), ("assistant", "y" * 32)
    )
    example: dict[str, Any] = {"conversation": conversation}
    assert _estimate_sample_length(example) == 62 // 3 + 500
    assert _estimate_sample_length(example, return_media_tokens=True) == (520, 500)
    assert _estimate_sample_length({**example, "_text_tokens": 7}) == 507
    assert _estimate_sample_length({"conversation": [{"role": "user", "content": "x" * 9}]}) == 3
    config = image_config(processor("qwen2_5_vl"))
    recorded = {**example, "_text_tokens": 7, "mm_inputs_meta": {"images_meta": [[56, 84], None]}}
    assert _estimate_sample_length(recorded, config, return_media_tokens=True) == (13, 6)
    assert _estimate_sample_length(recorded) == 507, "without a processor's settings sizes say nothing"


def test_constants_are_the_references():
    assert MEDIA_KEYS[:4] == ("pixel_values", "image_grid_thw", "image_position_ids", "pixel_values_videos")
