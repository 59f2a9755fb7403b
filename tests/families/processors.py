"""A small real processor of every family that transformers carries, made on the spot: no hub, no download.

Classes, arithmetic, sizes, special tokens and turn markers are the families' own; only the vocabulary is small: the demo's
byte-level BPE with each family's tokens behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeAlias

import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import SizeDict

from vlmprep.demo.processor import build_processor as build_qwen_processor

__all__ = ["FAMILY_NAMES", "FamilyName", "build_processor", "build_tokenizer"]

FamilyName: TypeAlias = Literal[
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_omni",
    "kimi_k25",
    "gemma4",
    "phi4_multimodal",
    "nemotron_omni",
    "llava_onevision",
    "internvl",
    "idefics3",
    "smolvlm",
    "step3p7",
]

_CLIP: dict[str, Any] = {
    "norm_mean": [0.48145466, 0.4578275, 0.40821073],
    "norm_std": [0.26862954, 0.26130258, 0.27577711],
}
_HALF: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_QWEN_MEDIA = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
}
_CHATML = {"start": "<|im_start|>", "end_of_turn": "<|im_end|>"}
_ROWS_AND_COLUMNS = {f"row_{i}_col_{j}": f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)}


def build_processor(
    name: FamilyName,
    *,
    image_backend: Literal["torchvision", "pil"] = "torchvision",
    marked: bool = False,
    small_tiles: bool = False,
) -> Any:
    """Build a processor of one family; the same arguments always give the same one.

    Args:
        name: Whose classes and settings.
        image_backend: Which of the family's image processors; Kimi, Phi-4, Nemotron and Step3.7 have torchvision's alone.
        marked: The chat template has `{% generation %}` marks around what the assistant says.
        small_tiles: A family that cuts images into tiles cuts them into small ones: the same arithmetic in a tenth of
            the time.
    """
    processor = FAMILIES[name](image_backend, marked)
    if small_tiles:
        _SMALL_TILES[name](processor)
    return processor


def build_tokenizer(template: str, **tokens: str) -> PreTrainedTokenizerFast:
    """The small vocabulary and a family's own tokens, each reachable as tokenizer.<name> and tokenizer.<name>_id.

    Args:
        template: The chat template.
        tokens: The family's tokens by name; `end_of_turn` is the end token too.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_vocabulary()),
        eos_token=tokens["end_of_turn"],
        pad_token="<|endoftext|>",
        extra_special_tokens=tokens,
        chat_template=template,
    )


def template(
    open_turn: str, close_turn: str, media: dict[str, str], *, marked: bool, roles: dict[str, str] | None = None
) -> str:
    """A chat template.

    Args:
        open_turn: What opens a turn; holds ROLE.
        close_turn: What ends one; a newline follows.
        media: What stands for an image, a video, a sound.
        marked: Mark what the assistant says.
        roles: What roles are called, where it is not their own name.
    """
    kinds = "".join(f"{{%- elif part.type == '{kind}' -%}}{{{{- {text!r} -}}}}" for kind, text in media.items())
    body = (
        "{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}"
        "{%- if part.type == 'text' -%}{{- part.text -}}" + kinds + "{%- else -%}"
        "{{- raise_exception('unexpected part of type ' + part.type) -}}{%- endif -%}{%- endfor -%}{%- endif -%}"
        f"{{{{- {close_turn!r} -}}}}"
    )
    before, _, after = open_turn.partition("ROLE")
    head = f"{{{{- {before!r} + {roles or {}!r}.get(message.role, message.role) + {after!r} -}}}}"
    if marked:
        marks = "{% generation %}" + body + "{% endgeneration %}"
        body = "{%- if message.role == 'assistant' -%}" + marks + "{%- else -%}" + body + "{%- endif -%}"
    return "{%- for message in messages -%}" + head + body + "{{- '\\n' -}}{%- endfor -%}"


def chatml(marked: bool, **media: str) -> str:
    """The turns of Qwen and those who built on it."""
    return template("<|im_start|>ROLE\n", "<|im_end|>", media, marked=marked)


@cache
def _vocabulary() -> str:
    """The demo's trained vocabulary as JSON, without its special tokens."""
    trained: Any = build_qwen_processor("qwen2_vl").tokenizer
    content = json.loads(trained.backend_tokenizer.to_str())
    content["added_tokens"] = []
    return json.dumps(content)


def _class(name: str, backend: str = "torchvision") -> Any:
    """A class of transformers; an image processor's of the backend."""
    return getattr(transformers, name + ("Pil" if backend == "pil" else ""))


def _qwen2_vl(backend: Any, marked: bool) -> Any:
    return _with_marks(build_qwen_processor("qwen2_vl", image_backend=backend), marked)


def _qwen2_5_vl(backend: Any, marked: bool) -> Any:
    return _with_marks(build_qwen_processor("qwen2_5_vl", image_backend=backend), marked)


def _qwen3_vl(backend: Any, marked: bool) -> Any:
    return _with_marks(build_qwen_processor("qwen3_vl", image_backend=backend), marked)


