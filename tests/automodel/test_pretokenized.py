from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.automodel.examples import conversations, examples, processor
from tests.families.processors import FAMILY_NAMES, FamilyName
from vlmprep.automodel.collate_fns import build_labels, default_collate_fn, neat_packed_vlm_collater, pad_collate_fn
from vlmprep.runtime.collate import neat


def tokenized(name: FamilyName) -> list[dict[str, Any]]:
    """Each example by itself, as a data set of tokenized samples gives it."""
    samples = []
    for row in conversations(examples()):
        made = processor(name).apply_chat_template([row], tokenize=True, return_dict=True, return_tensors="pt")
        labels = build_labels(made["input_ids"], [row], processor(name))[0]
        own = ("input_ids", "attention_mask", "mm_token_type_ids")
        samples.append({key: value[0] if key in own else value for key, value in made.items()} | {"labels": labels})
    return samples


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_samples_alone_make_the_batch_that_the_processor_makes_of_all(name: FamilyName):
    made_by = processor(name)
    # Idefics3's and SmolVLM's processors give samples without images an empty one, which their models drop.
    rows = [0, 2] if name in ("idefics3", "smolvlm") else [0, 1, 2]
    alone = tokenized(name)
    samples = [alone[row] for row in rows]
    chosen = [conversations(examples())[row] for row in rows]
    batch = pad_collate_fn(samples, made_by)
    truth = made_by.apply_chat_template(
        chosen,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    own = ("input_ids", "attention_mask", "mm_token_type_ids")
    assert {"labels", *truth} <= set(batch)
    for field, value in truth.items():
        expected = value[:, :-1] if field in own else value.to(batch[field].dtype)
        assert torch.equal(batch[field], expected), field
    assert torch.equal(batch["labels"], build_labels(truth["input_ids"], chosen, made_by)[:, 1:])
    if "pixel_values" in batch:
        assert batch["pixel_values"].dtype == torch.bfloat16


def test_rows_are_as_long_as_asked_for_and_never_cut():
    made_by, samples = processor("qwen2_5_vl"), tokenized("qwen2_5_vl")
    longest = max(len(sample["input_ids"]) for sample in samples)
    batch = pad_collate_fn(samples, made_by, max_length=longest + 7)
    assert batch["input_ids"].shape == batch["labels"].shape == (3, longest + 6)
    assert set(batch["input_ids"][:, longest:].flatten().tolist()) == {made_by.tokenizer.pad_token_id}
    assert set(batch["labels"][:, longest:].flatten().tolist()) == {-100}
    assert int(batch["attention_mask"][:, longest:].sum()) == 0
    assert batch["n_images_per_sample"].tolist() == [1, 0, 2]
    assert "n_videos_per_sample" not in batch
    with pytest.raises(ValueError, match=f"a sample of {longest} tokens does not fit into max_length={longest - 1}"):
        pad_collate_fn(samples, made_by, max_length=longest - 1)


def test_positions_with_axes_are_padded_and_missing_media_are_skipped():
    samples: list[dict[str, Any]] = [
        {
            "input_ids": torch.arange(size),
            "attention_mask": torch.ones(size, dtype=torch.int64),
            "labels": torch.arange(size),
            "position_ids": torch.arange(size).expand(3, size),
            "pixel_values_videos": None if size == 3 else torch.ones(2, 4),
            "video_grid_thw": None if size == 3 else torch.ones(1, 3),
        }
        for size in (3, 5)
    ]
    batch = pad_collate_fn(samples, processor("qwen2_vl"))
    assert batch["position_ids"].shape == (3, 2, 4)
    assert batch["position_ids"][1].tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[1, 2, -100, -100], [1, 2, 3, 4]]
    assert batch["pixel_values_videos"].shape == (2, 4)
    assert batch["n_videos_per_sample"].tolist() == [0, 1]


def packs() -> list[dict[str, Any]]:
    """Two packs as the reference's data set gives them, numbers of media beside the tensors."""
    return [
        {
            "input_ids": torch.arange(4),
            "labels": torch.arange(4),
            "attention_mask": torch.tensor([1, 1, 2, 2]),
            "position_ids": torch.tensor([0, 1, 0, 1]),
            "pixel_values": torch.ones(8, 6),
            "image_grid_thw": torch.tensor([[1, 2, 4]]),
            "n_images": 1,
            "n_videos": 0,
        },
        {
            "input_ids": [5, 6],
            "labels": [-100, 6],
            "attention_mask": [1, 1],
            "position_ids": [0, 1],
            "pixel_values": None,
            "n_images": 0,
            "n_videos": 0,
        },
    ]


@pytest.mark.parametrize("backend", ["flash_attention_2", "sdpa", "eager"])
def test_packs_are_collated_as_the_runtime_does(backend: str):
    batch = neat_packed_vlm_collater(packs(), padding_idx=9, max_length=5, attn_implementation=backend)
    tensors = [
        {key: torch.as_tensor(value) for key, value in pack.items() if value is not None and not key.startswith("n_")}
        for pack in packs()
    ]
    truth = neat(tensors, 9, 5, backend)
    assert set(batch) == set(truth)
    for field, value in truth.items():
        assert torch.equal(batch[field], value), field
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 9], [5, 6, 9, 9, 9]]
    assert batch["n_images_per_sample"].tolist() == [1, 0]


def test_packs_say_how_many_media_they_hold_where_no_grid_does():
    gemma = packs()
    for pack in gemma:
        pack.pop("image_grid_thw", None)
    gemma[1]["n_videos"] = 2
    batch = neat_packed_vlm_collater(gemma)
    assert batch["n_images_per_sample"].tolist() == [1, 0]
    assert batch["n_videos_per_sample"].tolist() == [0, 2]


def test_no_packs_are_no_batch_and_too_long_ones_an_error():
    assert neat_packed_vlm_collater([]) == {}
    with pytest.raises(ValueError, match="does not fit"):
        neat_packed_vlm_collater(packs(), max_length=3)


def test_default_collate_and_padding_agree_on_labels():
    made_by = processor("qwen2_5_vl")
    assert torch.equal(
        default_collate_fn(examples(), made_by)["labels"], pad_collate_fn(tokenized("qwen2_5_vl"), made_by)["labels"]
    )
