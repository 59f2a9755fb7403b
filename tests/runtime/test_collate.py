from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.packsets import text_pack
from vlmprep.runtime.collate import Pack, documents, hf, neat
from vlmprep.runtime.forms import ModelForm, form_of
from vlmprep.runtime.offers import check_hf, check_neat


def pack(pack_id: int, lengths: tuple[int, ...], images: int = 0, axes: int = 1) -> Pack:
    """A pack as reading gives it."""
    fields = {
        name: torch.from_numpy(value.astype(np.int32)) for name, value in text_pack(pack_id, lengths).fields.items()
    }
    if axes == 3:
        fields["position_ids"] = fields["position_ids"] * torch.tensor([[1], [2], [3]])
    if images:
        fields["image_grid_thw"] = torch.tensor([[1, 2, 2]] * images)
        fields["pixel_values"] = torch.full((4 * images, 3, 2, 2), pack_id, dtype=torch.uint8)
    return fields


def test_neat_pads_every_sequence_and_joins_media() -> None:
    batch = neat([pack(0, (3, 2), images=1), pack(1, (2,)), pack(2, (4,), images=2)], padding_idx=99)
    assert batch["input_ids"].tolist() == [
        [0, 1001, 1002, 1003, 1004],
        [1, 2001, 99, 99, 99],
        [2, 3001, 3002, 3003, 99],
    ]
    assert batch["labels"][1].tolist() == [-100, 2002, -100, -100, -100]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0], [0, 1, 2, 3, 0]]
    assert batch["_packed_seq_ids"].tolist() == [[1, 1, 1, 2, 2], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert batch["n_images_per_sample"].tolist() == [1, 0, 2]
    assert batch["n_videos_per_sample"].tolist() == [0, 0, 0]
    assert batch["image_grid_thw"].shape == (3, 3)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0] * 4 + [2] * 8
    assert {batch[name].dtype for name in ("input_ids", "labels", "position_ids")} == {torch.int64}


def test_neat_masks_as_the_backend_takes_it() -> None:
    packs = [pack(0, (3, 2)), pack(1, (2,))]
    indexed = neat(packs, attn_implementation="flash_attention_2")["attention_mask"]
    boolean = neat(packs, attn_implementation="sdpa")["attention_mask"]
    added = neat(packs, attn_implementation="eager")["attention_mask"]
    assert indexed.tolist() == [[1, 1, 1, 2, 2], [1, 1, 0, 0, 0]]
    assert (boolean.dtype, boolean.shape) == (torch.bool, (2, 1, 5, 5))
    assert (added.dtype, added.shape) == (torch.float32, (2, 1, 5, 5))
    assert torch.equal(added == 0, boolean)
    with pytest.raises(ValueError, match="flex_attention"):
        neat(packs, attn_implementation="flex_attention")


@pytest.mark.parametrize("collate", [neat, hf])
def test_a_fixed_length_is_kept_or_refused(collate: Any) -> None:
    packs = [pack(0, (3, 2)), pack(1, (2,))]
    batch = collate(packs, max_length=9)
    assert {value.shape[-1] for name, value in batch.items() if name in ("input_ids", "labels", "position_ids")} == {9}
    with pytest.raises(ValueError, match="5 tokens does not fit into max_length=4"):
        collate(packs, max_length=4)


def test_mrope_axes_stand_first() -> None:
    packs = [pack(0, (3, 2), axes=3), pack(1, (2,), axes=3)]
    assert neat(packs)["position_ids"].tolist() == [
        [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0]],
        [[0, 2, 4, 0, 2], [0, 2, 0, 0, 0]],
        [[0, 3, 6, 0, 3], [0, 3, 0, 0, 0]],
    ]
    assert hf(packs)["position_ids"].tolist() == [
        [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]],
        [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]],
        [[0, 2, 4, 0, 2], [0, 2, 0, 1, 2]],
        [[0, 3, 6, 0, 3], [0, 3, 0, 1, 2]],
    ]


def test_hf_has_no_mask_and_labels_that_are_not_shifted_again() -> None:
    batch = hf([pack(0, (3, 2)), pack(1, (2,))], padding_idx=7)
    assert "attention_mask" not in batch
    assert batch["use_cache"] is False
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert (
        batch["shift_labels"].tolist()
        == batch["labels"].tolist()
        == [
            [-100, 1002, -100, 1004, -100],
            [-100, 2002, -100, -100, -100],
        ]
    )
    assert batch["input_ids"][1].tolist() == [1, 2001, 7, 7, 7]


