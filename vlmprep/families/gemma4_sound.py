"""Gemma 4's mel frames of a sound: how many there are and which hold sound, from its length alone."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.pixels import PixelRule

__all__ = ["MelFrames"]


class MelFrames:
    """A feature extractor, and the arithmetic of its frames, which is tried against it before it is trusted.

    A sound is padded to a multiple of 128 samples and cut into overlapping frames; a frame counts where its last sample is
    the sound's. The extractor cuts off what is longer than half a minute, so such sounds are refused.

    Args:
        extractor: Gemma4AudioFeatureExtractor.

    Raises:
        StopRun: It adds noise, or its frames are not as counted here.
    """

    def __init__(self, extractor: Any) -> None:
        self._extractor = extractor
        self.sampling_rate = int(extractor.sampling_rate)
        self.num_bins = int(extractor.feature_size)
        named = inspect.signature(type(extractor).__call__).parameters
        self._multiple = int(named["pad_to_multiple_of"].default)
        self._most_samples = int(named["max_length"].default)
        if extractor.dither:
            raise StopRun("the feature extractor adds random noise (dither), so no two runs agree", "Set dither to 0.")
        for num_samples in (700, 5_001):
            found = self._run(np.zeros(num_samples, dtype=np.float32))["input_features_mask"]
            if not np.array_equal(found, self.mask(num_samples)):
                raise StopRun("the feature extractor's frames are not those of Gemma4AudioFeatureExtractor")

    def mask(self, num_samples: int) -> NDArray[np.bool_]:
        """Which frames of a sound of so many samples hold nothing but sound: [F] bool.

        Raises:
            RefuseSample: It is too long or too short for the processor.
        """
        if num_samples > self._most_samples:
            raise RefuseSample(
                "audio-length",
                f"a sound of {num_samples / self.sampling_rate:.1f} s, of which the processor would keep the first "
                f"{self._most_samples / self.sampling_rate:.1f} s; cut it yourself",
            )
        before = self._extractor.frame_length // 2
        padded = -(-num_samples // self._multiple) * self._multiple
        num_frames = max(0, (padded + before - self._extractor.frame_length - 1) // self._extractor.hop_length + 1)
        last = np.arange(num_frames) * self._extractor.hop_length + self._extractor.frame_length - before
        mask: NDArray[np.bool_] = last < num_samples
        if not mask.any():
            raise RefuseSample("audio-length", f"a sound of {num_samples} samples is too short for a single frame")
        return mask

    def tensors(self, samples: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The frames of a decoded sound [samples]: features [F, bins] float32, mask [F] bool and F.

        Raises:
            RefuseSample: It is too long or too short for the processor.
        """
        mask = self.mask(len(samples))
        return self._run(samples) | {"num_feature_frames": np.array([len(mask)], dtype=np.int64)}

    def _run(self, samples: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        made = self._extractor([samples], return_tensors="np")
        return {name: made[name][0] for name in ("input_features", "input_features_mask")}

    def rules(self) -> dict[str, PixelRule]:
        """How the frames of several sounds join: every sound is filled up to the longest."""
        shape: dict[str, Any] = {"per_medium": "num_feature_frames", "drops": ("num_feature_frames",)}
        rule = PixelRule(arithmetic="stored", layout="stored", **shape)
        return {"input_features": rule, "input_features_mask": rule}
