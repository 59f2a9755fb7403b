"""Small real processors of models that vlmprep has no family for, made on the spot: the general way is tried on them.

Classes, arithmetic, placeholders and their neighbours are transformers' own, sizes small; turns are ChatML's throughout,
because what is asked here is what becomes of media.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

from tests.families.processors import build_tokenizer, chatml

__all__ = ["OTHERS", "build_other"]

TURNS = {"start": "<|im_start|>", "end_of_turn": "<|im_end|>"}
SQUARE = {"height": 56, "width": 56}


def build_other(name: str, backend: str = "torchvision") -> Any:
    """The processor of one model; the same arguments always give the same one."""
    return OTHERS[name](backend)


def images(name: str, backend: str, **settings: Any) -> Any:
    """An image processor of transformers."""
    return getattr(transformers, f"{name}ImageProcessor" + ("Pil" if backend == "pil" else ""))(**settings)


def tokenizer(image: str, *others: str, **named: str) -> Any:
    """The small vocabulary with a model's own tokens; `others` are added and not named."""
    tokens = {f"other_{at}": token for at, token in enumerate(others)}
    return build_tokenizer(chatml(False, image=image, video="<video>"), **TURNS, **tokens, **named)


def template(image: str) -> str:
    """ChatML with a model's own placeholder."""
    return chatml(False, image=image, video="<video>")


