"""Tokens over a range of characters, by whichever way they are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.truth import make_family, sample_of
from vlmprep.families.text.token_labels import tokens_over
from vlmprep.schema.family import Encoded

LETTERS = st.sampled_from("ab \n\u0301\u0315\u0300\u0327e\u00e9\U0001f600\u4e2d\ud55c\u1112\u1161\u11ab\u212b\u0344")
"""Also letters that normalization composes, takes apart and puts in another order, and ones of several tokens."""


@pytest.fixture
def tokenizer(processor_dir) -> Any:
    return make_family(processor_dir, "qwen2_5_vl", "torchvision").processor.tokenizer.backend_tokenizer


def overlapping(encoding: Any, start: int, end: int) -> list[int]:
    """As transformers finds them: every token whose characters overlap."""
    return [at for at, (first, last) in enumerate(encoding.offsets) if first < end and last > start]


def test_tokens_over_any_range_are_those_that_overlap_it(tokenizer):
    compared = 0

    @settings(max_examples=500, derandomize=True)
    @given(text=st.text(LETTERS, min_size=1, max_size=12), data=st.data())
    def check(text, data):
        nonlocal compared
        encoding = tokenizer.encode(text)
        start = data.draw(st.integers(0, len(text) - 1))
        end = data.draw(st.integers(start + 1, len(text)))
        found = tokens_over(encoding, start, end)
        expected = overlapping(encoding, start, end)
        if expected:
            assert np.arange(len(encoding))[found].tolist() == list(range(min(expected), max(expected) + 1))
        compared += bool(expected)

    check()
    assert compared > 300


@pytest.mark.parametrize(
    ("text", "start", "end", "tokens"),
    [
        ("\U0001f600\U0001f600", 0, 1, "first half"),
        ("\U0001f600\U0001f600", 1, 2, "second half"),
        ("a\u0315\u0300b", 1, 2, None),
        ("a\u0315\u0300b", 2, 3, None),
    ],
)
def test_characters_of_several_tokens_are_taken_whole(tokenizer, text, start, end, tokens):
    encoding = tokenizer.encode(text)
    found = np.arange(len(encoding))[tokens_over(encoding, start, end)].tolist()
    assert found == overlapping(encoding, start, end)
    if tokens is not None:
        half = len(encoding) // 2
        assert half > 1
        assert found == list(range(half) if tokens == "first half" else range(half, 2 * half))


def test_a_range_without_tokens_is_empty(tokenizer):
    assert tokens_over(tokenizer.encode("abc"), 1, 1) == slice(0)


def test_anchored_labels_are_those_that_overlap(processor_dir):
    family = make_family(processor_dir, "qwen2_5_vl", "torchvision")
    encoder = family._encoder
    anchored = 0

    @settings(max_examples=2000, derandomize=True)
    @given(question=st.text(LETTERS, max_size=6), answer=st.text(LETTERS, min_size=1, max_size=10))
    def check(question, answer):
        nonlocal anchored
        head = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        text = f"{head}{answer}<|im_end|>\n"
        spans = [(len(head), len(text) - 1)]
        (ids,) = encoder.tokenize([text])
        assert isinstance(ids, np.ndarray)
        found = encoder.labels.anchored(ids, text, spans)
        expected = encoder.labels.overlapping(text, spans)
        if found is not None:
            anchored += 1
            assert found.tolist() == expected.tolist()

    check()
    assert anchored > 1000


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
def test_a_processor_that_was_called_with_padding_does_not_pad_the_counts(name, processor_dir):
    family = make_family(processor_dir, name, "torchvision")
    samples = [sample_of(("user", "a" * length), ("assistant", "b")) for length in (3, 300)]
    before = family.encode_all([(sample, []) for sample in samples])
    family.processor.tokenizer(["a", "a b c d e f g"], padding=True, truncation=True, max_length=4)
    after = family.encode_all([(sample, []) for sample in samples])
    ids = [[found.input_ids.tolist() for found in made if isinstance(found, Encoded)] for made in (before, after)]
    assert len(ids[0]) == len(samples)
    assert ids[0] == ids[1]
