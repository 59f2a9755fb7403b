"""Overviews made of tiles are what torchvision makes of the whole picture."""

from __future__ import annotations

import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from vlmprep.runtime.overviews import with_overviews

SIDE = 28


def test_an_overview_stands_in_front_of_each_pictures_tiles():
    sizes = [(2, 3), (1, 1), (1, 4), (5, 1)]
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randn((3, rows * SIDE, columns * SIDE), generator=generator) for rows, columns in sizes]
    tiles = [
        picture[:, top : top + SIDE, left : left + SIDE]
        for picture in pictures
        for top in range(0, picture.shape[1], SIDE)
        for left in range(0, picture.shape[2], SIDE)
    ]
    made = with_overviews(torch.stack(tiles), torch.tensor([picture.shape[1:] for picture in pictures]))
    assert len(made) == len(tiles) + len(pictures)
    at = 0
    for picture, (rows, columns) in zip(pictures, sizes, strict=True):
        own = tv.resize(picture, [SIDE, SIDE], interpolation=InterpolationMode.BICUBIC, antialias=False)
        assert torch.equal(made[at], own)
        assert torch.equal(made[at + 1], picture[:, :SIDE, :SIDE])
        at += 1 + rows * columns
