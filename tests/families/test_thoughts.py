"""Thoughts: learned where the template writes them, never lost without a word, and nothing learned that nobody thought."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.chat_templates import QWEN3, TEMPLATES
from tests.families.labelling import Labeller, call, labeller, said, talk
from vlmprep.schema.conversation import Message
from vlmprep.schema.errors import RefuseSample

END = "<|im_end|>"
THINKERS = {"qwen3": "<think>\n", "qwen3_thinking": "", "qwen3_5": "", "step3_7": "", "nemotron": ""}
"""Templates that write thoughts, and what of the opening tag the model generates: its prompt may open the thought."""
BETWEEN = {"nemotron": "\n</think>\n"}
"""What stands behind a thought that is given apart."""
VERBATIM = ["qwen2_5_tools", "qwen3_vl", "internvl", "llava_onevision", "phi4"]
"""Templates to which a thought in the content is words like others."""


def refusal(name: str, *messages: Message, **words: Any) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        labeller(name, **words).runs(talk(*messages))
    return caught.value


@pytest.mark.parametrize("name", THINKERS)
def test_a_thought_is_learned_with_its_closing_tag(name):
    runs = labeller(name).runs(talk(said("user", "Q"), said("assistant", "A", reasoning="R")))
    assert runs == [THINKERS[name] + "R" + BETWEEN.get(name, "\n</think>\n\n") + "A" + END]


@pytest.mark.parametrize("name", THINKERS)
def test_a_thought_in_the_content_is_the_same(name):
    runs = labeller(name).runs(talk(said("user", "Q"), said("assistant", "<think>\nR\n</think>\n\nA")))
    assert runs == [THINKERS[name] + "R\n</think>\n\nA" + END]


@pytest.mark.parametrize("name", [name for name in THINKERS if name != "nemotron"])
def test_a_thought_whose_tag_the_prompt_has_opened(name):
    runs = labeller(name).runs(talk(said("user", "Q"), said("assistant", "R\n</think>\n\nA")))
    assert runs == [THINKERS[name] + "R\n</think>\n\nA" + END]


@pytest.mark.parametrize("name", THINKERS)
def test_an_empty_thought_that_the_template_adds_is_not_learned(name):
    under = labeller(name)
    sample = talk(said("user", "Q"), said("assistant", "A"))
    assert under.runs(sample) == ["A" + END]
    assert "</think>" in under.decode(under.encode(sample).input_ids.tolist())


@pytest.mark.parametrize("in_content", [False, True])
@pytest.mark.parametrize("name", THINKERS)
def test_thoughts_of_earlier_turns_are_left_out_as_at_inference_and_counted(name, in_content):
    def answer(text: str, thought: str) -> Message:
        return (
            said("assistant", f"<think>{thought}</think>{text}")
            if in_content
            else said("assistant", text, reasoning=thought)
        )

    sample = talk(said("user", "Q"), answer("A", "first"), said("user", "Q"), answer("B", "second"))
    under = labeller(name)
    encoded = under.encode(sample)
    text = under.decode(encoded.input_ids.tolist())
    assert ("first" in text, "second" in text) == (False, True)
    assert encoded.num_left_out_characters == len("first")
    runs = under.runs(sample)
    assert runs[0] == "A" + END
    assert runs[1].startswith((THINKERS[name] + "second", "second"))
    assert under.encode(talk(*sample.messages[:2])).num_left_out_characters == 0


@pytest.mark.parametrize("name", THINKERS)
def test_thoughts_between_calls_are_learned_with_them(name):
    turns = [
        said("user", "Q"),
        said("assistant", reasoning="first", tool_calls=(call(city="Bern"),)),
        said("tool", "sunny", name="weather", call_id="functions.weather:0"),
        said("assistant", "A", reasoning="second"),
    ]
    runs = labeller(name).runs(talk(*turns))
    assert len(runs) == 2
    assert runs[0].startswith(THINKERS[name] + "first" + BETWEEN.get(name, "\n</think>\n\n"))
    assert runs[0].endswith("</tool_call>" + END)
    assert runs[1] == THINKERS[name] + "second" + BETWEEN.get(name, "\n</think>\n\n") + "A" + END


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - set(THINKERS)))
def test_a_template_that_loses_a_thought_is_refused(name):
    found = refusal(name, said("user", "Q"), said("assistant", "A", reasoning="R"))
    assert found.code == "unlocatable-turns"
    assert "thought of message 1 is lost" in found.reason
    earlier = [said("user", "Q"), said("assistant", "A", reasoning="R"), said("user", "Q"), said("assistant", "B")]
    assert refusal(name, *earlier).code == "unlocatable-turns"


@pytest.mark.parametrize("name", VERBATIM)
def test_a_thought_in_the_content_is_words_like_others_elsewhere(name):
    text = "<think>R</think>\n\nA"
    turns = [said("user", "Q"), said("assistant", text), said("user", text), said("assistant", "no</think>B")]
    end = "<|end|>" if name == "phi4" else END
    assert labeller(name).runs(talk(*turns)) == [text + end, "no</think>B" + end]


@pytest.mark.parametrize(
    "content",
    [
        "before <think>R</think>A",
        "<think>R</think>between</think>A",
        "<think>R<think>S</think>A",
        "<think>R</think>A<think>S</think>B",
    ],
)
def test_thoughts_of_which_the_template_loses_a_part_are_refused(content):
    found = refusal("qwen3", said("user", "Q"), said("assistant", content))
    assert (found.code, "changes the text" in found.reason) == ("unlocatable-turns", True)


def test_a_thought_and_no_answer():
    under = labeller("qwen3")
    thinking = said("assistant", reasoning="R")
    assert under.runs(talk(said("user", "Q"), thinking)) == ["<think>\nR\n</think>\n\n" + END]
    assert (
        refusal("qwen3", said("user", "Q"), thinking, said("user", "Q"), said("assistant", "A")).code == "empty-answer"
    )
    assert refusal("qwen3", said("user", "Q"), said("assistant", "<think>\n\n</think>\n\n")).code == "empty-answer"


def test_an_opened_turn_that_opted_out_loses_nothing():
    turns = [
        said("user", "Q"),
        said("assistant", "A", reasoning="R", learn=False),
        said("assistant", "B", reasoning="S"),
    ]
    assert labeller("qwen3").runs(talk(*turns)) == ["<think>\nS\n</think>\n\nB" + END]


def test_a_user_may_write_thoughts():
    text = "<think>R</think>A"
    assert labeller("qwen3").runs(talk(said("user", text), said("assistant", "B"))) == ["B" + END]


def test_thoughts_behind_the_last_answer_alone():
    """As Kimi's template has them: kept while tools are called, gone once an answer stands."""
    calling = [said("assistant", reasoning=thought, tool_calls=(call(city=thought),)) for thought in ("one", "two")]
    reply = said("tool", "x", call_id="functions.weather:0")
    runs = labeller("kimi_k25").runs(talk(said("user", "Q"), calling[0], reply, calling[1]))
    assert [run.split("<|tool_calls_section_begin|>")[0] for run in runs] == ["one</think>", "two</think>"]
    found = refusal("kimi_k25", said("user", "Q"), calling[0], reply, said("assistant", "A"))
    assert "thought of message 1 is lost" in found.reason