def _with_marks(processor: Any, marked: bool) -> Any:
    if marked:
        processor.chat_template = chatml(True, **_QWEN_MEDIA)
    return processor


def _qwen3_omni(backend: str, marked: bool) -> Any:
    text = chatml(marked, **_QWEN_MEDIA, audio="<|audio_start|><|audio_pad|><|audio_end|>")
    tokens = {
        "image_token": "<|image_pad|>",
        "audio_token": "<|audio_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
    }
    bounds = {"shortest_edge": 3136, "longest_edge": 12_845_056}
    video_bounds = {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32}
    return transformers.Qwen3OmniMoeProcessor(
        _class("Qwen2VLImageProcessor", backend)(patch_size=16, size=bounds, **_HALF),
        transformers.Qwen2VLVideoProcessor(patch_size=16, size=video_bounds, **_HALF),
        transformers.WhisperFeatureExtractor(feature_size=128, sampling_rate=16_000, hop_length=160, chunk_length=300),
        build_tokenizer(text, **_CHATML, **tokens),
        chat_template=text,
    )


def _kimi_k25(_: str, marked: bool) -> Any:
    from transformers.models.kimi_k25.image_processing_kimi_k25 import Kimi_K25ImageProcessor
    from transformers.models.kimi_k25.processing_kimi_k25 import Kimi_K25Processor
    from transformers.models.kimi_k25.video_processing_kimi_k25 import Kimi_K25VideoProcessor

    media = {
        "image": "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
        "video": "<|kimi_k25_video_placeholder|>",
    }
    tokens = {
        "image_token": "<|media_pad|>",
        "video_token": "<|kimi_k25_video_placeholder|>",
        "media_begin": "<|media_begin|>",
        "media_content": "<|media_content|>",
        "media_end": "<|media_end|>",
        "user": "<|im_user|>",
        "assistant": "<|im_assistant|>",
        "system": "<|im_system|>",
        "middle": "<|im_middle|>",
        "end_of_turn": "<|im_end|>",
    }
    roles = {role: f"<|im_{role}|>{role}" for role in ("user", "assistant", "system")}
    text = template("ROLE<|im_middle|>", "<|im_end|>", media, marked=marked, roles=roles)
    return Kimi_K25Processor(
        Kimi_K25ImageProcessor(), build_tokenizer(text, **tokens), Kimi_K25VideoProcessor(), chat_template=text
    )


def _gemma4(backend: str, marked: bool) -> Any:
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
    from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor

    media = {"image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>"}
    tokens = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "video_token": "<|video|>",
        "start": "<|turn>",
        "end_of_turn": "<turn|>",
        "channel_open": "<|channel>",
        "channel_close": "<channel|>",
    }
    text = template("<|turn>ROLE\n", "<turn|>", media, marked=marked, roles={"assistant": "model"})
    return Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        _class("Gemma4ImageProcessor", backend)(),
        build_tokenizer(text, **tokens),
        Gemma4VideoProcessor(),
        chat_template=text,
    )


def _phi4_multimodal(_: str, marked: bool) -> Any:
    media = {"image": "<|endoftext10|>", "audio": "<|endoftext11|>"}
    tokens = {
        "image_token": "<|endoftext10|>",
        "audio_token": "<|endoftext11|>",
        "user": "<|user|>",
        "assistant": "<|assistant|>",
        "system": "<|system|>",
        "end_of_turn": "<|end|>",
    }
    text = template("<|ROLE|>", "<|end|>", media, marked=marked)
    processor: Any = transformers.Phi4MultimodalProcessor(
        transformers.Phi4MultimodalImageProcessor(),
        transformers.Phi4MultimodalFeatureExtractor(),
        build_tokenizer(text, **tokens),
    )
    processor.chat_template = text  # its __init__ takes none, and a reloaded one has it on the tokenizer only
    return processor


def _nemotron_omni(_: str, marked: bool) -> Any:
    from transformers.models.nemotron_h_omni import image_processing_nemotron_h_omni as images
    from transformers.models.nemotron_h_omni import processing_nemotron_h_omni as processing
    from transformers.models.nemotron_h_omni import video_processing_nemotron_h_omni as videos

    text = chatml(marked, image="<image>", video="<video>", audio="<so_embedding>")
    tokens = {
        "image_token": "<image>",
        "video_token": "<video>",
        "audio_token": "<so_embedding>",
        "sound_start": "<so_start>",
        "sound_end": "<so_end>",
        "image_start_token": "<img>",
        "image_end_token": "</img>",
    }
    return processing.NemotronH_Omni_Reasoning_V3Processor(
        images.NemotronH_Omni_Reasoning_V3ImageProcessor(),
        videos.NemotronH_Omni_Reasoning_V3VideoProcessor(**_CLIP),
        build_tokenizer(text, **_CHATML, **tokens),
        transformers.ParakeetFeatureExtractor(),
        chat_template=text,
    )


