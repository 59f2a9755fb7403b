"""What a medium's header says, and what a family makes of it; the bridge between media files and families."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from vlmprep.schema.conversation import MediaKind

__all__ = ["Loader", "MediaCount", "MediaSize"]

Loader: TypeAlias = Literal["torchvision", "pil"]
"""Which code of transformers turns an image file into pixels; the two honour different orientation tags and formats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSize:
    """What the header alone says about a medium, upright."""

    kind: MediaKind
    height: int
    """Pixels, after the orientation tag."""
    width: int
    """Pixels, after the orientation tag."""
    num_bytes: int
    """Size of the encoded file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaCount:
    """What a family makes of one medium, computed from its size."""

    num_visual_tokens: int
    """Placeholder tokens that the vision encoder fills."""
    num_patches: int
    """Rows of the pixel field."""
    replacement: str
    """What the family's processor puts where the template left one placeholder, every run of placeholders written once."""
    run_lengths: tuple[int, ...]
    """How long these runs are, in order."""
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    """Small media inputs that depend on the size alone, such as `image_grid_thw` [1, 3] int64."""
