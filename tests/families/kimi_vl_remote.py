"""A stand-in for the code that comes with Kimi-VL: the same interface, in words of its own.

Published are (moonshotai/Kimi-VL-A3B-Instruct): names and defaults of the settings, what is done to an image and in which
order, names and shapes of what is returned, and that the placeholder in the text is repeated for every merged group of patches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ProcessorMixin


class KimiVLImageProcessor(BaseImageProcessor):
    """Shrinks to a budget of patches, pads black to whole groups, normalizes, cuts."""

    model_type = "kimi_vl"
    model_input_names = ["pixel_values", "image_grid_hws"]  # noqa: RUF012 - as transformers declares it

    def __init__(
        self,
        patch_size: int = 14,
        pad_input: bool = False,
        image_mean: Any = (0.5, 0.5, 0.5),
        image_std: Any = (0.5, 0.5, 0.5),
        in_token_limit: int = 4096,
        merge_kernel_size: Any = (2, 2),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.pad_input = pad_input
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.in_token_limit = in_token_limit
        self.merge_kernel_size = list(merge_kernel_size)

    def preprocess(self, images: Any, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        """Every image's patches in one tensor, and its rows and columns of them."""
        cut = [self._cut(image) for image in (images if isinstance(images, list) else [images])]
        made = {
            "pixel_values": torch.cat([patches for patches, _ in cut]),
            "image_grid_hws": np.array([grid for _, grid in cut]),
        }
        return BatchFeature(data=made, tensor_type=return_tensors)

    def _cut(self, image: Image.Image) -> tuple[torch.Tensor, tuple[int, int]]:
        side = self.patch_size
        pixels = functional.to_tensor(self._fitted(image).convert("RGB"))
        pixels = functional.normalize(pixels, self.image_mean, self.image_std)
        rows, columns = pixels.shape[1] // side, pixels.shape[2] // side
        patches = pixels.unfold(1, side, side).unfold(2, side, side)  # [3, rows, columns, side, side]
        return patches.permute(1, 2, 0, 3, 4).reshape(rows * columns, 3, side, side), (rows, columns)

    def _fitted(self, image: Image.Image) -> Image.Image:
        side = self.patch_size
        count = (image.width // side) * (image.height // side)
        if count > self.in_token_limit:
            scale = math.sqrt(self.in_token_limit / count)
            image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)
        if self.pad_input:
            down, right = (
                -length % (kernel * side)
                for length, kernel in zip((image.height, image.width), self.merge_kernel_size, strict=True)
            )
            image = functional.pad(image, [0, 0, right, down])
        else:
            image = functional.center_crop(image, [image.height // side * side, image.width // side * side])
        if max(image.width, image.height) // side >= 512:
            raise ValueError("Exceed pos emb")
        return image


class KimiVLProcessor(ProcessorMixin):
    """Repeats the placeholder by itself: it overrides no hook of transformers."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any
    ) -> None:
        self.image_token = "<|media_pad|>"
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images: Any = None, text: Any = None, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        """Patches, grids and tokens."""
        pictures: dict[str, Any] = {}
        texts = [text] if isinstance(text, str) else list(text)
        if images is not None:
            pictures = self.image_processor(images, return_tensors=return_tensors)
            merged = math.prod(self.image_processor.merge_kernel_size)
            groups = iter(np.asarray(pictures["image_grid_hws"]).prod(axis=1) // merged)
            for at, entry in enumerate(texts):
                first, *rest = entry.split(self.image_token)
                texts[at] = first + "".join(self.image_token * int(next(groups)) + piece for piece in rest)
        made = self.tokenizer(texts, return_tensors=return_tensors, padding=bool(kwargs.get("padding")))
        return BatchFeature(data={**made, **pictures}, tensor_type=return_tensors)
