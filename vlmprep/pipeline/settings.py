"""What a run is asked to do; each stage's settings are written beside its output and compared on the next run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.pixels import PixelForm
from vlmprep.sources.media import (
    DEFAULT_MAX_AUDIO_SECONDS,
    DEFAULT_MAX_CLIP_FRAMES,
    DEFAULT_MAX_IMAGE_PIXELS,
    MediaReader,
)

__all__ = ["MAX_PACK_SIZE", "CountSettings", "PackSettings", "PlanSettings", "differences", "refuse_other_settings"]

MAX_PACK_SIZE = 1 << 24
"""Tokens; the planner's own limit."""


BOUNDS = ("max_visual_tokens", "max_images", "max_cost")
"""Settings of a plan that bound every pack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountSettings:
    """What the ledger depends on, beside the sources."""

    family: FamilySettings
    max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS
    """Images and frames whose header claims more are refused."""
    max_clip_frames: int = DEFAULT_MAX_CLIP_FRAMES
    """Clips of more frames are refused, sampled or not."""
    max_audio_seconds: float = DEFAULT_MAX_AUDIO_SECONDS
    """Longer sounds are refused."""
    allow_outside_media: bool = False
    allow_remote_media: bool = False
    count_with_fake: bool = False
    """Samples without pictures are counted with a fake image in them too, which plans with `--fake-image sample` need."""
    verify_media: bool = False
    """Media are decoded as packing would decode them, so that what packing would refuse is refused in the ledger."""
    keep: tuple[str, ...] = ()
    """Columns of the rows that ledger and samples.parquet keep as provenance."""

    def __post_init__(self) -> None:
        if self.max_image_pixels < 1:
            raise StopRun(f"--max-image-pixels is {self.max_image_pixels}, expected at least 1")
        if self.max_clip_frames < 1:
            raise StopRun(f"--max-clip-frames is {self.max_clip_frames}, expected at least 1")
        if not self.max_audio_seconds > 0:
            raise StopRun(f"--max-audio-seconds is {self.max_audio_seconds}, expected more than 0")
        if "" in self.keep or len(set(self.keep)) < len(self.keep):
            raise StopRun(f"--keep is {', '.join(map(repr, self.keep))}, expected names of columns, each once")

    def media_reader(self) -> MediaReader:
        """What reads headers within these limits."""
        return MediaReader(
            max_image_pixels=self.max_image_pixels,
            max_clip_frames=self.max_clip_frames,
            max_audio_seconds=self.max_audio_seconds,
        )

    def limits(self) -> dict[str, Any]:
        """Everything but the processor, as JSON."""
        return {
            "max_image_pixels": self.max_image_pixels,
            "max_clip_frames": self.max_clip_frames,
            "max_clip_bytes": self.family.max_clip_bytes,
            "max_audio_seconds": float(self.max_audio_seconds),
            "allow_outside_media": self.allow_outside_media,
            "allow_remote_media": self.allow_remote_media,
            "count_with_fake": self.count_with_fake,
            "verify_media": self.verify_media,
            **({"keep": list(self.keep)} if self.keep else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What the plan depends on, beside the ledger."""

    pack_size: int = 8192
    """Tokens that a pack holds at most, after the shift."""
    balance: Literal["compute", "vt", "none"] = "vt"
    """What is made equal across packs."""
    fake_image: Literal["pack", "sample", "none"] = "pack"
    """Whether a pack without pictures gets a fake image, or every sample without them."""
    overlong: Literal["refuse", "truncate"] = "refuse"
    """What becomes of samples longer than a pack."""
    seed: int = 0
    fill_weight: float = 0.6
    """0 to 1: nearer to 1, packs are fuller and less equal."""
    max_visual_tokens: int | None = None
    """Visual tokens that a pack holds at most."""
    max_images: int | None = None
    """Images that a pack holds at most."""
    max_cost: float | None = None
    """Predicted work that a pack holds at most, in TFLOP."""
    document_alignment: int = 1
    """Every document takes a multiple of so many tokens, as context parallelism pads it."""
    packing_ratio: float = 1.0
    """Share of a pack's tokens that packs are planned for."""
    max_packs: int | None = None
    """Packs that are kept, a fair cut of all."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By name of a source: how often its rows are used, times its sample_ratio."""

    def __post_init__(self) -> None:
        if not 2 <= self.pack_size <= MAX_PACK_SIZE:
            raise StopRun(f"--pack-size is {self.pack_size}, expected 2 to {MAX_PACK_SIZE} tokens")
        if not 0 <= self.fill_weight <= 1:
            raise StopRun(f"--fill-weight is {self.fill_weight:g}, expected 0 to 1")
        if not 0 < self.packing_ratio <= 1:
            raise StopRun(f"--packing-ratio is {self.packing_ratio:g}, expected more than 0 and at most 1")
        if self.max_packs is not None and self.max_packs < 1:
            raise StopRun(f"--max-packs is {self.max_packs}, expected at least 1")
        if self.document_alignment < 1 or self.pack_size % self.document_alignment:
            raise StopRun(
                f"--document-alignment is {self.document_alignment}, which does not divide --pack-size {self.pack_size}",
                "Context parallelism over N ranks pads documents to a multiple of 2 N tokens; take a pack size that is one too.",
            )
        _check_amounts({f"--{name.replace('_', '-')}": getattr(self, name) for name in BOUNDS})
        _check_amounts({f"--weight {name}": weight for name, weight in self.weights.items()})
        if self.max_cost is not None and self.balance != "compute":
            raise StopRun(
                "--max-cost bounds the predicted work of packs, which is computed with --balance compute",
                "Give --balance compute, or bound packs with --max-visual-tokens.",
            )

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "weights": dict(sorted(self.weights.items()))}


def _check_amounts(amounts: Mapping[str, float | None]) -> None:
    for option, amount in amounts.items():
        if amount is not None and not (math.isfinite(amount) and amount >= 0):
            raise StopRun(f"{option} is {amount}, expected a number of at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSettings:
    """What the shards' bytes depend on, beside the plan."""

    pixels: PixelForm = "uint8"
    """Form in which pixels are stored."""
    compression: Literal["zstd", "lz4", "none"] = "zstd"
    shard_bytes: int = 1 << 30
    """Bytes of tensors in a shard, before compression; a shard holds at least one pack."""

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise StopRun(f"--shard-bytes is {self.shard_bytes}, expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


MAX_NAMED = 8
"""Settings that a message names."""


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Which settings differ, by dotted name, with both values."""
    found: list[str] = []
    for name in sorted(set(old) | set(new)):
        was, now = old.get(name), new.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found.extend(differences(was, now, f"{prefix}{name}."))
        elif was != now:
            found.append(f"{prefix}{name} was {was!r}, now {now!r}")
    return found


def refuse_other_settings(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Stop when output was made with other settings.

    Raises:
        StopRun: Naming the settings that differ; of another processor, the family and the first of very many.
    """
    if found := differences(old, new):
        found.sort(key=lambda difference: (difference.startswith("fake_image."), ".family was" not in difference))
        more = [f"and {len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
        raise StopRun(
            f"{what} was made with other settings: " + "; ".join(found[:MAX_NAMED] + more),
            "Give the same settings to go on with it, or another --out (or delete it) to start anew.",
        )
