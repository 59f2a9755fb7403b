from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.automodel.examples import processor
from tests.families.processors import build_processor
from vlmprep.automodel import collate_fns, fake_image
from vlmprep.automodel.collate_fns import (
    _decode_single_token,
    _find_pattern_indices,
    _get_assistant_marker,
    _get_stop_token_id,
)


def test_constants_are_the_references():
    assert collate_fns._GEMMA4_MODEL_TURN == "<|turn>model\n"
    assert collate_fns._GEMMA4_THINKING_PREFIX == "<|channel>thought\n<channel|>"
    assert {
        "Qwen2_5_VLProcessor",
        "Qwen3VLProcessor",
        "Qwen3OmniMoeProcessor",
    } < collate_fns._IMSTART_TEMPLATE_PROCESSORS
    assert isinstance(collate_fns._IMSTART_TEMPLATE_PROCESSORS, frozenset)
    assert fake_image._FAKE_IMAGE.size == (56, 56)
    assert fake_image._VISION_TOKEN_ID_ATTRS[:5] == (
        "image_token_id",
        "video_token_id",
        "image_token_index",
        "video_token_index",
        "media_placeholder_token_id",
    )
    assert fake_image._VISION_TOKEN_STRINGS[:5] == (
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<|media_start|>",
    )
    assert fake_image._VISION_TOKEN_KEYWORDS == ("image", "video", "media", "vision", "img_pad", "vid_pad")
    assert isinstance(fake_image._warned_unknown_processors, set)
    assert collate_fns.COLLATE_FNS["default"] is collate_fns.default_collate_fn


@pytest.mark.parametrize(
    ("pattern", "options", "found"),
    [
        ([2, 3], {}, (1, 3)),
        ([2, 3], {"search_start_index": 2}, (4, 6)),
        ([2, 3], {"search_start_index": 5}, (-1, -1)),
        ([9, 3], {}, (-1, -1)),
        ([9, 3], {"allow_first_token_mismatch": True}, (1, 3)),
        ([9, 9], {"allow_first_token_mismatch": True}, (-1, -1)),
        ([1, 2, 3, 1, 2, 3], {}, (0, 6)),
        ([1, 2, 3, 1, 2, 3, 4], {}, (-1, -1)),
        ([], {}, (-1, -1)),
    ],
)
def test_runs_of_tokens_are_found(pattern: list[int], options: Any, found: tuple[int, int]):
    template = torch.tensor([1, 2, 3, 1, 2, 3])
    assert _find_pattern_indices(template, torch.tensor(pattern, dtype=torch.int64), **options) == found
    assert _find_pattern_indices(template, pattern, **options) == found


def test_markers_of_chatml_are_known_where_they_are():
    tokenizer = processor("qwen2_5_vl").tokenizer
    marker = _get_assistant_marker(tokenizer)
    assert marker is not None
    assert tokenizer.decode(marker) == "<|im_start|>assistant\n"
    assert tokenizer.decode([_get_stop_token_id(tokenizer)]) == "<|im_end|>"
    assert _get_assistant_marker(processor("gemma4").tokenizer) is None
    assert _get_stop_token_id(processor("gemma4").tokenizer) is None
    unknown = SimpleNamespace(convert_tokens_to_ids=lambda _: 3, unk_token_id=3)
    assert _get_assistant_marker(unknown) is None
    assert _get_stop_token_id(unknown) is None


def test_single_tokens_are_decoded_whatever_the_tokenizer_takes():
    tokenizer = build_processor("qwen2_vl").tokenizer

    def lists_alone(ids: Any) -> str:
        if not isinstance(ids, list):
            raise TypeError(ids)
        return str(tokenizer.decode(ids))

    for form in (tokenizer, SimpleNamespace(decode=lists_alone)):
        assert _decode_single_token(form, tokenizer.convert_tokens_to_ids("<|im_end|>")) == "<|im_end|>"
    with pytest.raises(TypeError, match="takes no single token"):
        _decode_single_token(SimpleNamespace(decode=lambda: ""), 1)


def test_a_training_job_does_not_pay_for_it():
    code = "import vlmprep.runtime, sys\nprint('vlmprep.automodel' in sys.modules, 'vlmprep.runtime' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]
