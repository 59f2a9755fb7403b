"""The model's own processor, run in full, and families around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.conftest import ProcessorDir
from vlmprep.families.base import BaseFamily
from vlmprep.families.loading import load_family
from vlmprep.families.qwen.vl import Qwen2VL
from vlmprep.schema.conversation import Media, Message, Sample, Text
from vlmprep.schema.family import Encoded, FamilySettings
from vlmprep.schema.media import ImageSize, Loader, MediaCount

__all__ = [
    "AN_IMAGE",
    "BACKENDS",
    "FAMILIES",
    "FamilyName",
    "encode",
    "full_run",
    "image_of_size",
    "make_family",
    "sample_of",
    "scanned_labels",
]

AN_IMAGE = MediaCount(kind="image", num_visual_tokens=0, num_patches=0, stored_bytes=0, replacement="", run_lengths=())
"""A count that says no more than the kind, for families whose images do not depend on it."""

FamilyName: TypeAlias = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
FAMILIES: tuple[FamilyName, ...] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
BACKENDS: tuple[Loader, ...] = ("torchvision", "pil")

Turn: TypeAlias = "tuple[str, str | Sequence[str | Media]]"
"""A role and what it says: a text, or texts and media."""


def make_family(
    processor_dir: ProcessorDir, name: FamilyName, backend: Loader, max_pixels: int | None = None, **settings: Any
) -> Qwen2VL:
    """A family around a tiny processor; the same arguments give the same one."""
    folder = processor_dir(name, max_pixels=max_pixels)
    family = load_family(FamilySettings(processor=str(folder), image_backend=backend, **settings))
    assert isinstance(family, Qwen2VL)
    assert (family.name, family.loader) == (name, backend)
    return family


def sample_of(*turns: Turn, unlearned: Sequence[int] = ()) -> Sample:
    """A sample; the turns whose numbers are in `unlearned` opted out of the loss."""
    messages = tuple(
        Message(
            role=role,
            parts=tuple(
                Text(text=part) if isinstance(part, str) else part
                for part in ([said] if isinstance(said, str) else said)
            ),
            learn=at not in unlearned,
        )
        for at, (role, said) in enumerate(turns)
    )
    return Sample(source="s", row=0, sample_id="0", messages=messages)


def encode(family: Qwen2VL, sample: Sample, sizes: Sequence[tuple[int, int]] = ()) -> Encoded:
    """Encode a sample whose images have these sizes (height, width)."""
    counts = family.measure([ImageSize(height=height, width=width, num_bytes=1) for height, width in sizes])
    return family.encode(sample, counts)


def full_run(family: BaseFamily, sample: Sample, images: Sequence[Any] = (), **options: Any) -> dict[str, NDArray[Any]]:
    """Everything that the model's own processor returns for a sample, without the batch's axis.

    Args:
        family: Holds the processor.
        sample: The conversation.
        images: What stands for its images; the paths that it names, where there are none.
        options: Further arguments of apply_chat_template.
    """
    left = iter(images or [medium.location for medium in sample.media()])
    conversation = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part.text}
                if isinstance(part, Text)
                else {"type": "image", "image": next(left)}
                for part in message.parts
            ],
        }
        for message in sample.messages
    ]
    made = family.processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", **options
    )
    sequences = ("input_ids", "mm_token_type_ids", "attention_mask")
    return {name: np.asarray(value[0] if name in sequences else value) for name, value in made.items()}


@cache
def image_of_size(backend: Loader, height: int, width: int) -> Any:
    """A black image in the form that a loader gives, its pixels in as little memory as can be."""
    import torch
    from PIL import Image

    if backend == "torchvision":
        return torch.zeros((3, 1, 1), dtype=torch.uint8).expand(3, height, width)
    return Image.new("RGB", (width, height))


def scanned_labels(family: Qwen2VL, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Labels found by scanning for markers, as others do it: right wherever no text looks like a marker."""
    token: Callable[[str], list[int]] = family.processor.tokenizer.encode
    head, end = token("<|im_start|>assistant\n"), token("<|im_end|>")[0]
    labels = np.zeros(len(ids), dtype=np.bool_)
    at = 0
    while at < len(ids):
        if ids[at : at + len(head)].tolist() == head:
            stop = at + len(head) + ids[at + len(head) :].tolist().index(end) + 1
            labels[at + len(head) : stop] = True
            at = stop
        else:
            at += 1
    return labels


def write_image(path: Path, data: bytes) -> Media:
    """An image file as a sample names it."""
    path.write_bytes(data)
    return Media(kind="image", location=str(path))
