from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from tests.automodel.examples import a_picture, plain, processor
from tests.families.processors import FAMILY_NAMES, FamilyName, build_processor
from vlmprep.automodel.anchors import tokens_of
from vlmprep.automodel.collate_fns import build_labels, build_labels_from_template
from vlmprep.schema.errors import RefuseSample

IMAGE = {"type": "image", "image": a_picture()}


def tokens(made_by: Any, rows: list[Any], **arguments: Any) -> torch.Tensor:
    made = made_by.apply_chat_template(
        rows, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True, **arguments}
    )
    ids: torch.Tensor = made["input_ids"]
    return ids


def runs(made_by: Any, *rows: Any, ids: torch.Tensor | None = None) -> list[list[str]]:
    """What of each row is learned; every label stands on its own token."""
    ids = tokens(made_by, list(rows)) if ids is None else ids
    labels = build_labels(ids, rows, made_by)
    assert labels.shape == ids.shape
    assert bool(((labels == ids) | (labels == -100)).all())
    assert torch.equal(labels, build_labels_from_template(ids, rows, made_by))
    found = []
    for row in labels.tolist():
        pieces: list[list[int]] = [[]]
        for label in row:
            if label == -100:
                pieces.append([])
            else:
                pieces[-1].append(label)
        found.append([made_by.tokenizer.decode(piece) for piece in pieces if piece])
    return found


def test_an_answer_of_the_users_own_words_is_the_answer():
    assert runs(processor("qwen2_5_vl"), plain(("user", " yes"), ("assistant", " yes"), ("user", "no yes"))) == [
        [" yes<|im_end|>"]
    ]
    labels = build_labels(
        ids := tokens(processor("qwen2_5_vl"), [rows := plain(("user", "yes"), ("assistant", "yes"))]),
        [rows],
        processor("qwen2_5_vl"),
    )
    first = int((labels[0] != -100).nonzero()[0])
    assert ids[0, : first + 1].tolist().count(int(ids[0, first])) == 2


def test_a_users_text_that_holds_markers_is_not_learned():
    trap = "say <|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n<|im_start|>assistant\n"
    made_by = processor("qwen2_5_vl")
    assert runs(made_by, plain(("user", [IMAGE, {"type": "text", "text": trap}]), ("assistant", "yes"))) == [
        ["yes<|im_end|>"]
    ]
    assert runs(made_by, plain(("user", "Q"), ("assistant", trap), ("user", trap), ("assistant", "no"))) == [
        [trap + "<|im_end|>", "no<|im_end|>"]
    ]


@pytest.mark.parametrize(
    "answer", ["\n\nA", "\nA", "\n", " A", "A\n\n", "\u00e9", "\U0001f408\u200d\U0001f408", "a\u0301"]
)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma4", "idefics3", "phi4_multimodal", "kimi_k25"])
def test_every_character_of_an_answer_is_learned(name: FamilyName, answer: str):
    made_by = processor(name)
    ((first, second),) = runs(made_by, plain(("user", "Q"), ("assistant", answer), ("user", "Q"), ("assistant", "B")))
    end = made_by.tokenizer.eos_token
    answer = made_by.tokenizer.decode(
        made_by.tokenizer(answer, add_special_tokens=False)["input_ids"]
    )  # composed, where it does
    assert first.endswith(answer + end)
    assert len(first) - len(answer + end) <= 1
    assert second.strip() == "B" + end


@given(
    answers=st.lists(st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable()), min_size=1, max_size=3)
)
@settings(max_examples=60, deadline=None)
def test_any_text_is_found(answers: list[str]):
    made_by = processor("qwen2_vl")
    turns = [turn for answer in answers for turn in (("user", answer), ("assistant", answer))]
    (found,) = runs(made_by, plain(*turns))
    decoded = [made_by.tokenizer.decode(made_by.tokenizer(f"{answer}<|im_end|>")["input_ids"]) for answer in answers]
    assert [run.removeprefix("\n") if run != text else run for run, text in zip(found, decoded, strict=True)] == decoded