def _llava_onevision(backend: str, marked: bool) -> Any:
    text = chatml(marked, image="<image>\n", video="<video>\n")
    return transformers.LlavaOnevisionProcessor(
        _class("LlavaOnevisionImageProcessor", backend)(),
        build_tokenizer(text, **_CHATML, image_token="<image>", video_token="<video>"),
        transformers.LlavaOnevisionVideoProcessor(do_sample_frames=True, num_frames=8),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        chat_template=text,
    )


def _internvl(backend: str, marked: bool) -> Any:
    text = chatml(marked, image="<IMG_CONTEXT>\n", video="<video>\n")
    tokens = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    size = {"height": 448, "width": 448}
    return transformers.InternVLProcessor(
        _class("GotOcr2ImageProcessor", backend)(size=size),
        build_tokenizer(text, **_CHATML, **tokens),
        transformers.InternVLVideoProcessor(size=size),
        image_seq_length=256,
        chat_template=text,
    )


def _utterances(marked: bool, **media: str) -> str:
    roles = {"user": "User", "assistant": "Assistant", "system": "System"}
    return template("ROLE: ", "<end_of_utterance>", media, marked=marked, roles=roles)


def _idefics3(backend: str, marked: bool) -> Any:
    text = _utterances(marked, image="<image>")
    tokens = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_turn": "<end_of_utterance>",
        "global_image_token": "<global-img>",
        **_ROWS_AND_COLUMNS,
    }
    sizes = {"max_image_size": {"longest_edge": 364}, "size": {"longest_edge": 4 * 364}}
    return transformers.Idefics3Processor(
        _class("Idefics3ImageProcessor", backend)(**sizes),
        build_tokenizer(text, **tokens),
        image_seq_len=169,
        chat_template=text,
    )


def _smolvlm(backend: str, marked: bool) -> Any:
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    text = _utterances(marked, image="<image>", video="<video>") if marked else DEFAULT_CHAT_TEMPLATE
    tokens = {
        "start": "<|im_start|>",
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "end_of_turn": "<end_of_utterance>",
        "global_image_token": "<global-img>",
        "video_token": "<video>",
        **_ROWS_AND_COLUMNS,
    }
    edge = {"longest_edge": 512}
    return transformers.SmolVLMProcessor(
        _class("SmolVLMImageProcessor", backend)(max_image_size=edge, size={"longest_edge": 2048}),
        build_tokenizer(text, **tokens),
        transformers.SmolVLMVideoProcessor(max_image_size=edge, size=edge, num_frames=8, fps=1),
        image_seq_len=64,
        chat_template=text,
    )


def _step3p7(_: str, marked: bool) -> Any:
    from transformers.models.step3p7.image_processing_step3p7 import Step3p7ImageProcessor
    from transformers.models.step3p7.processing_step3p7 import Step3p7Processor

    text = chatml(marked, image="<im_patch>")
    tokens = {
        "image_token": "<im_patch>",
        "patch_start": "<patch_start>",
        "patch_end": "<patch_end>",
        "patch_newline": "<patch_newline>",
        "image_start": "<im_start>",
        "image_end": "<im_end>",
    }
    return Step3p7Processor(Step3p7ImageProcessor(), build_tokenizer(text, **_CHATML, **tokens), chat_template=text)


def _small_llava_onevision(processor: Any) -> None:
    sides = (56, 112, 168, 224)
    for part in (processor.image_processor, processor.video_processor):
        part.size = SizeDict(height=56, width=56)
    processor.image_processor.image_grid_pinpoints = [[height, width] for height in sides for width in sides]
    processor.num_image_tokens = 16
    processor.vision_aspect_ratio = "anyres_max_4"


def _small_internvl(processor: Any) -> None:
    for part in (processor.image_processor, processor.video_processor):
        part.size = SizeDict(height=56, width=56)
    processor.image_seq_length = 4


def _small_idefics3(processor: Any) -> None:
    processor.image_processor.max_image_size = {"longest_edge": 56}
    processor.image_processor.size = SizeDict(longest_edge=4 * 56)
    processor.image_seq_len = 4


def _small_smolvlm(processor: Any) -> None:
    _small_idefics3(processor)
    processor.video_processor.max_image_size = {"longest_edge": 56}
    processor.video_processor.size = SizeDict(longest_edge=56)


def _small_step3p7(processor: Any) -> None:
    images = processor.image_processor
    images.size, images.patch_size, images.max_image_size = SizeDict(height=112, width=112), 56, 448
    processor.__init__(images, processor.tokenizer, processor.chat_template)  # counts placeholders from sizes


_SMALL_TILES: dict[str, Callable[[Any], None]] = {
    "llava_onevision": _small_llava_onevision,
    "internvl": _small_internvl,
    "idefics3": _small_idefics3,
    "smolvlm": _small_smolvlm,
    "step3p7": _small_step3p7,
}

FAMILIES: dict[FamilyName, Callable[[str, bool], Any]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_omni": _qwen3_omni,
    "kimi_k25": _kimi_k25,
    "gemma4": _gemma4,
    "phi4_multimodal": _phi4_multimodal,
    "nemotron_omni": _nemotron_omni,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "step3p7": _step3p7,
}
FAMILY_NAMES: tuple[FamilyName, ...] = tuple(FAMILIES)
