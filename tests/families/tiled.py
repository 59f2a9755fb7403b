"""Families that cut images into tiles, against full runs of their own processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import FamilyProcessorDir
from tests.families.processors import FamilyName
from tests.families.truth import sample_of
from vlmprep.families.base import BaseFamily
from vlmprep.families.loading import load_family
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.conversation import Media, Sample, Text
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import ImageSize, Loader, MediaCount, MediaSize, VideoSize

__all__ = [
    "EDGE_SIZES",
    "IMAGE",
    "assert_same_media",
    "chat_about",
    "check_clips",
    "check_images",
    "check_joint_media",
    "counted",
    "full_run",
    "interleaved",
    "join",
    "make_tiled",
    "noise",
    "random_sizes",
    "restored",
    "sampled",
    "tensors_of",
    "whole_clip",
]

SEQUENCE_FIELDS = {"input_ids", "attention_mask", "mm_token_type_ids"}
IMAGE = Media(kind="image", content=b"")
EDGE_SIZES = ((1, 1), (1, 40), (40, 1), (2, 200), (200, 2), (56, 56), (112, 300))
"""Heights and widths of thin and tiny images."""


def make_tiled(
    folders: FamilyProcessorDir,
    name: FamilyName,
    backend: Loader = "torchvision",
    *,
    marked: bool = False,
    small_tiles: bool = True,
) -> BaseFamily:
    """A family around a small processor; the same arguments give the same one."""
    folder = folders(name, marked=marked, small_tiles=small_tiles)
    family = load_family(FamilySettings(processor=str(folder), image_backend=backend))
    assert isinstance(family, BaseFamily)
    assert (family.name, family.loader) == (name, backend)
    return family


def random_sizes(count: int, seed: int = 0, most: int = 400) -> list[tuple[int, int]]:
    """Heights and widths, evenly spread over their logarithms."""
    spread = np.random.default_rng(seed).uniform(np.log(8), np.log(most), (count, 2))
    return [(int(height), int(width)) for height, width in np.exp(spread)]


def noise(backend: Loader, height: int, width: int, seed: int = 0) -> Any:
    """A smooth image with noise on it, as the backend's loader gives it."""
    rng = np.random.default_rng([height, width, seed])
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)).astype(np.int16)
    levels = np.clip(smooth + rng.integers(-20, 21, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8)
    return torch.from_numpy(levels).permute(2, 0, 1) if backend == "torchvision" else Image.fromarray(levels)


def chat_about(num_images: int) -> Sample:
    """A conversation of several turns with so many images, two of them beside each other where there are as many."""
    before, behind = (num_images + 1) // 2, num_images // 2
    return sample_of(
        ("user", [*[IMAGE] * before, "What is this?\n"]),
        ("assistant", "a red square"),
        ("user", ["And ", *[IMAGE] * behind, " now?"]),
        ("assistant", "\n\nstill red.\n"),
    )


def interleaved(sizes: Sequence[MediaSize]) -> Sample:
    """A conversation with these media, each between texts."""
    media = [Media(kind=size.kind, content=b"") for size in sizes]
    parts = [part for at, medium in enumerate(media) for part in (f"number {at}:", medium)]
    return sample_of(("user", [*parts, "\nWhich is red?"]), ("assistant", "the first"))


def whole_clip(size: VideoSize, seed: int = 0) -> torch.Tensor:
    """All frames of a clip, [T, 3, H, W] uint8."""
    return torch.stack([noise("torchvision", size.height, size.width, seed=seed + at) for at in range(size.num_frames)])


def sampled(family: BaseFamily, size: VideoSize, frames: torch.Tensor) -> Clip:
    """What loading a clip with these frames gives."""
    metadata = clip_metadata(size)
    metadata.frames_indices = sampled_frames(family.processor.video_processor, metadata)
    return Clip(frames=frames[metadata.frames_indices], metadata=metadata)


def full_run(
    family: BaseFamily, samples: Sequence[tuple[Sample, Sequence[Any]]], *, marks: bool = False, **options: Any
) -> dict[str, Any]:
    """Everything that the model's own processor returns for samples with their decoded media, in one call.

    Args:
        family: Holds the processor.
        samples: Conversations, and what stands for the media of each.
        marks: Return transformers' mask of what the template marks as generated.
        options: Arguments of the processor's call.
    """
    conversations = []
    for sample, media in samples:
        left = iter(media)
        conversations.append(
            [
                {
                    "role": message.role,
                    "content": [
                        {"type": "text", "text": part.text}
                        if isinstance(part, Text)
                        else {"type": part.kind, part.kind: next(left)}
                        for part in message.parts
                    ],
                }
                for message in sample.messages
            ]
        )
    made = family.processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=marks,
        processor_kwargs={"padding": True, "return_mm_token_type_ids": True, **options},
    )
    return dict(made)


def counted(family: BaseFamily, sizes: Sequence[tuple[int, int]]) -> list[MediaCount]:
    """Counts of the images of one sample, from heights and widths."""
    return family.measure([ImageSize(height=height, width=width, num_bytes=1) for height, width in sizes])


