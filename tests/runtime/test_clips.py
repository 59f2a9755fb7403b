"""Patches of clips and pictures of different sizes, laid together again."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmprep.runtime.clips import canvas_of, clips_of
from vlmprep.runtime.pixels import restore, restore_all
from vlmprep.schema.pixels import PixelRule

SIDE = 4


def patches_of(frames: Tensor) -> Tensor:
    """[frames, channels, height, width] in patches, row by row, one at a time."""
    return torch.stack(
        [
            frame[:, top : top + SIDE, left : left + SIDE]
            for frame in frames
            for top in range(0, frame.shape[1], SIDE)
            for left in range(0, frame.shape[2], SIDE)
        ]
    )


def grid_of(frames: Tensor) -> list[int]:
    return [len(frames), frames.shape[2] // SIDE, frames.shape[3] // SIDE]


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)


def test_clips_of_different_sizes_come_back_one_by_one():
    clips = [noise(3, 3, 8, 12).float(), noise(2, 3, 16, 4).float()]
    stored = torch.cat([patches_of(clip) for clip in clips])
    grids = torch.tensor([grid_of(clip) for clip in clips])
    found = clips_of(stored, grids)
    assert isinstance(found, list)
    assert all(torch.equal(made, clip) for made, clip in zip(found, clips, strict=True))
    rule = PixelRule(arithmetic="stored", layout="clips", per_medium="grid", drops=("grid",))
    batch = restore_all({"pixel_values_videos": stored, "grid": grids}, {"pixel_values_videos": rule})
    assert batch.keys() == {"pixel_values_videos"}
    assert all(torch.equal(made, clip) for made, clip in zip(batch["pixel_values_videos"], clips, strict=True))


def test_one_clip_is_no_list():
    clip = noise(3, 3, 8, 12)
    found = clips_of(patches_of(clip), torch.tensor([grid_of(clip)]))
    assert isinstance(found, Tensor)
    assert torch.equal(found, clip)


def test_pictures_lie_on_a_canvas_of_the_tallest_and_the_widest():
    pictures = [noise(1, 3, 8, 12), noise(1, 3, 16, 4)]
    stored = torch.cat([patches_of(picture) for picture in pictures])
    grids = torch.tensor([grid_of(picture)[1:] for picture in pictures])
    canvas = canvas_of(stored, grids)
    assert canvas.shape == (2, 3, 16, 12)
    for made, picture in zip(canvas, pictures, strict=True):
        tall, wide = picture.shape[2:]
        assert torch.equal(made[:, :tall, :wide], picture[0])
        assert not made[:, tall:].any()
        assert not made[:, :, wide:].any()


def test_what_lies_beside_a_picture_is_zero_behind_the_arithmetic():
    pictures = [noise(1, 3, 8, 12), noise(1, 3, 16, 4)]
    numbers = {"arithmetic": "fused", "rescale": 1 / 255, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    fields = {"grid": torch.tensor([grid_of(picture)[1:] for picture in pictures])}
    stored = torch.cat([patches_of(picture) for picture in pictures])
    canvas = restore(stored, PixelRule(layout="canvas", per_medium="grid", **numbers), torch.float32, fields)  # type: ignore[arg-type]
    plain = restore(pictures[0], PixelRule(layout="images", **numbers))  # type: ignore[arg-type]
    assert torch.equal(canvas[0, :, :8, :12], plain[0])
    assert not canvas[0, :, 8:].any()