def test_an_assistant_with_a_name():
    turns = [said("user", "Q"), said("assistant", "A", name="kim"), said("user", "Q")]
    calling = said("assistant", name="kim", tool_calls=(call(city="Bern"),))
    under = labeller("kimi_k25")
    runs = under.runs(talk(*turns, calling))
    assert runs[0] == "A" + END
    assert runs[1].startswith("<|tool_calls_section_begin|>")
    assert "<|im_assistant|>kim<|im_middle|>" in under.decode(under.encode(talk(*turns[:2])).input_ids.tolist())
    thinking = said("assistant", name="kim", reasoning="R", tool_calls=(call(city="Bern"),))
    assert under.outcome(talk(*turns, thinking)) == "unlocatable-turns"


@pytest.mark.parametrize("blank", ["\n\n", "", "\n"])
def test_thoughts_and_words_that_are_nothing_but_white_space(blank):
    """Templates ask whether there is a thought, or a word beside a call: what they then write is not what they write of one."""
    reply = said("tool", "x")
    inside = f"<think>{blank}</think>\n\n"
    calling = said("assistant", inside, tool_calls=(call(city="Bern"),))
    under = labeller("qwen3")
    sample = talk(said("user", "Q"), calling, reply, said("assistant", inside + "A"))
    text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>' + END
    runs = under.runs(sample)
    assert runs[0] == text
    assert runs[1] in ("A" + END, "<think>\n\n</think>\n\nA" + END)
    assert under.encode(sample).input_ids.tolist() == under.truth(sample)["input_ids"].tolist()
    apart = talk(said("user", "Q"), said("assistant", "A", reasoning=blank), said("assistant", "B", reasoning=blank))
    assert labeller("qwen3_5").runs(apart)[1].endswith("B" + END)
    spaced = talk(said("user", "Q"), said("assistant", blank, tool_calls=(call(city="Bern"),)))
    (run,) = labeller("qwen3_5").runs(spaced)
    assert run.startswith("<tool_call>\n<function=weather>")
    assert (
        labeller("qwen3_5").encode(spaced).input_ids.tolist() == labeller("qwen3_5").truth(spaced)["input_ids"].tolist()
    )