def test_hf_refuses_holes_in_a_document_but_not_a_hidden_last_one() -> None:
    hidden_last = {**pack(0, (3, 2)), "attention_mask": torch.tensor([1, 1, 1, 0, 0])}
    assert hf([hidden_last])["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    hole = {**pack(0, (3, 2)), "attention_mask": torch.tensor([1, 0, 1, 2, 2])}
    with pytest.raises(ValueError, match="--fake-image sample"):
        hf([hole])


def test_hf_refuses_rows_that_flash_attention_would_mix() -> None:
    packs = [pack(0, (3, 2)), pack(1, (2,))]
    hf(packs[:1], attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match="packs_per_rank=1"):
        hf(packs, attn_implementation="flash_attention_2")


def test_documents_become_rows_of_their_own() -> None:
    fake_last = {**pack(0, (3, 2, 2), images=1), "attention_mask": torch.tensor([1, 1, 1, 2, 2, 0, 0])}
    batch = documents([fake_last, pack(1, (2,), images=2)], padding_idx=9)
    assert batch["input_ids"].tolist() == [[0, 1001, 1002], [1003, 1004, 9], [1005, 1006, 9], [1, 2001, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2]] * 4, "nothing looks packed"
    assert batch["labels"][1].tolist() == [1004, -100, -100]
    assert batch["shift_labels"] is batch["labels"]
    assert "attention_mask" not in batch
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0] * 4 + [1] * 8
    with pytest.raises(ValueError, match="3 tokens does not fit into max_length=2"):
        documents([fake_last], max_length=2)


def test_documents_hide_what_packs_hide_inside_them() -> None:
    hole = {**pack(0, (4, 2)), "attention_mask": torch.tensor([1, 0, 0, 1, 2, 2])}
    assert documents([hole])["attention_mask"].tolist() == [[1, 0, 0, 1], [1, 1, 1, 1]]


def test_four_axes_go_on_through_the_padding_of_a_document() -> None:
    batch = documents([pack(0, (3, 2), axes=3)])
    assert batch["position_ids"][:, 1].tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 2], [0, 3, 2]]


def test_layers_with_a_state_are_told_where_sequences_begin() -> None:
    state = ModelForm(family="qwen3_5", recurrent=True)
    batch = hf([pack(0, (3, 2))], max_length=7, form=state)
    assert batch["seq_idx"].tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 5, 7]
    assert batch["max_length_q"] == batch["max_length_k"] == 3
    assert {batch[name].dtype for name in ("seq_idx", "cu_seq_lens_q")} == {torch.int32}
    with pytest.raises(ValueError, match="one pack per rank and step"):
        hf([pack(0, (3, 2)), pack(1, (2,))], form=state)


def test_a_forward_gets_no_token_types_that_it_does_not_take() -> None:
    packs = [pack(0, (3, 2))]
    for collate in (neat, hf, documents):
        assert "mm_token_type_ids" in collate(packs)
        assert "mm_token_type_ids" not in collate(packs, form=form_of("internvl"))


def test_a_config_says_what_layers_look_at() -> None:
    text = SimpleNamespace(
        layer_types=["sliding_attention", "full_attention"], sliding_window=64, use_bidirectional_attention="vision"
    )
    form = form_of("gemma4", SimpleNamespace(text_config=text))
    assert (form.layers, form.window, form.image_blocks) == (("full_attention", "sliding_attention"), 64, True)
    assert form.open_question is None
    assert form_of("gemma4").open_question is not None
    linear = SimpleNamespace(layer_types=["linear_attention", "full_attention"])
    assert form_of("one that nobody knows", linear).recurrent
    chunked = form_of("one that nobody knows", SimpleNamespace(layer_types=["chunked_attention", "full_attention"]))
    for check in (partial(check_neat, chunked, "sdpa"), partial(check_hf, 1, "sdpa", chunked)):
        with pytest.raises(ValueError, match=r"whose layers are chunked_attention\. Use collate='documents'"):
            check()
    text.use_bidirectional_attention = "all"
    with pytest.raises(ValueError, match="use_bidirectional_attention='all'"):
        form_of("gemma4", SimpleNamespace(text_config=text))


def test_gemma_3_is_given_documents_alone_and_its_own_name_for_token_types() -> None:
    form = form_of("gemma3")
    for collate in (neat, hf):
        with pytest.raises(ValueError, match="collate='documents'"):
            collate([pack(0, (3, 2))], form=form)
    batch = documents([pack(0, (3, 2))], form=form)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert "mm_token_type_ids" not in batch