def _llava(backend: str) -> Any:
    part = images("Llava", backend, size={"shortest_edge": 56}, crop_size=SQUARE)
    return transformers.LlavaProcessor(
        part,
        tokenizer("<image>", image_token="<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )


def _llava_next(backend: str) -> Any:
    grid = [[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]]
    part = images("LlavaNext", backend, size={"shortest_edge": 56}, crop_size=SQUARE, image_grid_pinpoints=grid)
    return transformers.LlavaNextProcessor(
        part,
        tokenizer("<image>", image_token="<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )


def _pixtral(backend: str) -> Any:
    part = images("Pixtral", backend, size={"longest_edge": 128}, patch_size=16)
    words = tokenizer("[IMG]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    return transformers.PixtralProcessor(part, words, patch_size=16, chat_template=template("[IMG]"))


def _gemma3(backend: str, *, crops: bool = False) -> Any:
    names = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    settings: dict[str, Any] = {"size": SQUARE}
    if crops:
        settings |= {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 32, "pan_and_scan_max_num_crops": 3}
        settings |= {"pan_and_scan_min_ratio_to_activate": 1.2}
    return transformers.Gemma3Processor(
        images("Gemma3", backend, **settings),
        tokenizer("<start_of_image>", **names),
        image_seq_length=16,
        chat_template=template("<start_of_image>"),
    )


def _paligemma(backend: str) -> Any:
    part = images("Siglip", backend, size=SQUARE)
    part.image_seq_length = 16
    words = tokenizer("<image>", image_token="<image>")
    words.bos_token = "<|im_start|>"
    return transformers.PaliGemmaProcessor(part, words, chat_template=template("<image>"))


def _aya_vision(backend: str) -> Any:
    around = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")
    more = (*around, *(f"TILE_{at}" for at in range(1, 13)))
    return transformers.AyaVisionProcessor(
        images("GotOcr2", backend, size=SQUARE),
        tokenizer("<image>", *more, image_token="<image>"),
        patch_size=14,
        img_size=56,
        chat_template=template("<image>"),
    )


def _cohere2_vision(_: str) -> Any:
    names = {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    part: Any = transformers.Cohere2VisionImageProcessor
    part = part(size=SQUARE, patch_size=14, downsample_factor=2)
    words = tokenizer("<|IMG_PATCH|>", **names)
    return transformers.Cohere2VisionProcessor(part, words, chat_template=template("<|IMG_PATCH|>"))


def _ovis2(backend: str) -> Any:
    more = ("<image>", *(f"<IMG_{name}>" for name in ("ATOM", "START", "GRID", "COL", "ROW", "END")))
    return transformers.Ovis2Processor(
        images("Ovis2", backend, size=SQUARE),
        tokenizer("<image>", *more),
        image_seq_length=16,
        chat_template=template("<image>"),
    )


def _glm4v(backend: str) -> Any:
    names = {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "image_begin": "<|begin_of_image|>",
        "image_end": "<|end_of_image|>",
        "video_begin": "<|begin_of_video|>",
        "video_end": "<|end_of_video|>",
    }
    part = images("Glm4v", backend, size={"shortest_edge": 12_544, "longest_edge": 50_176})
    media = {
        "image": "<|begin_of_image|><|image|><|end_of_image|>",
        "video": "<|begin_of_video|><|video|><|end_of_video|>",
    }
    text = chatml(False, **media)
    words = build_tokenizer(text, **TURNS, **names)
    return transformers.Glm4vProcessor(part, words, transformers.Glm4vVideoProcessor(), chat_template=text)


def _llama4(_: str) -> Any:
    names = (
        "<|image|>",
        "<|image_start|>",
        "<|image_end|>",
        "<|patch|>",
        "<|tile_x_separator|>",
        "<|tile_y_separator|>",
    )
    part = transformers.Llama4ImageProcessor(size=SQUARE)
    words = tokenizer("<|image|>", *names)
    return transformers.Llama4Processor(part, words, chat_template=template("<|image|>"))


def _lfm2_vl(_: str) -> Any:
    names = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
        **{f"at_{i}_{j}": f"<|img_row_{i}_col_{j}|>" for i in range(1, 11) for j in range(1, 11)},
    }
    words = tokenizer("<image>", **names)
    return transformers.Lfm2VlProcessor(transformers.Lfm2VlImageProcessor(), words, chat_template=template("<image>"))


def _aria(backend: str) -> Any:
    part = images("Aria", backend, max_image_size=490)
    words = tokenizer("<image>", image_token="<image>")
    return transformers.AriaProcessor(
        part, words, chat_template=template("<image>"), size_conversion={490: 16, 980: 64}
    )


def _perception_lm(_: str) -> Any:
    part = transformers.PerceptionLMImageProcessor(size=SQUARE, tile_size=56, max_num_tiles=4)
    words = tokenizer("<|image|>", image_token="<|image|>", video_token="<|video|>")
    text = chatml(False, image="<|image|>", video="<|video|>")
    videos = transformers.PerceptionLMVideoProcessor(size=SQUARE)
    return transformers.PerceptionLMProcessor(videos, part, words, patch_size=14, chat_template=text)


def _deepseek_vl(backend: str) -> Any:
    part = images("DeepseekVL", backend, size=SQUARE)
    words = tokenizer("<image_placeholder>", image_token="<image_placeholder>")
    return transformers.DeepseekVLProcessor(
        part, words, chat_template=template("<image_placeholder>"), num_image_tokens=16
    )


def _idefics2(backend: str) -> Any:
    names = {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>"}
    part = images("Idefics2", backend, size={"shortest_edge": 56, "longest_edge": 128})
    words = tokenizer("<image>", "<end_of_utterance>", **names)
    return transformers.Idefics2Processor(part, words, image_seq_len=16, chat_template=template("<image>"))


def _mistral3(backend: str) -> Any:
    processor = _pixtral(backend)
    processor.spatial_merge_size = 2
    return processor


def _video_llama3(backend: str) -> Any:
    part = images("VideoLlama3", backend)
    words = tokenizer("<image>", image_token="<image>", video_token="<video>")
    videos = transformers.VideoLlama3VideoProcessor()
    return transformers.VideoLlama3Processor(part, words, videos, chat_template=template("<image>"))


def _janus(backend: str) -> Any:
    names = {
        "image_token": "<image_placeholder>",
        "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }
    words = tokenizer("<image_placeholder>", **names)
    part = images("Janus", backend, size=SQUARE)
    return transformers.JanusProcessor(part, words, template("<image_placeholder>"), num_image_tokens=16)


def _mllama(backend: str) -> Any:
    words = tokenizer("<|image|>", "<|python_tag|>", image_token="<|image|>")
    words.bos_token = "<|im_start|>"
    part = images("Mllama", backend, size=SQUARE)
    return transformers.MllamaProcessor(part, words, chat_template=template("<|image|>"))


def _florence2(backend: str) -> Any:
    words = tokenizer("<image>", *(f"<loc_{at}>" for at in range(4)), image_token="<image>")
    words.bos_token = "<|im_start|>"
    part = images("CLIP", backend, size=SQUARE, crop_size=SQUARE)
    part.image_seq_length = 16
    return transformers.Florence2Processor(part, words)


def _donut(backend: str) -> Any:
    return transformers.DonutProcessor(
        images("Donut", backend, size=SQUARE), tokenizer("<image>", image_token="<image>")
    )


def _paddleocr_vl(backend: str) -> Any:
    words = tokenizer("<|IMAGE_PLACEHOLDER|>", image_token="<|IMAGE_PLACEHOLDER|>")
    part = images("PaddleOCRVL", backend)
    return transformers.PaddleOCRVLProcessor(part, words, chat_template=template("<|IMAGE_PLACEHOLDER|>"))


OTHERS: dict[str, Callable[[str], Any]] = {
    "aria": _aria,
    "aya_vision": _aya_vision,
    "cohere2_vision": _cohere2_vision,
    "deepseek_vl": _deepseek_vl,
    "donut": _donut,
    "florence2": _florence2,
    "gemma3": _gemma3,
    "gemma3 with crops": lambda backend: _gemma3(backend, crops=True),
    "glm4v": _glm4v,
    "idefics2": _idefics2,
    "janus": _janus,
    "lfm2_vl": _lfm2_vl,
    "llama4": _llama4,
    "llava": _llava,
    "llava_next": _llava_next,
    "mistral3": _mistral3,
    "mllama": _mllama,
    "ovis2": _ovis2,
    "paddleocr_vl": _paddleocr_vl,
    "paligemma": _paligemma,
    "perception_lm": _perception_lm,
    "pixtral": _pixtral,
    "video_llama3": _video_llama3,
}
