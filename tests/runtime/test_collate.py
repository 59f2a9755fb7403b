from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.packsets import text_pack
from vlmprep.runtime.collate import Pack, hf, neat


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
