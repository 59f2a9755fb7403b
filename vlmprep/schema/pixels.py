"""How the stored form of a media field becomes the tensor that the model's own processor returns."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

__all__ = ["Arithmetic", "Layout", "PixelForm", "PixelRule"]

PixelForm: TypeAlias = Literal["uint8", "bfloat16", "float32", "encoded"]
"""What a pack holds of pixels: levels before rescaling and normalizing, the model's numbers in one of two types, or the
original files, which the reader decodes."""

Arithmetic: TypeAlias = Literal["fused", "two_step", "scale", "divide", "as_float", "stored"]
Layout: TypeAlias = Literal["rows", "rows_channels_last", "images", "ones", "clips", "canvas", "stored"]

NUMBERS = ("arithmetic", "rescale", "mean", "std", "repeat")
"""What the manifest says of every field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRule:
    """A rule of the manifest for one media field: first numbers, then shape.

    Numbers (`arithmetic`), of uint8 `[N, channels, height, width]`:

    `fused` (torchvision's normalize): `m = mean * (1 / rescale)`, `s = std * (1 / rescale)`, both float32;
    `(float32(u8) - m) / s`.
    `two_step` (PIL's): `(float32(float64(u8) * rescale) - float32(mean)) / float32(std)`.
    `scale`: `float32(u8) * rescale`; `divide`: `float32(u8) / float32(1 / rescale)`; they differ on half of the values.
    `as_float`: `float32(u8)`.
    `stored`: as they are; uint16 holds the bits of bfloat16.

    Shape:

    `layout` says what becomes of one of the N items; `per_medium` how items join to media; `lead` whether the model wants
    one more axis in front. `mask` names a field `[N, height, width]` whose zeros are zeros of the result.
    """

    arithmetic: Arithmetic
    rescale: float = 1.0
    """Factor that brings 0..255 to the range that mean and std are given in, usually 1/255."""
    mean: tuple[float, ...] = ()
    """Per channel."""
    std: tuple[float, ...] = ()
    """Per channel."""
    repeat: int = 1
    """How often a stored patch stands in time: the model's row is `[channels, repeat, height, width]`, flattened."""
    layout: Layout = "rows"
    """`rows`: `[N, channels * repeat * height * width]`; `rows_channels_last`: `[N, height * width * channels]`; `images`:
    `[N, channels, height, width]`; `ones`: `[N, height, width]` of ones, whose height and width the stored `[N, 2]` say, all
    alike: a mask that hides nothing; `clips`: the N are patches of clips' frames, row by row, and become `[frames, channels,
    height, width]`, a list of these where there are several clips, by `per_medium`'s `[media, 3]` of frames, rows and columns;
    `canvas`: the N are patches of pictures, row by row, and become `[media, channels, tallest, widest]`, zeros below and right of
    the smaller ones, by `per_medium`'s `[media, 2]` of rows and columns; `stored`: the shape that the field has."""
    per_medium: int | str | None = None
    """A number: each medium has so many items, `[media, number, ...]`. The name of a field `[media]`: it says how many each
    has, as the product of its numbers where it is `[media, axes]`; behind the items of the shorter ones stands `fill`,
    `[media, most, ...]`. None: items are not grouped."""
    most: int | None = None
    """What every medium is filled up to where `per_medium` names a field; None: the items of the largest."""
    fill: int | Literal["last", "none"] = 0
    """What stands behind the items of a shorter medium; `last` is its own last item, again and again; `none` is nothing, and
    media that have not all as many items are a list of `[1, items, ...]`."""
    items_last: bool = False
    """Whether a medium's items stand along its last axis, `[media, ..., most]`, as the frames of a sound often do."""
    lead: bool = False
    """Whether an axis of length 1 stands in front."""
    mask: str | None = None
    """Field whose zeros become zeros, for processors that pad behind normalizing."""
    overview: str | None = None
    """Field `[media, 2]` of heights and widths: a medium's items are the tiles of a picture of this size, row by row, and the
    result has the picture itself in front of them, resized to a tile (bicubic, no antialias) behind the arithmetic."""
    alone: bool = True
    """False: the model gets no such field where `per_medium` counts a single medium."""
    drops: tuple[str, ...] = ()
    """Fields of the pack that the rule alone needs, and the model does not know."""

    def to_json(self) -> dict[str, Any]:
        """The manifest's form of this rule: its numbers, and what differs from the defaults."""
        entries = {entry.name: (getattr(self, entry.name), entry.default) for entry in fields(self)}
        return {name: value for name, (value, default) in entries.items() if name in NUMBERS or value != default}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PixelRule:
        """Read the manifest's form back."""
        plain: dict[str, Any] = {name: tuple(e) if isinstance(e, list) else e for name, e in value.items()}
        return cls(**plain)
