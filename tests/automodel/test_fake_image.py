from __future__ import annotations

import copy
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.automodel.examples import a_picture, examples, learned, plain, processor
from tests.families.processors import FAMILY_NAMES, FamilyName
from vlmprep.automodel import fake_image
from vlmprep.automodel.collate_fns import default_collate_fn
from vlmprep.automodel.fake_image import (
    _batch_has_media,
    _conversation_has_media,
    _get_vision_token_ids,
    inject_fake_image_into_conversation,
    mask_fake_vision_tokens_batch,
    mask_fake_vision_tokens_single,
)

TEXT_ONLY = plain(("system", "S"), ("user", "Q"), ("assistant", "A"))


@pytest.mark.parametrize(
    ("content", "has_media"),
    [
        ("text", False),
        (None, False),
        ([{"type": "text", "text": "image"}], False),
        ([{"type": "audio", "audio": "a.wav"}], False),
        ([{"type": "image", "image": a_picture()}], True),
        ([{"type": "text", "text": "Q"}, {"type": "video", "video": "a.mp4"}], True),
        ([{"image": "a.png"}], True),
        ([{"video": "a.mp4"}], True),
        (["text"], False),
    ],
)
def test_media_are_seen(content: Any, has_media: bool):
    conversation = [{"role": "system", "content": "S"}, {"role": "user", "content": content}]
    assert _conversation_has_media(conversation) is has_media
    assert _batch_has_media([TEXT_ONLY, conversation]) is has_media
    assert not _batch_has_media([])


@pytest.mark.parametrize(
    ("conversation", "turn", "behind"),
    [
        ([{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}], 1, [{"type": "text", "text": "Q"}]),
        (plain(("user", "Q"), ("user", "R")), 0, [{"type": "text", "text": "Q"}]),
        ([{"role": "user", "content": None}], 0, []),
        (plain(("assistant", "A")), 0, []),
    ],
)
def test_the_image_comes_first_in_the_first_user_turn(conversation: Any, turn: int, behind: list[Any]):
    before = copy.deepcopy(conversation)
    injected = inject_fake_image_into_conversation(conversation)
    assert conversation == before
    image, *rest = injected[turn]["content"]
    assert injected[turn]["role"] == "user"
    assert image["type"] == "image"
    assert image["image"].size == (56, 56)
    assert image["image"].getextrema() == ((255, 255),) * 3
    assert rest == behind
    assert len(injected) == len(conversation) + (conversation[0]["role"] == "assistant")


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_token_that_a_processor_writes_for_the_image_is_hidden_and_no_other(name: FamilyName):
    made_by = processor(name)
    marked = {"conversation": inject_fake_image_into_conversation(TEXT_ONLY), "_injected_fake": True}
    batch = default_collate_fn([marked, {"conversation": TEXT_ONLY}, examples()[0]], made_by)
    bare = default_collate_fn([{"conversation": TEXT_ONLY}], made_by)
    visible = batch["input_ids"][0][batch["attention_mask"][0].bool()]
    text, without = made_by.tokenizer.decode(visible), made_by.tokenizer.decode(bare["input_ids"][0])
    # LLaVA's and InternVL's templates write a newline behind an image; the shift took a row's last token.
    written = text.replace("user\n\n", "user\n").replace("User:", "User: ").replace("User:  ", "User: ")
    assert written.strip() == without.strip()
    assert "Q" in without
    hidden = set(batch["input_ids"][0][~batch["attention_mask"][0].bool()].tolist())
    hidden -= {made_by.tokenizer.pad_token_id}
    assert made_by.image_token_id in hidden
    assert int((batch["attention_mask"][2] == 0).sum()) < batch["attention_mask"].shape[1] - 20, "a real image is seen"
    assert learned(batch, made_by.tokenizer)[0] == learned(batch, made_by.tokenizer)[1]


def test_single_samples_and_batches_are_masked_alike():
    made_by: Any = processor("qwen2_5_vl")
    ids = torch.tensor([[1, made_by.image_token_id, 2], [made_by.image_token_id, 3, 4]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    mask_fake_vision_tokens_batch(batch, made_by, [0])
    assert batch["attention_mask"].tolist() == [[1, 0, 1], [1, 1, 1]]
    mask_fake_vision_tokens_batch(batch, made_by, [])
    assert batch["attention_mask"].tolist() == [[1, 0, 1], [1, 1, 1]]
    sample = {"input_ids": ids[1], "attention_mask": torch.ones(3, dtype=torch.int64)}
    mask_fake_vision_tokens_single(sample, made_by)
    assert sample["attention_mask"].tolist() == [0, 1, 1]
    without_mask = {"input_ids": ids[1]}
    mask_fake_vision_tokens_single(without_mask, made_by)
    assert set(without_mask) == {"input_ids"}


class Vocabulary:
    """A tokenizer that knows a few tokens."""

    unk_token_id = 0

    def __init__(self, **tokens: int) -> None:
        self._tokens = {f"<{name}>": number for name, number in tokens.items()}
        self.added_tokens_decoder = {number: name for name, number in self._tokens.items()}

    def convert_tokens_to_ids(self, token: str) -> int:
        return self._tokens.get(token, self.unk_token_id)


def test_vision_tokens_are_known_by_attribute_by_name_and_by_the_words_in_them():
    tokenizer = Vocabulary(image=7, my_video_thing=8, other=9, img=10)
    config = SimpleNamespace(image_token_index=11, video_token_id=None)
    assert _get_vision_token_ids(SimpleNamespace(tokenizer=tokenizer, config=config, image_token_id=5)) == {
        5,
        7,
        8,
        10,
        11,
    }


def test_a_processor_without_vision_tokens_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr(fake_image, "_warned_unknown_processors", set())
    sample = {"input_ids": torch.tensor([1, 2]), "attention_mask": torch.tensor([1, 1])}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            mask_fake_vision_tokens_single(sample, SimpleNamespace(tokenizer=Vocabulary(other=9)))
    assert len(caplog.records) == 1
    assert "stays visible" in caplog.text
    assert sample["attention_mask"].tolist() == [1, 1]
