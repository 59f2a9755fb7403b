from __future__ import annotations

import json
import lzma
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoProcessor

from vlmprep.demo import processor as demo
from vlmprep.demo.processor import NUM_TRAINED_TOKENS, SPECIAL_TOKENS, build_processor

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FACTOR = {"qwen2_vl": 28, "qwen2_5_vl": 28, "qwen3_vl": 32}
PUBLISHED_SYSTEM_TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"

CONVERSATION: Any = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many red squares?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Three."}]},
]


def noise_image(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_processor_loads_as_what_was_built(family, processor_dir):
    built = build_processor(family)
    loaded = AutoProcessor.from_pretrained(processor_dir(family))

    parts = ("image_processor", "tokenizer", "video_processor")
    assert type(loaded) is type(built)
    assert [type(getattr(loaded, part)) for part in parts] == [type(getattr(built, part)) for part in parts]
    assert loaded.tokenizer.get_vocab() == built.tokenizer.get_vocab()
    assert loaded.image_processor.to_dict() == built.image_processor.to_dict()

    text = built.apply_chat_template(CONVERSATION)
    assert loaded.apply_chat_template(CONVERSATION) == text
    expected = built(text=[text], images=[noise_image(300, 400)], return_tensors="pt")
    actual = loaded(text=[text], images=[noise_image(300, 400)], return_tensors="pt")
    assert set(actual) == set(expected) >= {"input_ids", "pixel_values", "image_grid_thw", "mm_token_type_ids"}
    assert all(actual[key].equal(expected[key]) for key in expected)


def test_special_tokens_follow_the_trained_ones_in_the_published_order():
    tokenizer = build_processor().tokenizer
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(NUM_TRAINED_TOKENS, NUM_TRAINED_TOKENS + 14))
    assert len(tokenizer) == NUM_TRAINED_TOKENS + 14
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)


def test_training_is_deterministic():
    train = demo._train_tokenizer.__wrapped__
    assert train() == train()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize(("rows", "columns"), [(10, 8), (8, 30), (25, 9)])
def test_an_image_expands_to_one_token_per_merged_patch(family, backend, rows, columns):
    processor = build_processor(family, image_backend=backend)
    image = noise_image(rows * FACTOR[family], columns * FACTOR[family])
    encoded = processor(text=["<|image_pad|>"], images=[image])
    assert encoded["input_ids"] == [[SPECIAL_TOKENS.index("<|image_pad|>") + NUM_TRAINED_TOKENS] * rows * columns]
    assert np.asarray(encoded["image_grid_thw"]).tolist() == [[1, 2 * rows, 2 * columns]]


@pytest.mark.parametrize("family", FAMILIES)
def test_image_backends_are_the_families_own_two(family):
    names = [
        type(build_processor(family, image_backend=name).image_processor).__name__ for name in ("torchvision", "pil")
    ]
    assert names == ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorPil"]


@pytest.mark.parametrize("family", FAMILIES)
def test_max_pixels_bounds_the_resized_image(family):
    bound = 100_000
    grid = build_processor(family, max_pixels=bound).image_processor(noise_image(900, 1200))["image_grid_thw"]
    pixels = np.prod(np.asarray(grid)) * (FACTOR[family] // 2) ** 2
    assert 0.8 * bound < pixels <= bound


def test_max_pixels_leaves_other_processors_alone():
    build_processor(max_pixels=100_000)
    assert build_processor().image_processor.size["longest_edge"] == 28 * 28 * 1280


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_are_rendered_in_the_published_markers(family):
    system_turn = "" if family == "qwen3_vl" else PUBLISHED_SYSTEM_TURN
    assert build_processor(family).apply_chat_template(CONVERSATION) == (
        system_turn + "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many red squares?<|im_end|>\n"
        "<|im_start|>assistant\nThree.<|im_end|>\n"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_given_system_turn_replaces_the_default_one(family):
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
    assert build_processor(family).apply_chat_template(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_generation_prompt_is_where_the_answer_starts(family):
    processor = build_processor(family)
    prompt = processor.apply_chat_template(CONVERSATION[:1], add_generation_prompt=True)
    assert processor.apply_chat_template(CONVERSATION) == prompt + "Three.<|im_end|>\n"


def test_videos_have_a_placeholder_and_other_parts_are_an_error():
    def render(kind: str) -> str:
        messages: Any = [{"role": "user", "content": [{"type": kind}]}]
        return build_processor().apply_chat_template(messages)

    assert "user\n<|vision_start|><|video_pad|><|vision_end|><|im_end|>" in render("video")
    with pytest.raises(TemplateError, match="unexpected part of type smell"):
        render("smell")


@pytest.mark.parametrize("text", ["system", "user", "assistant", "\n\n", "\n\n\n"])
def test_what_stands_at_turn_boundaries_is_a_single_token(text):
    """Else the newline of a marker could not merge with the answer's first ones, and a trap would go untested."""
    assert len(build_processor().tokenizer.encode(text)) == 1


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    tokenizer = build_processor().tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_text_is_split_as_by_the_published_vocabulary(shared_data):
    published = json.loads(lzma.decompress((shared_data / "qwen_tokenizer" / "tokenizer.json.xz").read_bytes()))
    trained = json.loads(demo._train_tokenizer())
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        assert trained[part] == published[part]
    published_specials = [token["content"] for token in published["added_tokens"]]
    assert published_specials[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
