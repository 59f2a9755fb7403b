from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from tests.automodel.examples import a_picture, assert_batch_is, conversations, examples, learned, plain, processor
from tests.automodel.remote_processors import kimi_k25_remote, kimi_vl_remote
from vlmprep.automodel.collate_fns import (
    COLLATE_FNS,
    _expand_image_tokens,
    kimi_k25_vl_collate_fn,
    kimi_vl_collate_fn,
)
from vlmprep.schema.errors import RefuseSample

ANSWERS = [["\n\nA cat.<|im_end|>", "yes<|im_end|>"], ["yes<|im_end|>"], ["Thr\u00e9e \U0001f408<|im_end|>"]]


def test_kimi_vl_gets_its_images_in_one_list_and_no_special_tokens():
    made_by = kimi_vl_remote()
    rows = examples()
    batch = COLLATE_FNS[type(made_by).__name__](rows, made_by)
    assert learned(batch, made_by.tokenizer) == ANSWERS
    assert batch["image_grid_hws"].shape == (3, 2)
    pad = made_by.tokenizer.convert_tokens_to_ids("<|media_pad|>")
    assert (batch["input_ids"] == pad).sum(dim=1).tolist() == [
        int(sizes.sum()) for sizes in (batch["image_grid_hws"].prod(dim=1) // 4).split([1, 0, 2])
    ]
    assert len(batch["pixel_values"]) == int(batch["image_grid_hws"].prod(dim=1).sum())
    assert batch["n_images_per_sample"].tolist() == [1, 0, 2]


def test_kimi_vl_drops_by_the_real_length_and_pads_to_it(caplog):
    made_by = kimi_vl_remote()
    lengths = kimi_vl_collate_fn(examples(), made_by)["attention_mask"].sum(dim=1) + 1
    limit = int(lengths.max()) - 1
    with caplog.at_level(logging.WARNING):
        batch = kimi_vl_collate_fn(examples(), made_by, max_length=limit)
    assert batch["input_ids"].shape == (2, limit - 1)
    assert len(batch["n_images_per_sample"]) == 2
    assert "is dropped" in caplog.text


@pytest.mark.parametrize("max_length", [None, 120])
def test_kimi_k25_writes_every_placeholder_out(max_length: int | None):
    made_by = kimi_k25_remote()
    batch = COLLATE_FNS[type(made_by).__name__](examples(), made_by, max_length)
    assert learned(batch, made_by.tokenizer) == ANSWERS
    pad = made_by.tokenizer.convert_tokens_to_ids("<|media_pad|>")
    merged = batch["grid_thws"][:, 1:].prod(dim=1) // 4
    assert (batch["input_ids"] == pad).sum(dim=1).tolist() == [int(part.sum()) for part in merged.split([1, 0, 2])]
    assert torch.equal(batch["image_grid_hws"], batch["grid_thws"][:, 1:])
    assert batch["n_images_per_sample"].tolist() == [1, 0, 2]
    assert len(batch["pixel_values"]) == int(batch["grid_thws"].prod(dim=1).sum())
    if max_length is not None:
        assert batch["input_ids"].shape == (3, max_length - 1)
    assert torch.equal(batch["attention_mask"] == 0, batch["input_ids"] == made_by.tokenizer.pad_token_id)


def test_kimi_k25_drops_what_is_too_long_once_written_out(caplog):
    made_by = kimi_k25_remote()
    lengths = kimi_k25_vl_collate_fn(examples(), made_by)["attention_mask"].sum(dim=1) + 1
    longest = int(lengths.argmax())
    with caplog.at_level(logging.WARNING):
        batch = kimi_k25_vl_collate_fn(examples(), made_by, max_length=int(lengths.max()) - 1)
    assert learned(batch, made_by.tokenizer) == [runs for row, runs in enumerate(ANSWERS) if row != longest]
    assert f"conversation {longest} of the batch is dropped: {int(lengths.max())} tokens" in caplog.text
    with pytest.raises(ValueError, match="all 3 conversations"):
        kimi_k25_vl_collate_fn(examples(), made_by, max_length=5)


def test_kimi_k25_of_transformers_expands_by_itself():
    made_by: Any = processor("kimi_k25")
    truth = made_by.apply_chat_template(
        conversations(examples()),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": "max_length", "max_length": 90, "padding_side": "right"},
    )
    batch = COLLATE_FNS[type(made_by).__name__](examples(), made_by, 90)
    assert_batch_is(batch, truth)
    assert learned(batch, made_by.tokenizer) == ANSWERS


def test_kimi_k25s_remote_code_takes_no_clips_here():
    rows = [{"conversation": plain(("user", [{"type": "video", "video": "a.mp4"}]), ("assistant", "A"))}]
    with pytest.raises(RefuseSample, match="takes images, not video"):
        kimi_k25_vl_collate_fn(rows, kimi_k25_remote())


def test_placeholders_are_expanded_in_order():
    ids, mask = torch.tensor([1, 9, 2, 9, 3]), torch.tensor([1, 1, 1, 0, 1])
    grids = torch.tensor([[1, 4, 4], [3, 2, 6]])
    found, found_mask = _expand_image_tokens(ids, mask, grids, 9)
    assert found.tolist() == [1, 9, 9, 9, 9, 2, 9, 9, 9, 3]
    assert found_mask.tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0, 1]
    wide, _ = _expand_image_tokens(ids, mask, grids, 9, merge_kernel_size=(2, 1))
    assert (wide == 9).sum() == 8 + 6
    same = _expand_image_tokens(ids, mask, grids, 8)
    assert same[0] is ids
    assert same[1] is mask
    with pytest.raises(RefuseSample, match="2 placeholders for 1 images"):
        _expand_image_tokens(ids, mask, grids[:1], 9)


def test_pictures_differ():
    assert a_picture(seed=1) != a_picture(seed=2)
