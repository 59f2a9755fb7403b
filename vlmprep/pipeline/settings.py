"""What a run is asked to do; each stage's settings are written beside its output and compared on the next run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.sources.media import (
    DEFAULT_MAX_AUDIO_SECONDS,
    DEFAULT_MAX_CLIP_FRAMES,
    DEFAULT_MAX_IMAGE_PIXELS,
    MediaReader,
)

__all__ = ["MAX_PACK_SIZE", "CountSettings", "PackSettings", "PlanSettings", "differences", "refuse_other_settings"]

MAX_PACK_SIZE = 1 << 24
"""Tokens; the planner's own limit."""


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

    def __post_init__(self) -> None:
        if self.max_image_pixels < 1:
            raise StopRun(f"--max-image-pixels is {self.max_image_pixels}, expected at least 1")
        if self.max_clip_frames < 1:
            raise StopRun(f"--max-clip-frames is {self.max_clip_frames}, expected at least 1")
        if not self.max_audio_seconds > 0:
            raise StopRun(f"--max-audio-seconds is {self.max_audio_seconds}, expected more than 0")

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
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.pack_size <= MAX_PACK_SIZE:
            raise StopRun(f"--pack-size is {self.pack_size}, expected 2 to {MAX_PACK_SIZE} tokens")
        if self.balance == "compute":
            raise StopRun(
                "--balance compute needs predicted costs, and this release has no cost model",
                "Use --balance vt, which makes visual tokens equal; vlmprep.plan_packs takes costs of your own.",
            )

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackSettings:
    """What the shards' bytes depend on, beside the plan."""

    pixels: Literal["uint8"] = "uint8"
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
        StopRun: Naming every setting that differs.
    """
    if found := differences(old, new):
        raise StopRun(
            f"{what} was made with other settings: " + "; ".join(found),
            "Give the same settings to go on with it, or another --out (or delete it) to start anew.",
        )
