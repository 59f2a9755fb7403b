"""Examples that are none: refused in words, by the batch and by the plan, and nobody else's packs suffer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.automodel.examples import plain, processor
from vlmprep.automodel.collate_fns import COLLATE_FNS, qwen2_5_collate_fn
from vlmprep.automodel.datasets import PreTokenizedDatasetWrapper
from vlmprep.automodel.neat_packing_vlm import neat_pack_dataset_vlm
from vlmprep.automodel.samples import example_bytes
from vlmprep.schema.errors import RefuseSample

GOOD: dict[str, Any] = {"conversation": plain(("user", "Q"), ("assistant", "A"))}
ANSWER = {"role": "assistant", "content": "A"}
BAD: list[tuple[Any, str]] = [
    (None, "no 'conversation'"),
    ("text", "no 'conversation'"),
    ({}, "no 'conversation'"),
    ({"conversation": []}, "no 'conversation'"),
    ({"conversation": "text"}, "no 'conversation'"),
    ({"conversation": ANSWER}, "no 'conversation'"),
    ({"conversation": ["text", ANSWER]}, "message 0 is 'text'"),
    ({"conversation": [None, ANSWER]}, "message 0 is None"),
    ({"conversation": [{"from": "human", "value": "Q"}, ANSWER]}, "no 'role' that is text; it has 'from', 'value'"),
    ({"conversation": [{"role": 3, "content": "Q"}, ANSWER]}, "no 'role' that is text"),
    ({"conversation": [{"role": "user", "content": 3}, ANSWER]}, "message 0 holds 3"),
    ({"conversation": [{"role": "user", "content": {"type": "text"}}, ANSWER]}, "message 0 holds {'type': 'text'}"),
    ({"conversation": [{"role": "user", "content": [3]}, ANSWER]}, r"message 0 holds \[3\]"),
]


@pytest.mark.parametrize(("example", "says"), BAD)
def test_the_batch_names_row_and_message(example: Any, says: str):
    with pytest.raises(RefuseSample, match=f"conversation 1 of the batch: .*{says}"):
        qwen2_5_collate_fn([GOOD, example], processor("qwen2_5_vl"))
    with pytest.raises(RefuseSample, match=f"sample 0: .*{says}"):
        PreTokenizedDatasetWrapper([example], processor("qwen2_5_vl"))[0]


@pytest.mark.parametrize("name", sorted(COLLATE_FNS))
def test_every_function_looks_at_its_examples_first(name: str):
    with pytest.raises(RefuseSample, match="conversation 0 of the batch: message 0 is None"):
        COLLATE_FNS[name]([{"conversation": [None]}], processor("qwen2_5_vl"))


def test_the_plan_goes_without_them(caplog):
    image = {
        "conversation": plain(("user", [{"type": "image", "image": np.zeros((8, 8, 3), np.uint8)}]), ("assistant", "A"))
    }
    rows = [GOOD, *(example for example, _ in BAD), image]
    with caplog.at_level(logging.WARNING):
        packed = neat_pack_dataset_vlm(
            PreTokenizedDatasetWrapper(rows, processor("qwen2_5_vl"), failures="refuse"), pack_size=256
        )
    assert packed.bins == [[0]]
    assert packed.failures.samples == list(range(1, len(rows)))
    assert "14 of 15 samples are left out of every pack" in caplog.text
    assert packed.failures.reasons[14] == "bad-media-path: image is ndarray, expected a path, a URL or bytes"


def test_whatever_stands_beside_a_conversation_does_no_harm(caplog):
    beside: list[dict[Any, Any]] = [
        {1: 2},
        {"more": {1, 2}, "nan": float("nan"), ("a", "b"): 3},
        {"_text_tokens": "many", "mm_inputs_meta": 3},
        {"_text_tokens": 5, "mm_inputs_meta": {"images_meta": [[1]], "images_tokens": ["few"]}},
    ]
    rows = [{**GOOD, **more} for more in beside]
    with caplog.at_level(logging.WARNING):
        packed = neat_pack_dataset_vlm(PreTokenizedDatasetWrapper(rows, processor("qwen2_5_vl")), pack_size=256)
    assert sorted(packed.bins[0]) == [0, 1, 2, 3]
    assert "2 of 4 samples have other counts recorded than were counted now" in caplog.text


def test_examples_with_other_paths_are_other_examples():
    paths = [Path("/a.png"), Path("/b.png")]
    said = [example_bytes({"conversation": plain(("user", [{"type": "image", "image": path}]))}) for path in paths]
    assert said[0] != said[1]
    assert b"/a.png" in said[0]
