from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch

from tests.automodel.examples import END_OF_TURN, assert_batch_is, conversations, examples, learned, plain, processor
from tests.families.processors import FAMILY_NAMES, FamilyName, build_processor
from vlmprep.automodel.collate_fns import (
    COLLATE_FNS,
    default_collate_fn,
    qwen2_5_collate_fn,
    qwen3_omni_collate_fn,
)
from vlmprep.schema.errors import RefuseSample


def own_run(made_by: Any, rows: list[dict[str, Any]], **arguments: Any) -> Any:
    """What the processor's own apply_chat_template returns."""
    arguments.setdefault("padding", True)
    return made_by.apply_chat_template(
        conversations(rows), tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=arguments
    )


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_batch_is_the_processors_own_and_its_labels_are_the_answers(name: FamilyName):
    made_by, rows = processor(name), examples()
    batch = default_collate_fn(rows, made_by)
    truth = own_run(made_by, rows)
    assert {"pixel_values", "image_pixel_values"} & set(truth)
    assert_batch_is(batch, truth)
    assert set(batch) == {*truth, "labels", "n_images_per_sample"}
    assert batch["n_images_per_sample"].tolist() == [1, 0, 2]
    end = END_OF_TURN[name]
    answers = [["\n\nA cat." + end, "yes" + end], ["yes" + end], ["Thr\u00e9e \U0001f408" + end]]
    found = learned(batch, made_by.tokenizer)
    # A marker's last newline or blank may share the first token of the answer.
    assert [len(runs) for runs in found] == [2, 1, 1]
    for runs, expected in zip(found, answers, strict=True):
        for run, answer in zip(runs, expected, strict=True):
            assert run.removeprefix(run[: len(run) - len(answer)].strip(" \n")).endswith(answer)
            assert len(run) - len(answer) in (0, 1)


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if name != "nemotron_omni"])
def test_labels_are_transformers_own_assistant_mask(name: FamilyName):
    made_by, rows = processor(name, marked=True), examples()
    batch = default_collate_fn(rows, made_by)
    truth = own_run(made_by, rows)
    masks = made_by.apply_chat_template(
        conversations(rows),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True},
    )["assistant_masks"]
    expected = torch.where(torch.as_tensor(masks) == 1, truth["input_ids"], -100)[:, 1:]
    assert bool((expected != -100).any())
    assert torch.equal(batch["labels"], expected)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma4"])
def test_pixels_are_bfloat16_by_default(name: FamilyName):
    assert default_collate_fn(examples(), processor(name))["pixel_values"].dtype == torch.bfloat16


def test_qwen2_5_keeps_the_processors_pixels():
    made_by, rows = processor("qwen2_5_vl"), examples()
    batch = qwen2_5_collate_fn(rows, made_by)
    assert batch["pixel_values"].dtype == torch.float32
    assert_batch_is(batch, own_run(made_by, rows))


def test_qwen3_omni_is_padded_on_the_right():
    made_by, rows = processor("qwen3_omni"), examples()
    batch = qwen3_omni_collate_fn(rows, made_by)
    assert_batch_is(batch, own_run(made_by, rows, padding_side="right"))
    assert batch["attention_mask"][:, 0].tolist() == [1, 1, 1]
    assert 0 in batch["attention_mask"][1].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_as_long_as_asked_for(side: str):
    made_by: Any = build_processor("qwen2_5_vl")
    made_by.tokenizer.padding_side = side
    rows = examples()
    batch = default_collate_fn(rows, made_by, max_length=100)
    assert batch["input_ids"].shape == (3, 99)
    assert_batch_is(batch, own_run(made_by, rows, padding="max_length", max_length=100))
    assert [runs[-1] for runs in learned(batch, made_by.tokenizer)][1] == "yes<|im_end|>"


