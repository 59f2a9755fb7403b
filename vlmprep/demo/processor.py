"""Real Hugging Face processors of the Qwen families around a small tokenizer that is trained on the spot.

Classes, pre-tokenization, special tokens, turn markers and image settings are those that the families publish; only the
vocabulary is small. What holds for these processors therefore holds for the published ones, with no download.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from vlmprep.demo.prose import TOPICS

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import ProcessorMixin

__all__ = ["NUM_TRAINED_TOKENS", "SPECIAL_TOKENS", "Family", "ImageBackend", "build_processor", "save_processor"]

Family: TypeAlias = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
ImageBackend: TypeAlias = Literal["torchvision", "pil"]

NUM_TRAINED_TOKENS = 1906
"""Byte alphabet and merges; the special tokens come behind them, as in the published vocabularies."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""In the published order of ids."""

_WHOLE_TOKENS = "system\nuser\nassistant\n\n\n"
"""Roles and runs of newlines are single tokens in the published vocabularies; a turn's boundary is where it matters."""

_PROCESSORS = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}
_IMAGE_PROCESSORS = {"torchvision": Qwen2VLImageProcessor, "pil": Qwen2VLImageProcessorPil}

_DEFAULT_SYSTEM_TURN = """\
{%- if messages[0].role != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
"""
_TURNS = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part.type == 'video' -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- else -%}
                {{- raise_exception('unexpected part of type ' + part.type) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_processor(
    family: Family = "qwen2_5_vl", *, image_backend: ImageBackend = "torchvision", max_pixels: int | None = None
) -> ProcessorMixin:
    """Build a processor of one family; the same arguments always give the same one.

    Args:
        family: Whose classes and settings.
        image_backend: Which of the family's two image processors; they resize up to 3 levels apart.
        max_pixels: Bound on a resized image's pixels (height x width), to keep sequences short; the family's own
            bound without it.
    """
    template = _TURNS if family == "qwen3_vl" else _DEFAULT_SYSTEM_TURN + _TURNS
    settings = _image_settings(family)
    if max_pixels is not None:
        settings["size"]["longest_edge"] = max_pixels
    return _PROCESSORS[family](  # type: ignore[no-untyped-call]
        image_processor=_IMAGE_PROCESSORS[image_backend](**settings),
        tokenizer=_build_tokenizer(template),
        video_processor=Qwen3VLVideoProcessor() if family == "qwen3_vl" else Qwen2VLVideoProcessor(),
        chat_template=template,
    )


def save_processor(path: Path, family: Family = "qwen2_5_vl", *, max_pixels: int | None = None) -> None:
    """Save what `build_processor` builds, for `AutoProcessor.from_pretrained(path)`.

    A saved processor does not name its image backend: whoever loads it chooses, and torchvision is the default.
    """
    build_processor(family, max_pixels=max_pixels).save_pretrained(path)


def _image_settings(family: Family) -> dict[str, Any]:
    if family == "qwen3_vl":
        return {
            "patch_size": 16,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        }
    return {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}}


def _build_tokenizer(template: str) -> Qwen2Tokenizer:
    return Qwen2Tokenizer(
        tokenizer_object=Tokenizer.from_str(_train_tokenizer()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,  # type: ignore[arg-type]  # as published, though annotated as str
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=template,
    )


@cache
def _train_tokenizer() -> str:
    """Train the byte-level BPE on the demo's texts, behind the very pre-tokenizer that `Qwen2Tokenizer` brings.

    Returns:
        The tokenizer as JSON.
    """
    published = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = published.normalizer
    tokenizer.pre_tokenizer = published.pre_tokenizer
    tokenizer.decoder = published.decoder
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TRAINED_TOKENS,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{_WHOLE_TOKENS}{topic.title}\n\n{' '.join(topic.sentences)}\n" for topic in TOPICS]
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == NUM_TRAINED_TOKENS, "the demo's texts are long enough for the vocabulary"
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer.to_str()