def tensors_of(family: BaseFamily, images: Sequence[Any], counts: Sequence[MediaCount]) -> list[dict[str, Any]]:
    """The stored tensors of each image, which hold what its count says of them."""
    made = [family.tensors(image, count) for image, count in zip(images, counts, strict=True)]
    for tensors, count in zip(made, counts, strict=True):
        for name, expected in count.inputs.items():
            assert tensors[name].dtype == expected.dtype
            assert np.array_equal(tensors[name], expected), name
        assert sum(array.nbytes for array in tensors.values() if array.dtype == np.uint8) == count.stored_bytes
    return made


def join(tensors: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The stored tensors of media, as a pack holds them."""
    names = {name for each in tensors for name in each}
    return {name: np.concatenate([each[name] for each in tensors if name in each]) for name in names}


def restored(family: BaseFamily, tensors: Sequence[dict[str, NDArray[Any]]]) -> dict[str, torch.Tensor]:
    """What a reader makes of the joint tensors of several media."""
    batch: dict[str, Any] = {name: torch.from_numpy(array) for name, array in join(tensors).items()}
    return restore_all(batch, family.pixel_rules())


def check_images(family: BaseFamily, sizes: Sequence[tuple[int, int]], *, most: int = 3) -> None:
    """Sequences and pixels of conversations with one, two, ... images, against full runs.

    Args:
        family: Whose.
        sizes: Heights and widths.
        most: Images of a conversation.
    """
    left, num_images = list(sizes), 1
    assert len(left) >= most
    while left:
        some, left = left[:num_images], left[num_images:]
        check_sample(family, some)
        num_images = num_images % most + 1


def check_sample(family: BaseFamily, sizes: Sequence[tuple[int, int]]) -> None:
    """A conversation with images of these sizes, against a full run."""
    images = [noise(family.loader, *size, seed=at) for at, size in enumerate(sizes)]
    sample, counts = chat_about(len(sizes)), counted(family, sizes)
    tokens = family.encode(sample, counts).expand()
    made = full_run(family, [(sample, images)])
    assert tokens.input_ids.tolist() == made["input_ids"][0].tolist(), sizes
    assert tokens.mm_token_type_ids.tolist() == token_types(family, made)[0].tolist(), sizes
    assert_same_media(restored(family, tensors_of(family, images, counts)), made)


def check_clips(family: BaseFamily, sizes: Sequence[MediaSize]) -> dict[str, torch.Tensor]:
    """A conversation with these media, against a full run on whole clips that the processor samples itself.

    Returns:
        The media fields that both made.
    """
    sample, counts = interleaved(sizes), family.measure(sizes)
    decoded: list[Any] = []
    given: list[Any] = []
    metadata: list[Any] = []
    for at, size in enumerate(sizes):
        if isinstance(size, VideoSize):
            given.append(whole_clip(size, seed=10 * at))
            metadata.append(clip_metadata(size))
            metadata[-1].frames_indices = list(range(size.num_frames))
            decoded.append(sampled(family, size, given[-1]))
        else:
            assert isinstance(size, ImageSize)
            given.append(noise(family.loader, size.height, size.width, seed=at))
            decoded.append(given[-1])
    tokens = family.encode(sample, counts).expand()
    made = full_run(family, [(sample, given)], video_metadata=[metadata])
    assert tokens.input_ids.tolist() == made["input_ids"][0].tolist()
    assert tokens.mm_token_type_ids.tolist() == token_types(family, made)[0].tolist()
    found = restored(family, tensors_of(family, decoded, counts))
    assert_same_media(found, made)
    return found


def check_joint_media(family: BaseFamily, samples: Sequence[Sequence[tuple[int, int]]]) -> dict[str, torch.Tensor]:
    """The joint media of several samples, against one call of the processor with all of them.

    Returns:
        What both made.
    """
    chats, tensors = [], []
    for at, sizes in enumerate(samples):
        images = [noise(family.loader, *size, seed=at) for size in sizes]
        chats.append((chat_about(len(sizes)), images))
        tensors += tensors_of(family, images, counted(family, sizes))
    found = restored(family, tensors)
    assert_same_media(found, full_run(family, chats))
    return found


def token_types(family: BaseFamily, made: dict[str, Any]) -> torch.Tensor:
    """The processor's token types, which Idefics3's own would put on the tags of rows and columns too, were they asked for."""
    if family.name == "idefics3":
        return torch.eq(made["input_ids"], family.processor.image_token_id).long()
    return torch.as_tensor(made["mm_token_type_ids"])


def assert_same_media(found: dict[str, torch.Tensor], made: dict[str, Any]) -> None:
    """Media fields are the processor's, all of them and bit for bit."""
    assert found.keys() == made.keys() - SEQUENCE_FIELDS
    for name, tensor in found.items():
        assert tensor.dtype == made[name].dtype, name
        assert torch.equal(tensor, made[name]), name