@pytest.mark.parametrize("name", ["qwen3", "qwen3_thinking", "qwen3_5", "step3_7", "qwen3_vl", "qwen2_5_tools"])
def test_a_thought_in_the_content_before_a_call(name):
    turns = [said("assistant", "<think>\nR\n</think>\n\n", tool_calls=(call(city="Bern"),)), said("tool", "x")]
    sample = talk(said("user", "Q"), *turns, said("assistant", "A"))
    under = labeller(name)
    runs = under.runs(sample)
    assert len(runs) == 2
    assert runs[0].startswith(THINKERS.get(name, "<think>\n") + "R\n</think>\n\n")
    assert runs[0].endswith("</tool_call>" + END)
    assert under.encode(sample).input_ids.tolist() == under.truth(sample)["input_ids"].tolist()


def test_a_template_without_a_generation_prompt():
    """Then a turn begins where one without a thought would."""
    silent = QWEN3.replace("add_generation_prompt", "false")
    under = Labeller("qwen3", silent)
    assert under.runs(talk(said("user", "Q"), said("assistant", "A", reasoning="R"))) == ["R\n</think>\n\nA" + END]


WORDS = st.text(st.sampled_from("ab \n\t.</>{}\u0301\u3000") | st.characters(exclude_categories=["Cs"]), max_size=8)


@pytest.mark.parametrize("name", THINKERS)
def test_any_thought_is_what_transformers_renders_or_is_refused(name):
    under = labeller(name)
    compared = 0

    @settings(max_examples=80, derandomize=True)
    @given(
        thought=WORDS,
        answer=WORDS,
        before=WORDS,
        apart=st.booleans(),
        tag=st.sampled_from(["<think>", "<think>\n", ""]),
    )
    def check(thought: str, answer: str, before: str, apart: bool, tag: str) -> None:
        nonlocal compared
        inside = said("assistant", f"{tag}{thought}</think>{answer}.")
        last = said("assistant", answer + ".", reasoning=thought) if apart else inside
        earlier = said("assistant", before + ".", reasoning=thought)
        sample = talk(said("user", "Q"), earlier, said("user", "Q"), last)
        try:
            encoded = under.encode(sample)
        except RefuseSample:
            return
        compared += 1
        assert encoded.input_ids.tolist() == under.truth(sample)["input_ids"].tolist()
        runs = under.runs(sample)
        assert len(runs) == 2
        said_last = under.decode(under.processor.tokenizer.encode(answer + ".", add_special_tokens=False))
        assert "".join(runs[1].split()).endswith("".join(said_last.split()) + END)

    check()
    assert compared > 40
