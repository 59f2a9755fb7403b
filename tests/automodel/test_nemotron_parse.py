from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.automodel.examples import a_picture, plain
from tests.automodel.remote_processors import nemotron_parse_remote
from vlmprep.automodel.collate_fns import COLLATE_FNS, nemotron_parse_collate_fn
from vlmprep.schema.errors import RefuseSample

PROMPT = "</s><s><predict_bbox><predict_classes><output_markdown>"
TARGETS = ["# Title\n\nText</s>", "yes</s><s>"]


def pages() -> list[dict[str, Any]]:
    return [
        {"conversation": plain(("user", [{"type": "image", "image": a_picture(seed=at)}]), ("assistant", target))}
        for at, target in enumerate(TARGETS)
    ]


@pytest.mark.parametrize("adds_tokens", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_the_target_is_learned_and_the_prompt_is_not(adds_tokens: bool, side: str, pad: str):
    made_by = nemotron_parse_remote(adds_tokens=adds_tokens, padding_side=side, pad_token=pad)
    batch = COLLATE_FNS[type(made_by).__name__](pages(), made_by)
    texts = [("<s>" if adds_tokens else "") + PROMPT + target + ("</s>" if adds_tokens else "") for target in TARGETS]
    for row, (target, text) in enumerate(zip(TARGETS, texts, strict=True)):
        labels, ids, mask = (batch[name][row] for name in ("labels", "input_ids", "attention_mask"))
        assert made_by.tokenizer.decode(labels[labels != -100]) == target + ("</s>" if adds_tokens else "")
        whole = made_by.tokenizer(text, add_special_tokens=False)["input_ids"]
        end = len(whole) - 1 if side == "left" or int(mask[-1]) else None  # the shift takes a row's last token
        assert ids[mask.bool()].tolist() == whole[:end]
    assert torch.equal(batch["decoder_input_ids"], batch["input_ids"])
    assert torch.equal(batch["decoder_attention_mask"], batch["attention_mask"])
    assert batch["labels"].shape == batch["decoder_input_ids"].shape
    assert batch["pixel_values"].dtype == torch.bfloat16
    assert batch["pixel_values"].shape == (2, 3, 40, 32)
    assert batch["n_images_per_sample"].tolist() == [1, 1]


def test_another_prompt_is_not_learned_either():
    made_by = nemotron_parse_remote()
    batch = nemotron_parse_collate_fn(pages(), made_by, task_prompt="</s><s>Read: ")
    labels = batch["labels"][0]
    assert made_by.tokenizer.decode(labels[labels != -100]).strip() == TARGETS[0]


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "no image"), ("assistant", "A")],
        [("user", [{"type": "image", "image": a_picture()}])],
        [("user", [{"type": "image", "image": a_picture()}]), ("assistant", "A"), ("assistant", "B")],
        [("user", [{"type": "image", "image": a_picture()}] * 2), ("assistant", "A")],
        [("user", [{"type": "image", "image": a_picture()}]), ("assistant", "")],
    ],
)
def test_nothing_of_a_conversation_is_left_out(turns: list[tuple[str, Any]]):
    with pytest.raises(RefuseSample, match=r"conversation 1 of the batch has .* one page and writes one text"):
        nemotron_parse_collate_fn([pages()[0], {"conversation": plain(*turns)}], nemotron_parse_remote())