def test_what_is_longer_than_max_length_is_dropped_and_named(caplog):
    made_by, rows = processor("qwen2_5_vl"), examples()
    lengths = own_run(made_by, rows)["attention_mask"].sum(dim=1).tolist()
    limit = sorted(lengths)[1]
    longest = lengths.index(max(lengths))
    kept = [row for row in range(3) if row != longest]
    assert len(set(lengths)) == 3
    with caplog.at_level(logging.WARNING):
        batch = default_collate_fn(rows, made_by, max_length=limit)
    assert batch["input_ids"].shape == (2, limit - 1)
    truth = own_run(made_by, [rows[row] for row in kept], padding="max_length", max_length=limit)
    assert_batch_is(batch, truth)
    assert f"conversation {longest} of the batch is dropped: {max(lengths)} tokens" in caplog.text
    with pytest.raises(ValueError, match="all 3 conversations"):
        default_collate_fn(rows, made_by, max_length=min(lengths) - 1)


def test_a_hook_stands_between_tokens_and_labels():
    made_by, seen = processor("qwen2_5_vl"), []

    def hook(batch: Any, given: Any) -> Any:
        seen.append((set(batch), given))
        batch["twice"] = batch["input_ids"] * 2
        batch["pixel_values"] = batch["pixel_values"] * 0
        return batch

    batch = default_collate_fn(examples(), made_by, _post_tokenize_hook=hook)
    assert len(seen) == 1
    assert "labels" not in seen[0][0]
    assert seen[0][1] is made_by
    assert torch.equal(batch["twice"], batch["input_ids"] * 2)
    assert not batch["pixel_values"].any()
    assert learned(batch, made_by.tokenizer)[1] == ["yes<|im_end|>"]


def test_a_media_field_of_the_tokens_shape_is_not_cut():
    made_by = processor("qwen2_5_vl")

    def hook(batch: Any, _: Any) -> Any:
        batch["input_features_mask"] = batch["attention_mask"].clone()
        return batch

    batch = default_collate_fn(examples(), made_by, _post_tokenize_hook=hook)
    assert batch["input_features_mask"].shape[1] == batch["input_ids"].shape[1] + 1


def test_examples_are_left_as_they_are():
    rows = examples()
    rows[0]["conversation"][0]["content"][0]["image"] = rows[0]["conversation"][0]["content"][0]["image"].convert(
        "RGBA"
    )
    before = copy.deepcopy(rows)
    batch = default_collate_fn(rows, processor("qwen2_5_vl"))
    assert rows == before
    assert_batch_is(batch, own_run(processor("qwen2_5_vl"), examples()))


@pytest.mark.parametrize("answer_as_text", [True, False])
def test_texts_may_be_strings(answer_as_text: bool):
    rows = examples()
    for row in rows:
        for message in row["conversation"]:
            if len(message["content"]) == 1 and answer_as_text:
                message["content"] = message["content"][0]["text"]
    assert any(isinstance(m["content"], str) for row in rows for m in row["conversation"]) == answer_as_text
    batch = default_collate_fn(rows, processor("qwen2_vl"))
    assert_batch_is(batch, own_run(processor("qwen2_vl"), examples()))


def test_a_conversation_without_answers_has_no_labels():
    batch = default_collate_fn([{"conversation": plain(("user", "Q"))}, *examples()], processor("qwen2_vl"))
    assert set(batch["labels"][0].tolist()) == {-100}
    assert [len(runs) for runs in learned(batch, processor("qwen2_vl").tokenizer)] == [0, 2, 1, 1]


def test_what_a_template_reads_beside_contents_is_refused():
    made_by: Any = build_processor("qwen2_vl")
    made_by.chat_template = made_by.chat_template.replace(
        "{{- '<|im_end|>\\n' -}}", "{{- message.mood -}}{{- '<|im_end|>\\n' -}}"
    )
    rows = [{"conversation": plain(("user", "Q"), ("assistant", "A"))}]
    assert learned(default_collate_fn(rows, made_by), made_by.tokenizer) == [["A<|im_end|>"]]
    rows[0]["conversation"][1]["mood"] = "glad"
    with pytest.raises(RefuseSample, match="conversation 0 of the batch: its messages hold more than vlmprep reads"):
        default_collate_fn(rows, made_by)
    made_by.chat_template = build_processor("qwen2_vl").chat_template
    assert learned(default_collate_fn(rows, made_by), made_by.tokenizer) == [["A<|im_end|>"]]


