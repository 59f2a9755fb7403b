"""Stand-ins for processors whose code comes with the model: the published interfaces, in words of our own.

Kimi-VL        `processor(text=..., images=[...])`: repeats each placeholder, returns `image_grid_hws`
Kimi K2.5      `processor(text=..., medias=[{"type": "image", "image": ...}])`: leaves one placeholder, returns `grid_thws`
Nemotron-Parse `processor(images=[...], text=[...])`: no chat template
Phi-4-MM       `processor(text=..., images=[...], audios=[(samples, rate), ...])`: `<|audio_1|>` in the text, empty image fields
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from tests.families.processors import build_processor, build_tokenizer

__all__ = ["kimi_k25_remote", "kimi_vl_remote", "nemotron_parse_remote", "phi4_remote"]

SIDE = 14


def kimi_vl_remote() -> KimiVLProcessor:
    return KimiVLProcessor(build_processor("kimi_k25"))


def kimi_k25_remote() -> KimiK25Processor:
    return KimiK25Processor(build_processor("kimi_k25"))


def phi4_remote() -> Phi4MMProcessor:
    return Phi4MMProcessor(build_processor("phi4_multimodal"))


def nemotron_parse_remote(**options: Any) -> NemotronParseProcessor:
    return NemotronParseProcessor(**options)


class Remote:
    """What all share: a tokenizer and its chat template."""

    def __init__(self, own: Any) -> None:
        self.tokenizer = own.tokenizer
        self.chat_template = own.chat_template
        self.all_special_multimodal_tokens = list(own.all_special_multimodal_tokens)
        self._own = own

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        return self._own.apply_chat_template(conversation, **options)


def patches_of(image: Any) -> tuple[torch.Tensor, tuple[int, int]]:
    """[rows * columns, 3, 14, 14] of the largest even grid that fits."""
    rows, columns = (max(2, length // SIDE // 2 * 2) for length in (image.height, image.width))
    levels = np.asarray(image.convert("RGB").resize((columns * SIDE, rows * SIDE)), dtype=np.float32) / 255
    cut = levels.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(cut.reshape(rows * columns, 3, SIDE, SIDE).copy()), (rows, columns)


class KimiVLProcessor(Remote):
    def __call__(self, images: Any = None, text: Any = None, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        assert kwargs.pop("add_special_tokens") is False, "the template writes them"
        made = [patches_of(image) for image in images or []]
        sizes = iter(rows * columns // 4 for _, (rows, columns) in made)
        texts = [re.sub(re.escape("<|media_pad|>"), lambda found: found[0] * next(sizes), entry) for entry in text]
        data = {**self.tokenizer(texts, return_tensors=return_tensors, **kwargs)}
        if made:
            data["pixel_values"] = torch.cat([patches for patches, _ in made])
            data["image_grid_hws"] = torch.tensor([grid for _, grid in made])
        return BatchFeature(data)


class KimiK25Processor(Remote):
    def __call__(self, messages: Any = None, medias: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        assert isinstance(text, str), "one conversation a call"
        data = {**self.tokenizer([text], **kwargs)}
        made = [patches_of(media["image"]) for media in medias or [] if media["type"] == "image"]
        if made:
            data["pixel_values"] = torch.cat([patches for patches, _ in made])
            data["grid_thws"] = torch.tensor([(1, *grid) for _, grid in made])
        return BatchFeature(data)


class Phi4MMProcessor(Remote):
    """Sounds become one token for every 1,600 samples; images keep one placeholder each."""

    def __call__(self, text: Any, images: Any = None, audios: Any = None, **kwargs: Any) -> BatchFeature:
        sizes = [len(samples) // 1_600 for samples, _ in audios or []]
        counts = iter(sizes)
        texts = [re.sub(r"<\|audio_\d+\|>", lambda _: "<|endoftext11|>" * next(counts), entry) for entry in text]
        data = {**self.tokenizer(texts, **kwargs), "input_image_embeds": torch.empty(0), "image_sizes": torch.empty(0)}
        if images:
            data["input_image_embeds"] = torch.cat([patches_of(image)[0] for image in images])
        if audios:
            data["input_audio_embeds"] = torch.zeros(len(sizes), max(sizes), 80)
            data["audio_embed_sizes"] = torch.tensor(sizes)
        return BatchFeature(data)


class NemotronParseProcessor:
    """Its tokenizer may write tokens of its own around a text, or pad on the left."""

    def __init__(self, *, adds_tokens: bool = False, padding_side: str = "right", pad_token: str = "<pad>") -> None:
        from tokenizers import processors

        names = ("<s>", "</s>", "<pad>", "<predict_bbox>", "<predict_classes>", "<output_markdown>")
        self.tokenizer: Any = build_tokenizer("", end_of_turn="</s>", **{f"t{n}": name for n, name in enumerate(names)})
        self.tokenizer.chat_template = None
        self.tokenizer.pad_token = pad_token
        self.tokenizer.bos_token = "<s>"
        self.tokenizer.padding_side = padding_side
        if adds_tokens:
            numbered = [(name, self.tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
            around = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=numbered)
            self.tokenizer.backend_tokenizer.post_processor = around

    def __call__(self, images: Any, text: Any, padding: Any, return_tensors: Any) -> BatchFeature:
        pixels = torch.stack(
            [torch.from_numpy(np.asarray(image.resize((32, 40)), dtype=np.float32)) for image in images]
        )
        data = {**self.tokenizer(text, padding=padding, return_tensors=return_tensors)}
        return BatchFeature({**data, "pixel_values": pixels.permute(0, 3, 1, 2)})
