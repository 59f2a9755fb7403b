"""The thinking channel in front of Gemma 4's answers, against putting its tokens into the processor's output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlmprep
from tests.conftest import FamilyProcessorDir, ProcessorDir
from tests.families.mixed import an_image
from tests.families.truth import full_run, sample_of
from tests.runs import chat, count, picture, run, write_jsonl
from vlmprep.families.gemma4 import Gemma4
from vlmprep.families.loading import load_family
from vlmprep.families.text.thinking import MODEL_TURN, THINKING_PREFIX, with_thinking_prefix
from vlmprep.families.text.turns import Rendered
from vlmprep.schema.conversation import Media, Sample
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import ImageSize
from vlmprep.schema.packset import IGNORE_INDEX

SIZE = (64, 64)
IMAGE = Media(kind="image", content=b"")
SAMPLES = {
    "one answer": sample_of(("user", "Hello"), ("assistant", "Hi there.")),
    "two answers and an image": sample_of(
        ("system", "Be brief."),
        ("user", [IMAGE, "What is this?"]),
        ("assistant", "A cat."),
        ("user", "model\nSure?"),
        ("assistant", "Yes.\n"),
    ),
    "an answer that is not learned": sample_of(
        ("user", "One"), ("assistant", "1"), ("user", "Two"), ("assistant", "2"), unlearned=[1]
    ),
}


def make(folders: FamilyProcessorDir, *, marked: bool = False, thinking_prefix: bool = True) -> Gemma4:
    settings = FamilySettings(processor=str(folders("gemma4", marked=marked)), thinking_prefix=thinking_prefix)
    family = load_family(settings)
    assert isinstance(family, Gemma4)
    return family


def sizes_of(sample: Sample) -> list[ImageSize]:
    return [ImageSize(height=SIZE[0], width=SIZE[1], num_bytes=1) for _ in sample.media()]


def injected(family: Gemma4, sequence: dict[str, Any]) -> dict[str, list[int]]:
    """The prefix's tokens put behind every `<|turn>model\\n` of a sequence, by searching for its tokens.

    Args:
        family: Holds the tokenizer.
        sequence: Fields with one entry per token; new entries are 0, ids the prefix's.
    """
    marker, prefix = (
        family.processor.tokenizer.encode(text, add_special_tokens=False) for text in (MODEL_TURN, THINKING_PREFIX)
    )
    made: dict[str, list[int]] = {name: [] for name in sequence}
    for at in range(len(sequence["input_ids"])):
        for name, values in sequence.items():
            made[name].append(int(values[at]))
        if made["input_ids"][-len(marker) :] == marker:
            for name in sequence:
                made[name] += prefix if name == "input_ids" else [0] * len(prefix)
    return made


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_sequences_are_the_processors_with_the_prefix_put_in(
    name: str, marked: bool, family_processor_dir: FamilyProcessorDir
) -> None:
    family, sample = make(family_processor_dir, marked=marked), SAMPLES[name]
    plain = make(family_processor_dir, marked=marked, thinking_prefix=False)
    counts = family.measure(sizes_of(sample))
    images = [an_image(family, *SIZE) for _ in sample.media()]
    made = full_run(family, sample, images) if images else full_run(family, sample)
    before = plain.encode(sample, counts).expand()
    truth = injected(
        family,
        {"input_ids": made["input_ids"], "mm_token_type_ids": made["mm_token_type_ids"], "is_label": before.is_label},
    )
    encoded = family.encode(sample, counts)
    tokens = encoded.expand()
    assert tokens.input_ids.tolist() == truth["input_ids"]
    assert tokens.mm_token_type_ids.tolist() == truth["mm_token_type_ids"]
    assert tokens.is_label.tolist() == list(map(bool, truth["is_label"]))
    num_answers = sum(message.role == "assistant" for message in sample.messages)
    prefix = family.processor.tokenizer.encode(THINKING_PREFIX, add_special_tokens=False)
    assert encoded.num_tokens == len(before.input_ids) + num_answers * len(prefix)
    assert family.decode(tokens.input_ids.tolist()).count(MODEL_TURN + THINKING_PREFIX) == num_answers


def test_an_answer_that_begins_with_a_newline_has_its_prefix_too(family_processor_dir: FamilyProcessorDir) -> None:
    """Its newline makes one token with the turn's, so searching for the turn's tokens would not find it."""
    family = make(family_processor_dir)
    tokens = family.encode(sample_of(("user", "Hello"), ("assistant", "\n\nHi.")), []).expand()
    assert family.decode(tokens.input_ids.tolist()).endswith(f"{MODEL_TURN}{THINKING_PREFIX}\n\nHi.<turn|>\n")
    assert family.decode(tokens.input_ids[tokens.is_label].tolist()) == "\n\nHi.<turn|>"


def test_a_turn_that_has_its_channel_keeps_it() -> None:
    text = f"{MODEL_TURN}<|channel>thought\nhm<channel|>yes<turn|>{MODEL_TURN}no<turn|>"
    made = with_thinking_prefix(Rendered(text=text, label_spans=(), num_control_tokens=6))
    assert made.text == text.replace(f"{MODEL_TURN}no", f"{MODEL_TURN}{THINKING_PREFIX}no")
    assert made.num_control_tokens == 8


@given(st.lists(st.sampled_from([MODEL_TURN, "a", "bc", "<turn|>", "\n"]), max_size=12), st.data())
def test_spans_keep_their_text_and_nothing_of_the_prefix(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    places = st.integers(0, len(text))
    borders = sorted(data.draw(st.sets(places, max_size=6)))
    spans = tuple(zip(borders[::2], borders[1::2], strict=False))
    made = with_thinking_prefix(Rendered(text=text, label_spans=spans, num_control_tokens=0))
    assert made.text == text.replace(MODEL_TURN, MODEL_TURN + THINKING_PREFIX)
    assert made.num_control_tokens == 2 * text.count(MODEL_TURN)
    kept = [made.text[start:end] for start, end in made.label_spans]
    assert "".join(kept) == "".join(text[start:end] for start, end in spans)
    assert not any(THINKING_PREFIX in part for part in kept)


def test_it_is_counted_and_packed_and_part_of_the_fingerprint(
    family_processor_dir: FamilyProcessorDir, tmp_path: Path
) -> None:
    folder = family_processor_dir("gemma4")
    name = picture(tmp_path / "a.png")
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("0", "What?", "A picture.", [name]), chat("1", "And?", "No.")])
    run(source, folder, tmp_path / "set", thinking_prefix=True, max_refused=0.0)
    packs = vlmprep.open(tmp_path / "set")
    family = make(family_processor_dir)
    text = family.decode(packs[0]["input_ids"].tolist())
    assert text.count(MODEL_TURN + THINKING_PREFIX) == text.count(MODEL_TURN) == 2
    labels = packs[0]["labels"].numpy()
    assert sorted(family.decode(labels[labels != IGNORE_INDEX].tolist()).split("<turn|>")) == ["", "A picture.", "No."]

    with_prefix = count(source, folder, tmp_path / "with", thinking_prefix=True)
    without = count(source, folder, tmp_path / "without")
    difference = np.array(lengths_of(with_prefix)) - np.array(lengths_of(without))
    assert difference.tolist() == [len(family.processor.tokenizer.encode(THINKING_PREFIX))] * 2
    with pytest.raises(StopRun, match="thinking_prefix"):
        count(source, folder, tmp_path / "with")


def lengths_of(ledger: Any) -> list[int]:
    """Tokens of every row."""
    return [int(length) for length in ledger.read(["num_tokens"])["num_tokens"].to_pylist()]


def test_other_models_stop(processor_dir: ProcessorDir) -> None:
    with pytest.raises(StopRun, match="--thinking-prefix is for Gemma 4, and Qwen2_5_VLProcessor is another model's"):
        load_family(FamilySettings(processor=str(processor_dir("qwen2_5_vl")), thinking_prefix=True))


def test_a_tokenizer_without_the_channel_stops() -> None:
    from tests.families.processors import build_processor

    processor = build_processor("gemma4")
    processor.tokenizer = build_processor("kimi_k25").tokenizer
    with pytest.raises(StopRun, match=r"has no <\|turn>, <\|channel>, <channel\|>"):
        Gemma4(processor, thinking_prefix=True)