def test_rows_of_arrow_tables_hold_keys_of_nothing():
    rows = examples()
    for row in rows:
        for message in row["conversation"]:
            message |= {"name": None, "tool_calls": None, "mood": None}
            for item in message["content"]:
                for key in ("image", "text", "video", "max_pixels"):
                    item.setdefault(key, None)
    made_by: Any = build_processor("qwen2_vl")
    made_by.chat_template = made_by.chat_template.replace(
        "part.type == 'image'", "part.type == 'image' or 'image' in part"
    )
    assert_batch_is(default_collate_fn(rows, made_by), own_run(processor("qwen2_vl"), examples()))


@pytest.mark.parametrize(
    "item", [{"type": "thinking", "thinking": "hm"}, {"type": "text"}, {"texts": "A"}, {"type": "text", "text": 1}]
)
def test_items_of_other_types_are_refused(item: dict[str, Any]):
    rows = [{"conversation": plain(("user", "Q"), ("assistant", [{"type": "text", "text": "A"}, item]))}]
    with pytest.raises(RefuseSample, match=r"conversation 0 of the batch: .*no text and no medium"):
        default_collate_fn(rows, processor("qwen2_vl"))


def test_a_turn_may_opt_out_and_tools_are_refused():
    rows = examples()
    rows[0]["conversation"][1]["loss"] = False
    assert learned(default_collate_fn(rows, processor("qwen2_vl")), processor("qwen2_vl").tokenizer)[0] == [
        "yes<|im_end|>"
    ]
    with pytest.raises(RefuseSample, match="tools of an example"):
        default_collate_fn([{**rows[1], "tools": [{"name": "f"}]}], processor("qwen2_vl"))


def test_calls_and_thoughts_are_learned_as_the_template_writes_them():
    made_by: Any = build_processor("qwen2_vl")
    made_by.chat_template = (
        "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}"
        "{%- if m.reasoning_content -%}{{- '<think>' + m.reasoning_content + '</think>' -}}{%- endif -%}"
        "{%- if m.content is string -%}{{- m.content -}}{%- else -%}{%- for p in m.content -%}{{- p.text -}}{%- endfor -%}"
        "{%- endif -%}{%- for c in m.tool_calls or [] -%}{{- '<tool_call>' + (c.function | tojson) + '</tool_call>' -}}"
        "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    )
    call = {"type": "function", "function": {"name": "look", "arguments": '{"at": "cat"}'}}
    rows = [
        {
            "conversation": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "reasoning_content": "hm", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "a cat"},
                {"role": "assistant", "content": "A"},
            ]
        }
    ]
    ((first, second),) = learned(default_collate_fn(rows, made_by), made_by.tokenizer)
    assert first.endswith('hm</think><tool_call>{"name": "look", "arguments": {"at": "cat"}}</tool_call><|im_end|>')
    assert second == "A<|im_end|>"


def test_a_template_that_refuses_a_conversation_is_told_with_its_row():
    rows = [*examples(), {"conversation": plain(("user", [{"type": "audio", "audio": "a.wav"}]), ("assistant", "A"))}]
    with pytest.raises(RefuseSample, match=r"conversation 3 of the batch: .*unexpected part of type audio"):
        default_collate_fn(rows, processor("qwen2_vl"))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_processor_finds_its_collate_function(name: FamilyName):
    collate = COLLATE_FNS.get(type(processor(name)).__name__, COLLATE_FNS["default"])
    batch = collate([examples()[0]], processor(name))
    assert len(learned(batch, processor(name).tokenizer)[0]) == 2
