"""Pictures cut into patches, against the reshaping and permuting of transformers' Qwen image processors."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vlmprep.families.media.patches import PatchPlanes, patches_of

SIZES = [(14, 2), (16, 2), (14, 1), (7, 3), (2, 1)]  # patch and merge size; their products are whole words, or are not


def permuted(frames: NDArray[np.uint8], patch: int, merge: int) -> NDArray[np.uint8]:
    """What the processors do, on [frames, height, width, 3] of one patch's time: [patches, 3, frames * patch, patch]."""
    num_frames, height, width, _ = frames.shape
    rows, columns = height // patch // merge, width // patch // merge
    parts = frames.reshape(num_frames, rows, merge, patch, columns, merge, patch, 3)
    return parts.transpose(1, 4, 2, 5, 7, 0, 3, 6).reshape(-1, 3, num_frames * patch, patch)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("patch", "merge"), SIZES)
@pytest.mark.parametrize("groups", [(1, 1), (3, 5), (4, 1)])
def test_patches_of_an_image_stand_as_the_processor_puts_them(patch: int, merge: int, groups: tuple[int, int]) -> None:
    image = noise(groups[0] * patch * merge, groups[1] * patch * merge, 3)
    assert np.array_equal(patches_of(image, patch, merge), permuted(image[None], patch, merge))


@pytest.mark.parametrize(("patch", "merge"), SIZES)
def test_frames_of_a_clip_share_patches_in_time(patch: int, merge: int) -> None:
    frames = noise(4, 2 * patch * merge, 3 * patch * merge, 3)
    planes = PatchPlanes((2, 2 * merge, 3 * merge), patch, merge, 2)
    for frame in frames:
        planes.put(frame)
    expected = [permuted(frames[:2], patch, merge), permuted(frames[2:], patch, merge)]
    assert np.array_equal(planes.patches, np.concatenate(expected))


def test_memory_order_of_the_decoder_changes_nothing() -> None:
    image = noise(3, 56, 84).transpose(1, 2, 0)
    assert not image.flags.c_contiguous
    assert np.array_equal(patches_of(image, 14, 2), permuted(np.ascontiguousarray(image)[None], 14, 2))
