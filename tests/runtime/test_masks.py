from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlmprep.runtime.masks import additive, block_causal, image_runs, positions_within

NUMBERS = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=3)


@given(NUMBERS)
def test_a_token_sees_itself_and_what_its_document_said_before(numbers: list[list[int]]) -> None:
    visible = block_causal(torch.tensor(numbers))
    assert visible.shape == (len(numbers), 1, 6, 6)
    for row, of_row in enumerate(numbers):
        for query in range(6):
            for key in range(6):
                same_document = of_row[query] == of_row[key] != 0 and key <= query
                assert visible[row, 0, query, key].item() == (same_document or query == key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_additive_mask_weighs_hidden_keys_with_nothing(dtype: torch.dtype) -> None:
    visible = block_causal(torch.tensor([[1, 1, 2, 0, 0]]))
    mask = additive(visible, dtype)
    assert mask.dtype == dtype
    weights = (torch.randn(1, 1, 5, 5, dtype=dtype) * 100 + mask).softmax(-1)
    assert weights.isfinite().all()
    assert (weights[~visible] == 0).all()
    assert (mask[visible] == 0).all()


def test_places_restart_with_every_run() -> None:
    assert positions_within(torch.tensor([1, 1, 1, 2, 3, 3, 0, 0])).tolist() == [0, 1, 2, 0, 0, 1, 0, 1]
    assert positions_within(torch.tensor([0])).tolist() == [0]
    assert positions_within(torch.tensor([], dtype=torch.int64)).tolist() == []


TYPES = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=3, max_size=3)


@given(NUMBERS, TYPES, st.integers(1, 7))
def test_windows_look_back_and_pictures_see_themselves_whole(
    numbers: list[list[int]], types: list[list[int]], window: int
) -> None:
    whole = image_runs(torch.tensor(types[: len(numbers)]))
    visible = block_causal(torch.tensor(numbers), window, whole)
    for row, (of_row, runs) in enumerate(zip(numbers, whole.tolist(), strict=True)):
        for query in range(6):
            for key in range(6):
                same_document = of_row[query] == of_row[key] != 0
                in_order = key <= query or runs[query] == runs[key] != -1
                seen = same_document and in_order and query - key < window
                assert visible[row, 0, query, key].item() == (seen or query == key)


def test_neighbouring_visual_tokens_are_one_run() -> None:
    assert image_runs(torch.tensor([[0, 1, 1, 0, 2, 1, 3, 1]])).tolist() == [[-1, 0, 0, -1, 1, 1, -1, 2]]