def test_padding_on_either_side_makes_no_difference():
    rows = [plain(("user", "Q"), ("assistant", "A")), plain(("user", [IMAGE]), ("assistant", "A long answer"))]
    for side in ("left", "right"):
        found = runs(processor("qwen2_vl"), *rows, ids=tokens(processor("qwen2_vl"), rows, padding_side=side))
        assert found == [["A<|im_end|>"], ["A long answer<|im_end|>"]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_end_of_turn_may_be_the_padding_token(side: str):
    made_by: Any = build_processor("qwen2_vl")
    made_by.tokenizer.pad_token = "<|im_end|>"
    made_by.chat_template = made_by.chat_template.replace("<|im_end|>\\n", "<|im_end|>")  # a text ends with it too
    rows = [plain(("user", "Q"), ("assistant", "A")), plain(("user", [IMAGE]), ("assistant", "A long answer"))]
    ids = tokens(made_by, rows, padding_side=side)
    assert ids[0].tolist().count(made_by.tokenizer.pad_token_id) > 10
    assert runs(made_by, *rows, ids=ids) == [["A<|im_end|>"], ["A long answer<|im_end|>"]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_only_marker_may_be_the_padding_token(side: str):
    """Then padding has to be told from a text's own first and last tokens, or nothing is left to go by."""
    made_by: Any = build_processor("idefics3", small_tiles=True)
    end = "<end_of_utterance>"
    made_by.tokenizer.pad_token = end
    made_by.chat_template = f"{{{{- '{end}' -}}}}" + made_by.chat_template.replace("{{- '\\n' -}}", "")
    rows = [
        plain(("user", [IMAGE]), ("assistant", "A")),
        plain(("user", [IMAGE]), ("assistant", "Another"), ("user", "Q")),
    ]
    ids = tokens(made_by, rows, padding_side=side)
    assert (ids[0] == made_by.tokenizer.pad_token_id).sum() > 5
    assert runs(made_by, *rows, ids=ids) == [[" A" + end], [" Another" + end]]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_assistant_may_speak_first_and_twice(name: FamilyName):
    rows = plain(
        ("assistant", "A"), ("assistant", "B"), ("user", [IMAGE, {"type": "text", "text": "Q"}]), ("assistant", "C")
    )
    (found,) = runs(processor(name), rows)
    assert [run.strip()[0] for run in found] == ["A", "B", "C"]


def test_a_first_token_of_the_tokenizers_own_is_passed_over():
    from tokenizers import processors

    made_by: Any = build_processor("idefics3", small_tiles=True)
    bos = made_by.tokenizer.convert_tokens_to_ids("<global-img>")
    made_by.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<global-img> $A", special_tokens=[("<global-img>", bos)]
    )
    rows = plain(("assistant", "A"), ("user", "Q"), ("assistant", "B"))
    assert tokens(made_by, [rows])[0, 0] == bos
    assert runs(made_by, rows) == [[" A<end_of_utterance>", " B<end_of_utterance>"]]


@pytest.mark.parametrize("marked", [False, True])
def test_a_marker_that_swallows_blanks_is_not_learned(marked: bool):
    made_by: Any = build_processor("phi4_multimodal", marked=marked)
    tokenizer = made_by.tokenizer.backend_tokenizer
    tokenizer.add_special_tokens([AddedToken("<|assistant|>", rstrip=True, special=True)])
    rows = plain(("user", "Q"), ("assistant", "  A"))
    ids = tokens(made_by, [rows])
    assert made_by.tokenizer.decode(ids[0]).count("<|assistant|>A") == 1, "the blanks are gone"
    assert runs(made_by, rows, ids=ids) == [["A<|end|>"]]


def test_tokens_that_were_cut_or_changed_are_refused():
    made_by, rows = processor("qwen2_5_vl"), [plain(("user", [IMAGE]), ("assistant", "A long answer of words"))]
    ids = tokens(made_by, rows)
    answer = tokens(made_by, [plain(("user", [IMAGE]), ("assistant", "Another long answer"))])
    for wrong in (ids[:, :-4], answer):
        with pytest.raises(RefuseSample, match="conversation 0 of the batch: its tokens are not those"):
            build_labels(wrong, rows, made_by)


def test_an_empty_answer_is_refused():
    rows = [plain(("user", "Q"), ("assistant", ""))]
    with pytest.raises(RefuseSample, match=r"conversation 0 of the batch: .*empty"):
        build_labels(tokens(processor("qwen2_vl"), rows), rows, processor("qwen2_vl"))


def test_an_answer_with_an_image_in_it_is_refused_unless_it_opts_out():
    rows = plain(
        ("user", "Q"), ("assistant", [IMAGE, {"type": "text", "text": "A"}]), ("user", "Q"), ("assistant", "B")
    )
    made_by = processor("qwen2_vl")
    ids = tokens(made_by, [rows])
    with pytest.raises(RefuseSample, match="holds a medium"):
        build_labels(ids, [rows], made_by)
    rows[1]["loss"] = False
    assert runs(made_by, rows, ids=ids) == [["B<|im_end|>"]]


def test_a_bare_tokenizer_does():
    tokenizer = build_processor("qwen2_vl").tokenizer
    rows = [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]]
    ids = tokenizer.apply_chat_template(rows, tokenize=True, return_dict=True, return_tensors="pt")["input_ids"]
    labels = build_labels(ids, rows, tokenizer)[0]
    assert tokenizer.decode(labels[labels != -100]) == "A<|im_end|>"


def without_template() -> Any:
    made_by: Any = build_processor("qwen2_vl")
    made_by.chat_template = made_by.tokenizer.chat_template = None
    return made_by


def test_without_a_template_answers_are_searched_for():
    made_by = without_template()
    rows = [plain(("user", "Question"), ("assistant", "Answer"), ("assistant", "Other"))]
    ids = made_by.tokenizer(["Question:Answer<|im_end|>Other<|im_end|>Rest"], return_tensors="pt")["input_ids"]
    assert runs(made_by, *rows, ids=ids) == [["Answer<|im_end|>Other<|im_end|>"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [("yes:yes<|im_end|>", "twice"), ("Question<|im_end|>", "do not stand"), ("yes<|im_end|>yes", "twice")],
)
def test_without_a_template_nothing_is_guessed(text: str, says: str):
    made_by = without_template()
    ids = made_by.tokenizer([text], return_tensors="pt")["input_ids"]
    with pytest.raises(RefuseSample, match=says):
        build_labels(ids, [plain(("user", "yes"), ("assistant", "yes"))], made_by)


class SlowTokenizer:
    """A tokenizer that does not say where its tokens lie."""

    def __init__(self, fast: Any) -> None:
        self._fast = fast
        self.decode = fast.decode

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": self._fast(text, **options)["input_ids"]}


@pytest.mark.parametrize(
    "text", ["assistant\n|A cat.<|im_end|>|", "assistant\n|\n\nA|<|im_end|>", "|yes| no", "a |\u00e9\U0001f408| b"]
)
def test_tokens_without_places_are_found_by_what_they_decode_to(text: str):
    fast = processor("qwen2_vl").tokenizer
    head, middle, tail = text.split("|") if text.count("|") == 2 else ("assistant\n", "A cat.<|im_end|>", "")
    places = (head + middle + tail, len(head), len(head) + len(middle))
    assert tokens_of(SlowTokenizer(fast), *places) == tokens_of(fast, *places)
    assert tokens_of(fast, *places)[1].stop > tokens_of(fast, *places)[1].start
