from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tests.automodel.examples import a_sound, conversations, examples, plain, processor
from tests.families.processors import FAMILY_NAMES, FamilyName
from vlmprep.automodel.collate_fns import _drop_overlong_samples, _estimate_media_tokens, _extract_image_config
from vlmprep.schema.errors import RefuseSample


def true_length(name: FamilyName, conversation: Any) -> int:
    """Tokens of the processor's own run."""
    made = processor(name).apply_chat_template([conversation], tokenize=True, return_dict=True)
    return len(made["input_ids"][0])


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_samples_are_dropped_by_their_true_length(name: FamilyName, caplog):
    rows = conversations(examples())
    lengths = [true_length(name, row) for row in rows]
    assert len(set(lengths)) > 1
    for limit in (max(lengths), max(lengths) - 1, min(lengths)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            kept, places = _drop_overlong_samples(rows, processor(name), limit)
        assert places == [row for row, length in enumerate(lengths) if length <= limit]
        assert kept == [rows[row] for row in places]
        assert len(caplog.records) == 3 - len(places)
    with pytest.raises(ValueError, match="all 3 conversations .* have " + ", ".join(map(str, lengths))):
        _drop_overlong_samples(rows, processor(name), min(lengths) - 1)
    assert _drop_overlong_samples(rows, processor(name), None) == (rows, [0, 1, 2])


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_media_tokens_are_what_the_media_add(name: FamilyName):
    made_by = processor(name)
    for row in conversations(examples()):
        text = made_by.apply_chat_template(row, tokenize=False)
        base = len(made_by.tokenizer(text)["input_ids"])
        assert _estimate_media_tokens(row, made_by) == true_length(name, row) - base
    assert _estimate_media_tokens(conversations(examples())[1], made_by) == 0


def test_sounds_count_too():
    row = plain(("user", [{"type": "audio", "audio": a_sound()}]), ("assistant", "A"))
    assert _estimate_media_tokens(row, processor("qwen3_omni")) == true_length("qwen3_omni", row) - len(
        processor("qwen3_omni").tokenizer(processor("qwen3_omni").apply_chat_template(row, tokenize=False))["input_ids"]
    )


def test_a_medium_that_cannot_be_read_is_told_instead_of_counted_as_nothing():
    row = plain(("user", [{"type": "video", "video": "/nowhere.mp4"}]), ("assistant", "A"))
    with pytest.raises(RefuseSample, match="nowhere"):
        _drop_overlong_samples([row], processor("qwen2_vl"), 10)


def test_image_sizes_are_the_processors():
    assert _extract_image_config(processor("qwen2_5_vl")) == {
        "patch_size": 14,
        "merge_size": 2,
        "factor": 28,
        "min_pixels": 56 * 56,
        "max_pixels": 28 * 28 * 1280,
    }
    config = _extract_image_config(processor("qwen3_vl"))
    assert config is not None
    assert (config["factor"], config["min_pixels"], config["max_pixels"]) == (32, 65_536, 16_777_216)
    bare = _extract_image_config(SimpleNamespace(image_processor=SimpleNamespace(size={"max_pixels": 99})))
    assert bare == {"patch_size": 14, "merge_size": 2, "factor": 28, "min_pixels": 3136, "max_pixels": 99}
    assert _extract_image_config(SimpleNamespace(tokenizer=None)) is None
