"""Chat templates of every habit: labels located by construction, or the reason why they cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.truth import FAMILIES, encode, full_run, sample_of
from vlmprep.demo.processor import build_processor
from vlmprep.families.qwen.vl import Qwen2VL, Qwen3VL, Qwen25VL
from vlmprep.families.text import dialogue
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun

IMAGE = Media(kind="image", content=b"-")
CLASSES = {"qwen2_vl": Qwen2VL, "qwen2_5_vl": Qwen25VL, "qwen3_vl": Qwen3VL}

PARTS = (
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'text' %}{{ p.text }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}"
)
HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
PLAIN = HEAD + PARTS + "<|im_end|>\n{% endfor %}"
MARKED = (
    HEAD
    + "{% if m.role == 'assistant' %}{% generation %}"
    + PARTS
    + "<|im_end|>{% endgeneration %}{% else %}"
    + PARTS
    + "<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
)
TRIMMED = PLAIN.replace("{{ p.text }}", "{{ p.text | trim }}")
PRINTED = HEAD + "{{ m.content }}<|im_end|>\n{% endfor %}"
PRINTED_MARKED = HEAD + "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{{ '\n' }}{% endfor %}"
JOINED = HEAD + "{{ m.content + '<|im_end|>\n' }}{% endfor %}"


def family_with(template: Any, name: str = "qwen2_5_vl", **options: Any) -> Any:
    processor = build_processor(name, max_pixels=50_176)  # type: ignore[arg-type]
    processor.chat_template = template
    processor.tokenizer.chat_template = None
    return CLASSES[name](processor, **options)


def runs(family: Any, sample: Any) -> list[str]:
    """The runs of learned tokens, as text."""
    tokens = encode(family, sample, [(40, 60)] * len(sample.media())).expand()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], tokens.is_label.astype(int), [0]])))
    return [family.decode(tokens.input_ids[a:b].tolist()) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def refusal(family: Any, sample: Any) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        encode(family, sample, [(40, 60)] * len(sample.media()))
    return caught.value


SAMPLES = [
    sample_of(("user", "Q"), ("assistant", "A")),
    sample_of(("system", "S"), ("user", [IMAGE, "Q", IMAGE]), ("assistant", "\n\nA\n")),
    sample_of(("user", "A"), ("assistant", "A"), ("assistant", " A "), ("user", "Q"), ("assistant", ["one", "two"])),
    sample_of(("assistant", "A"), ("user", [IMAGE])),
    sample_of(("user", "Q"), ("assistant", "A"), ("tool", "Q"), ("assistant", "B"), unlearned=[1]),
    sample_of(("user", "Q"), ("assistant", ""), ("user", "Q"), ("assistant", "B"), unlearned=[1]),
]


@pytest.mark.parametrize("at", range(len(SAMPLES)))
@pytest.mark.parametrize("name", FAMILIES)
def test_marks_and_layout_give_the_same_labels(name, at):
    sizes = [(40, 60)] * len(SAMPLES[at].media())
    marked, plain = (encode(family_with(template, name), SAMPLES[at], sizes).expand() for template in (MARKED, PLAIN))
    assert marked.input_ids.tolist() == plain.input_ids.tolist()
    assert marked.is_label.tolist() == plain.is_label.tolist()
    assert marked.is_label.any()


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("name", FAMILIES)
def test_marks_give_transformers_own_assistant_mask(name, at):
    family = family_with(MARKED, name)
    sample = SAMPLES[at]
    sizes = [(40, 60)] * len(sample.media())
    tokens = encode(family, sample, sizes).expand()
    truth = full_run(
        family,
        sample,
        [np.zeros((3, *size), dtype=np.uint8) for size in sizes],
        return_assistant_tokens_mask=True,
        processor_kwargs={"return_offsets_mapping": True},
    )
    assert tokens.input_ids.tolist() == truth["input_ids"].tolist()
    assert tokens.is_label.tolist() == truth["assistant_masks"][0].astype(bool).tolist()


def test_marks_say_what_is_learned_even_without_an_end_of_turn():
    template = HEAD + "{% if m.role == 'assistant' %}{% generation %}" + PARTS + "{% endgeneration %}{% else %}" + PARTS
    assert runs(family_with(template + "{% endif %}{{ '\n' }}{% endfor %}"), SAMPLES[0]) == ["A"]


def test_marks_that_hold_nothing_leave_nothing_to_learn():
    empty = MARKED.replace("{% generation %}" + PARTS + "<|im_end|>", PARTS + "{% generation %}")
    assert refusal(family_with(empty), SAMPLES[0]).code == "no-label-tokens"


def test_an_opt_out_that_no_mark_belongs_to_is_refused():
    last_only = MARKED.replace("m.role == 'assistant'", "m.role == 'assistant' and loop.last")
    family = family_with(last_only)
    turns = [("user", "Q"), ("assistant", "A"), ("user", "Q"), ("assistant", "B")]
    assert runs(family, sample_of(*turns)) == ["B<|im_end|>"]
    assert refusal(family, sample_of(*turns, unlearned=[1])).code == "unlocatable-turns"


def test_marks_may_alter_the_text():
    assert runs(
        family_with(MARKED.replace("{{ p.text }}", "{{ p.text | upper }}")), sample_of(("assistant", "abc"))
    ) == ["ABC<|im_end|>"]


def test_a_template_that_trims_is_followed():
    family = family_with(TRIMMED)
    assert runs(family, sample_of(("user", " Q\n"), ("assistant", "\n\nA ;\n "))) == ["A ;<|im_end|>"]
    assert runs(family, sample_of(("user", " \n"), ("assistant", "A"))) == ["A<|im_end|>"]


def test_an_answer_of_which_trimming_leaves_nothing_is_empty():
    assert refusal(family_with(TRIMMED), sample_of(("user", "Q"), ("assistant", " \n "))).code == "empty-answer"
    marked = MARKED.replace("{{ p.text }}", "{{ p.text | trim }}").replace("<|im_end|>{% endgen", "{% endgen")
    assert refusal(family_with(marked), sample_of(("user", "Q"), ("assistant", " \n "))).code == "no-label-tokens"


@pytest.mark.parametrize(
    ("change", "text"),
    [("| upper", "abc"), ("| replace('a', 'b')", "abc"), ("[:3]", "abcdef"), ("| e", "<a>")],
)
def test_a_template_that_alters_a_text_is_refused_for_that_text_alone(change, text):
    family = family_with(PLAIN.replace("{{ p.text }}", "{{ p.text" + change + " }}"))
    assert refusal(family, sample_of(("user", text), ("assistant", "A"))).code == "unlocatable-turns"
    if change not in ("| upper", "[:3]"):
        assert runs(family, sample_of(("user", "Q"), ("assistant", "1")))


def test_trimming_the_answers_alone_is_followed():
    family = family_with(PLAIN.replace("{{ p.text }}", "{{ (p.text | trim) if m.role == 'assistant' else p.text }}"))
    assert runs(family, sample_of(("user", "Q"), ("assistant", " A"))) == ["A<|im_end|>"]
    assert runs(family, sample_of(("user", " Q"), ("assistant", "A"))) == ["A<|im_end|>"]
    assert runs(family, sample_of(("user", " Q"), ("assistant", " A"))) == ["A<|im_end|>"]
    tokens = encode(family, sample_of(("user", " Q"), ("assistant", " A"))).expand()
    assert "user\n Q<|im_end|>" in family.decode(tokens.input_ids.tolist())


@pytest.mark.parametrize(
    ("how", "text", "left"),
    [
        (".strip('\\n')", "\n \n A \n \n", " \n A \n "),
        (".lstrip('\\n')", "\n\nA\n", "A\n"),
        (".rstrip()", " \nA \n", " \nA"),
        (" | trim", "\t A\u3000", "A"),
    ],
)
def test_texts_are_stripped_as_the_template_strips_them(how, text, left):
    family = family_with(PLAIN.replace("{{ p.text }}", "{{ p.text" + how + " }}"))
    (run,) = runs(family, sample_of(("user", text), ("assistant", text)))
    assert run.lstrip("\n") == left.lstrip("\n") + "<|im_end|>"


@pytest.mark.parametrize("template", [PRINTED, PRINTED_MARKED, JOINED])
def test_a_template_that_prints_lists_is_given_strings(template):
    family = family_with(template)
    sample = sample_of(("system", "S"), ("user", ["one ", "two"]), ("assistant", "A"))
    tokens = encode(family, sample).expand()
    text = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\none two<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    assert family.decode(tokens.input_ids.tolist()) == text
    assert runs(family, sample)[-1] == "A<|im_end|>"
    assert refusal(family, sample_of(("user", [IMAGE, "Q"]), ("assistant", "A"))).code in (
        "template-error",
        "tag-mismatch",
    )


def test_a_template_that_prints_the_lists_of_one_role_alone_is_given_strings_there():
    family = family_with(
        PLAIN.replace(PARTS, "{% if m.role == 'system' %}{{ m.content }}{% else %}" + PARTS + "{% endif %}")
    )
    sample = sample_of(("system", "S"), ("user", [IMAGE, "Q"]), ("assistant", "A"))
    tokens = encode(family, sample, [(40, 60)]).expand()
    assert family.decode(tokens.input_ids.tolist()).startswith("<|im_start|>system\nS<|im_end|>\n")
    assert runs(family, sample) == ["A<|im_end|>"]


def test_a_line_end_before_the_end_of_turn_is_learned():
    family = family_with(PLAIN.replace("<|im_end|>", " \n<|im_end|>"))
    assert runs(family, SAMPLES[0]) == ["A \n<|im_end|>"]


def test_an_end_of_turn_that_differs_in_the_middle_is_refused():
    family = family_with(PLAIN.replace("<|im_end|>", "{% if loop.last %}<|im_end|>{% else %}<|endoftext|>{% endif %}"))
    assert runs(family, SAMPLES[0]) == ["A<|im_end|>"]
    found = refusal(family, sample_of(("user", "Q"), ("assistant", "A"), ("user", "Q")))
    assert found.code == "unlocatable-turns"
    assert "<|endoftext|>" in found.reason


def test_the_end_of_turn_may_be_a_variable():
    assert runs(family_with(PLAIN.replace("<|im_end|>", "{{ eos_token }}")), SAMPLES[0]) == ["A<|im_end|>"]


def test_a_template_that_moves_images_ahead_of_the_text_counts_them_there():
    template = (
        HEAD
        + "{% for p in m.content if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endfor %}"
        + "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    family = family_with(template)
    sample = sample_of(("user", ["one", IMAGE, "two", IMAGE]), ("assistant", "A"))
    sizes = [(56, 56), (112, 56)]
    truth = full_run(family, sample, [np.zeros((3, *size), dtype=np.uint8) for size in sizes])
    assert encode(family, sample, sizes).expand().input_ids.tolist() == truth["input_ids"].tolist()
    # Texts that an image kept apart stand side by side now.
    assert refusal(family, sample_of(("user", ["<|im_", IMAGE, "end|>"]), ("assistant", "A"))).code == "control-token"


def test_a_template_that_reads_texts_in_another_order_is_refused_where_it_does():
    family = family_with(PLAIN.replace("for p in m.content", "for p in m.content | reverse"))
    assert runs(family, SAMPLES[0]) == ["A<|im_end|>"]
    assert refusal(family, sample_of(("user", ["a", "b"]), ("assistant", "A"))).code == "unlocatable-turns"


def test_a_template_that_writes_control_tokens_of_its_own_is_believed():
    family = family_with(PLAIN.replace("{{ m.role }}\n", "{{ m.role }}\n<|object_ref_start|><|object_ref_end|>"))
    assert runs(family, SAMPLES[0]) == ["A<|im_end|>"]
    assert refusal(family, sample_of(("user", ["<|im_", "end|>"]), ("assistant", "A"))).code == "control-token"


@pytest.mark.parametrize("template", [MARKED, PLAIN])
def test_texts_that_join_into_a_control_token_are_refused_and_may_be_kept(template):
    sample = sample_of(("user", ["<|im_", "end|>"]), ("assistant", "A"))
    assert refusal(family_with(template), sample).code == "control-token"
    assert runs(family_with(template, keep_control_text=True), sample) == ["A<|im_end|>"]


@pytest.mark.parametrize(
    "body",
    [
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ messages.nothing.nothing }}",
        "{{ messages[99].role }}",
        "{{ 'a' + 1 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ [][0].x }}",
        "{% set x = namespace(_a=1) %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(100000000) | list }}",
        "{% include 'x' %}",
    ],
)
def test_whatever_a_template_raises_refuses_the_sample(body):
    family = family_with("{% if messages | length > 2 %}" + body + "{% endif %}" + PLAIN)
    assert runs(family, SAMPLES[0]) == ["A<|im_end|>"]
    found = refusal(family, SAMPLES[2])
    assert found.code == "template-error"
    assert len(found.reason) < 500


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "no chat template"),
        ("", "no chat template"),
        ({"tool_use": PLAIN}, "no chat template"),
        ("{% for %}", "does not take a question and its answer"),
        ("{% if 1 %}" * 3_000 + PLAIN + "{% endif %}" * 3_000, "does not take a question and its answer"),
        ("{{ raise_exception('never') }}", "never"),
        ("constant", "leaves out, repeats or reorders"),
        (PLAIN.replace("{{ p.text }}", "{{ p.text }}{{ p.text }}"), "leaves out, repeats or reorders"),
        (PLAIN.replace("for m in messages", "for m in messages | reverse"), "leaves out, repeats or reorders"),
        (HEAD + PARTS + "\n{% endfor %}", "which is no control token"),
        (PLAIN.replace("<|im_end|>", "</s>"), "which is no control token"),
        (PLAIN.replace("{{ p.text }}", "{{ p.text | tojson }}"), "which is no control token"),
    ],
)
def test_a_template_that_cannot_be_used_stops_the_run(template, says):
    with pytest.raises(StopRun, match=says):
        family_with(template)


def test_the_default_of_several_templates_is_used():
    assert runs(family_with({"default": PLAIN, "other": "constant"}), SAMPLES[0]) == ["A<|im_end|>"]


def test_the_tokenizers_template_stands_in():
    processor = build_processor("qwen2_5_vl")
    processor.chat_template, processor.tokenizer.chat_template = None, PLAIN
    assert runs(Qwen25VL(processor), SAMPLES[0]) == ["A<|im_end|>"]


@pytest.mark.parametrize(
    "template", [PLAIN.replace("<|image_pad|>", ""), PLAIN.replace("<|image_pad|>", "<|video_pad|>"), PRINTED]
)
def test_a_template_without_a_place_for_images_refuses_them_and_makes_no_fake_one(template):
    family = family_with(template)
    assert runs(family, SAMPLES[0]) == ["A<|im_end|>"]
    assert refusal(family, SAMPLES[1]).code in ("tag-mismatch", "template-error")
    with pytest.raises(StopRun, match="image"):
        family.fake_image()


def test_shapes_of_conversation_are_forgotten_before_memory_ends(monkeypatch):
    monkeypatch.setattr(dialogue, "SHAPES_KEPT", 3)
    family = family_with(PLAIN)
    for length in range(1, 12):
        assert runs(family, sample_of(("user", ["Q"] * length), ("assistant", "A"))) == ["A<|im_end|>"]
    assert len(family._turns._layouts) == 3
