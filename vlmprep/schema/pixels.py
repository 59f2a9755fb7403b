"""How stored uint8 pixels become the floats that the model's own processor returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["PixelRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRule:
    """A rule of the manifest for one pixel field, stored as uint8 `[patches, channels, height, width]`.

    Two arithmetics exist, one for each image backend of transformers, and they differ in the last bit:

    `fused` (torchvision): `m = mean * (1 / rescale)`, `s = std * (1 / rescale)`, both float32;
    `(float32(u8) - m) / s`.
    `two_step` (PIL): `(float32(float64(u8) * rescale) - float32(mean)) / float32(std)`.
    """

    arithmetic: Literal["fused", "two_step"]
    rescale: float
    """Factor that brings 0..255 to the range that mean and std are given in, usually 1/255."""
    mean: tuple[float, ...]
    """Per channel."""
    std: tuple[float, ...]
    """Per channel."""
    repeat: int = 1
    """How often a stored patch stands in time: the model's row is `[channels, repeat, height, width]`, flattened."""

    def to_json(self) -> dict[str, Any]:
        """The manifest's form of this rule."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PixelRule:
        """Read the manifest's form back."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})
