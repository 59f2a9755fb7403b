"""What a pack costs: floating point operations of a forward pass, predicted from counts and a model's config alone.

    language model   per_token * S  +  per_token_pair * S (S + 1) / 2  +  the same within each sliding window
    vision encoder   per_picture * pictures  +  per_patch * patches
                     + per_patch_pair * patch pairs  +  per_window_pair * window pairs
    projector        per_visual_token * visual tokens
    sound encoder    per_sound_feature * features  +  per_sound_frame * frames  +  per_sound_pair * sound pairs

S is the length of one document: attention is causal and never leaves its document. A multiplication and an addition count as
two operations. docs/planning.md derives the coefficients and says what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COST_COUNTS", "CostModel", "WindowCost"]

COST_COUNTS = (
    *("num_tokens", "num_visual_tokens"),
    *("num_pictures", "num_encoder_patches", "num_patch_pairs", "num_window_pairs"),
    *("num_sound_features", "num_sound_frames", "num_sound_pairs"),
)
"""Counts that a cost is computed from; num_tokens after the shift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCost:
    """Layers of the language model in which a token sees the last `window` tokens, itself included."""

    window: int
    per_token_pair: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Operations per count; all layers together."""

    per_token: float
    """Everything in the language model that is linear in tokens, the output layer included."""
    per_token_pair: float
    """Attention of the layers that see the whole document: one query against one key."""
    windows: tuple[WindowCost, ...] = ()
    per_picture: float = 0.0
    """What a picture costs whatever its patches: class tokens; or all of it, where pictures have one size."""
    per_patch: float = 0.0
    """Everything in the vision encoder that is linear in patches, their embedding included."""
    per_patch_pair: float = 0.0
    """Its attention in layers that see a whole image, tile or frame."""
    per_window_pair: float = 0.0
    """Its attention in layers that see windows."""
    per_visual_token: float = 0.0
    """What brings patches into the language model: mergers, poolers, projectors."""
    per_sound_feature: float = 0.0
    """Convolutions in front of the sound encoder's layers."""
    per_sound_frame: float = 0.0
    """Everything in the sound encoder and its projector that is linear in frames."""
    per_sound_pair: float = 0.0
    """Its attention."""

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    def language(self, num_tokens: NDArray[Any]) -> NDArray[np.float64]:
        """Operations of the language model.

        Args:
            num_tokens: [n] tokens of each document.

        Returns:
            [n] float64.
        """
        tokens = num_tokens.astype(np.float64)
        total = self.per_token * tokens + self.per_token_pair * causal_pairs(tokens)
        for layers in self.windows:
            beyond = np.maximum(tokens - layers.window, 0.0)
            total += layers.per_token_pair * (causal_pairs(tokens) - causal_pairs(beyond))
        return total

    def encoders(self, counts: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Operations of the encoders and projectors.

        Args:
            counts: [n] each, by the names of COST_COUNTS.

        Returns:
            [n] float64.
        """
        total = self.per_visual_token * counts["num_visual_tokens"].astype(np.float64)
        for name, each in (
            ("num_pictures", self.per_picture),
            ("num_encoder_patches", self.per_patch),
            ("num_patch_pairs", self.per_patch_pair),
            ("num_window_pairs", self.per_window_pair),
            ("num_sound_features", self.per_sound_feature),
            ("num_sound_frames", self.per_sound_frame),
            ("num_sound_pairs", self.per_sound_pair),
        ):
            total += each * counts[name].astype(np.float64)
        return total

    def costs(self, counts: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Operations of whole samples.

        Args:
            counts: [n] each, by the names of COST_COUNTS.

        Returns:
            [n] float64.
        """
        return self.language(counts["num_tokens"]) + self.encoders(counts)


def causal_pairs(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pairs of a query and a key that it sees."""
    return tokens * (tokens + 1.0) / 2.0
