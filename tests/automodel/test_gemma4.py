from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.automodel.examples import a_picture, conversations, examples, learned, plain, processor
from vlmprep.automodel.collate_fns import (
    _GEMMA4_MODEL_TURN,
    _GEMMA4_THINKING_PREFIX,
    _inject_thinking_prefix_tokens,
    build_labels,
    default_collate_fn,
    gemma4_prefix_collate_fn,
)


def text_of(batch: Any, row: int) -> str:
    text: str = processor("gemma4").tokenizer.decode(batch["input_ids"][row][batch["attention_mask"][row].bool()])
    return text


@pytest.mark.parametrize("marked", [False, True])
def test_the_prefix_stands_before_every_answer_and_is_not_learned(marked: bool):
    made_by = processor("gemma4", marked=marked)
    batch = gemma4_prefix_collate_fn(examples(), made_by)
    assert learned(batch, made_by.tokenizer) == [
        ["\n\nA cat.<turn|>", "yes<turn|>"],
        ["yes<turn|>"],
        ["Thr\u00e9e \U0001f408<turn|>"],
    ]
    assert [text_of(batch, row).count("<|turn>model\n<|channel>thought\n<channel|>") for row in range(3)] == [2, 1, 1]
    for name in ("attention_mask", "mm_token_type_ids", "labels"):
        assert batch[name].shape == batch["input_ids"].shape


def test_nothing_but_the_prefix_is_new():
    made_by = processor("gemma4")
    batch, bare = gemma4_prefix_collate_fn(examples(), made_by), default_collate_fn(examples(), made_by)
    for row in range(1, 3):  # the first begins with newlines, which share a token with the marker's without the prefix
        assert text_of(batch, row).replace(_GEMMA4_THINKING_PREFIX, "") == text_of(bare, row)
    assert torch.equal(batch["pixel_values"], bare["pixel_values"])
    assert batch["pixel_values"].dtype == torch.bfloat16


def test_a_users_marker_gets_no_prefix_and_an_answers_own_channel_no_second():
    rows = [
        {
            "conversation": plain(
                ("user", _GEMMA4_MODEL_TURN + "no<turn|>"), ("assistant", _GEMMA4_THINKING_PREFIX + "A")
            )
        }
    ]
    batch = gemma4_prefix_collate_fn(rows, processor("gemma4"))
    assert text_of(batch, 0).count(_GEMMA4_THINKING_PREFIX) == 1
    assert learned(batch, processor("gemma4").tokenizer) == [[_GEMMA4_THINKING_PREFIX + "A<turn|>"]]


def test_the_prefix_counts_toward_max_length():
    made_by = processor("gemma4")
    rows = [{"conversation": plain(("user", "Q"), ("assistant", "A"))}]
    length = int(gemma4_prefix_collate_fn(rows, made_by)["attention_mask"].sum()) + 1
    assert gemma4_prefix_collate_fn(rows, made_by, max_length=length)["input_ids"].shape == (1, length - 1)
    with pytest.raises(ValueError, match=f"they have {length} tokens"):
        gemma4_prefix_collate_fn(rows, made_by, max_length=length - 1)
    assert default_collate_fn(rows, made_by, max_length=length - 1)["input_ids"].shape == (1, length - 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_token_ids_gain_the_prefix_and_labels_know_it(side: str):
    made_by: Any = processor("gemma4")
    rows = examples()[1:]
    rows.append({"conversation": plain(("user", "Q"), ("assistant", "A"), ("user", "Q"), ("assistant", "B"))})
    made = made_by.apply_chat_template(
        conversations(rows),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": side},
    )
    before = {name: value.clone() for name, value in made.items()}
    made["extra"] = made["input_ids"] + 1
    batch = _inject_thinking_prefix_tokens(made, made_by.tokenizer)
    size = len(made_by.tokenizer(_GEMMA4_THINKING_PREFIX, add_special_tokens=False)["input_ids"])
    gained = batch["attention_mask"].sum(dim=1) - before["attention_mask"].sum(dim=1)
    assert gained.tolist() == [size, size, 2 * size]
    for row, text in enumerate(text_of(batch, row) for row in range(3)):
        assert text.count("<|turn>model\n" + _GEMMA4_THINKING_PREFIX) == text.count("<|turn>model\n") > 0
        kept = before["input_ids"][row][before["attention_mask"][row].bool()]
        assert text.replace(_GEMMA4_THINKING_PREFIX, "") == made_by.tokenizer.decode(kept)
    assert batch["mm_token_type_ids"].sum() == before["mm_token_type_ids"].sum()
    assert torch.equal((batch["extra"] == 0) & batch["attention_mask"].bool(), inserted(batch, made_by.tokenizer))
    assert batch["attention_mask"][0, 0 if side == "left" else -1] == int(batch["attention_mask"][0].all())
    labels = build_labels(batch["input_ids"], conversations(rows), made_by)
    found = {"input_ids": batch["input_ids"], "labels": labels[:, 1:]}
    assert learned(found, made_by.tokenizer)[2] == ["A<turn|>", "B<turn|>"]
    again = {name: value.clone() for name, value in batch.items()}
    assert torch.equal(_inject_thinking_prefix_tokens(again, made_by.tokenizer)["input_ids"], batch["input_ids"])


def inserted(batch: Any, tokenizer: Any) -> torch.Tensor:
    """Which tokens are the prefix's."""
    prefix = torch.tensor(tokenizer(_GEMMA4_THINKING_PREFIX, add_special_tokens=False)["input_ids"])
    found = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    for row, at in (batch["input_ids"].unfold(1, len(prefix), 1) == prefix).all(dim=2).nonzero().tolist():
        found[row, at : at + len(prefix)] = True
    return found


def test_labels_that_are_there_are_lengthened():
    made_by: Any = processor("gemma4")
    made = made_by(text=["<|turn>model\nA<turn|>"], return_tensors="pt")
    made["labels"] = made["input_ids"].clone()
    batch = _inject_thinking_prefix_tokens(made, made_by.tokenizer)
    is_prefix = inserted(batch, made_by.tokenizer)
    assert torch.equal(batch["labels"] == -100, is_prefix)
    assert bool(is_prefix.any())


def test_without_a_model_turn_nothing_happens():
    made_by: Any = processor("gemma4")
    made = made_by(text=["<|turn>user\nA<turn|>"], images=None, return_tensors="pt")
    ids = made["input_ids"].clone()
    assert torch.equal(_inject_thinking_prefix_tokens(made, made_by.tokenizer)["input_ids"], ids)


def test_pictures_of_the_batch_are_the_processors():
    rows = [{"conversation": plain(("user", [{"type": "image", "image": a_picture()}]), ("assistant", "A"))}]
    batch = gemma4_prefix_collate_fn(rows, processor("gemma4"))
    assert torch.equal(batch["pixel_values"], default_collate_fn(rows, processor("gemma4"))["pixel_values"])
