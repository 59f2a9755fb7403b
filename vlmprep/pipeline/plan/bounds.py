"""What no pack may exceed, what a fake image takes of it, and the samples that alone are too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.pipeline.settings import PlanSettings
from vlmprep.schema.errors import StopRun

__all__ = ["Fake", "Room", "make_room"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fake:
    """What the fake image takes of a pack that needs one; all 0 where none do."""

    num_tokens: int = 0
    """After the shift."""
    num_visual_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a pack has to offer its samples."""

    pack_size: int
    """Tokens that a pack holds at most."""
    planned: int
    """Tokens that packs of several samples are planned for: `pack_size` times the packing ratio."""
    alignment: int
    """Every document takes a multiple of so many tokens."""
    fake_tokens: int
    """What a pack without visual tokens gives to its fake image."""
    max_visual_tokens: int | None
    max_images: int | None
    max_cost: float | None
    """Of the samples, without a fake image's."""

    def aligned(self, num_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] places that documents of so many tokens take."""
        places: NDArray[np.int64] = -(-num_tokens // self.alignment) * self.alignment
        return places

    def beside_fake(self, num_visual_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] tokens that a sample may have: those of a pack, less a fake image's where it has no visual tokens."""
        room: NDArray[np.int64] = self.pack_size - np.where(num_visual_tokens > 0, 0, self.fake_tokens)
        aligned: NDArray[np.int64] = room // self.alignment * self.alignment
        return aligned

    def places(self, num_tokens: NDArray[np.int64], num_visual_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] what samples take in the planner's eyes: one longer than packs are planned for has a pack to itself."""
        whole = self.planned - np.where(num_visual_tokens > 0, 0, self.fake_tokens)
        places: NDArray[np.int64] = np.minimum(self.aligned(num_tokens), whole)
        return places

    def excesses(
        self, num_visual_tokens: NDArray[np.int64], num_images: NDArray[np.int64], costs: NDArray[np.float64]
    ) -> Iterator[tuple[str, NDArray[Any], float]]:
        """Every bound beside tokens: the reason code of what exceeds it, what each sample has of it, and the bound."""
        for code, amounts, bound in (
            ("too-many-visual-tokens", num_visual_tokens, self.max_visual_tokens),
            ("too-many-images", num_images, self.max_images),
            ("too-costly", costs, self.max_cost),
        ):
            if bound is not None:
                yield code, amounts, bound


def make_room(settings: PlanSettings, fake: Fake) -> Room:
    """What packs offer under some settings.

    Raises:
        StopRun: A fake image alone would exceed a bound.
    """
    alignment = settings.document_alignment
    fake_tokens = -(-fake.num_tokens // alignment) * alignment
    planned = int(settings.pack_size * settings.packing_ratio) // alignment * alignment
    if fake_tokens >= planned:
        raise StopRun(
            f"packs of {planned} tokens have no room beside the fake image, which takes {fake_tokens}",
            "Give a larger --pack-size, or --fake-image none.",
        )
    if fake.num_tokens:
        _check_fake("--max-visual-tokens", settings.max_visual_tokens, fake.num_visual_tokens)
        _check_fake("--max-images", settings.max_images, 1)
        _check_fake("--max-cost", settings.max_cost, fake.cost)
    return Room(
        pack_size=settings.pack_size,
        planned=planned,
        alignment=alignment,
        fake_tokens=fake_tokens,
        max_visual_tokens=settings.max_visual_tokens,
        max_images=settings.max_images,
        max_cost=None if settings.max_cost is None else settings.max_cost - fake.cost,
    )


def _check_fake(option: str, bound: float | None, taken: float) -> None:
    if bound is not None and taken > bound:
        raise StopRun(
            f"{option} is {bound:g}, and the fake image of a pack without pictures takes {taken:g}",
            "Raise the bound, or give --fake-image none.",
        )
