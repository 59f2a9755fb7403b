"""The sounds of Qwen3-Omni: how many frames of features, how many tokens, and what stands behind a shorter sound.

Its processor pads all sounds of a sample with silence to the longest one before it computes features, so a sound's features
depend on the sounds beside it:

    samples    [###### num_samples ######|............ silence, up to padded_samples]
    frames     [1 1 1 1 1 1 1 1 1 1 1 1 1|a a|s s s s s s s s s s s s s s s s s s s s]     one each 160 samples
               feature_attention_mask 1  |0: some of the sound, then silence alone

Silence gives one and the same frame again and again. A pack holds the frames up to the first of those, which is put behind
them when they are read; the model looks at frames with mask 1 alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.families.qwen.work import sound_work
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import EncoderWork
from vlmprep.schema.pixels import PixelRule

__all__ = ["SoundFeatures"]

USUAL = {"padding": (True, "longest"), "truncation": (False,), "return_attention_mask": (True,)}
"""Settings of the processor's calls, and the values that the arithmetic here stands for."""
LENGTHS = ("num_feature_frames", "audio_feature_lengths")
"""Small fields of a pack: frames that are stored of a sound, and frames of the mask."""


class SoundFeatures:
    """What Qwen3-Omni's feature extractor makes of a sound.

    Args:
        processor: The model's own.
        settings: What it hands its feature extractor at every call (`audio_kwargs`).

    Raises:
        StopRun: Its settings are such that no two runs agree, or that sounds are cut off.
    """

    def __init__(self, processor: Any, settings: Mapping[str, Any]) -> None:
        self._extractor = processor.feature_extractor
        self._settings = dict(settings)
        self._n_window = int(self._settings.pop("n_window", processor.n_window))
        self._output_lengths = sys.modules[type(processor).__module__]._get_feat_extract_output_lengths  # noqa: SLF001
        self.sampling_rate = int(self._extractor.sampling_rate)
        self._check_settings()

    def _check_settings(self) -> None:
        if self._extractor.dither:
            raise StopRun("the feature extractor adds random noise (dither), so no two runs agree", "Set dither to 0.")
        for setting, usual in USUAL.items():
            if self._settings.get(setting) not in usual:
                raise StopRun(
                    f"the feature extractor is called with {setting}={self._settings.get(setting)!r}, expected {usual[0]!r}",
                    "Leave this setting as the family has it.",
                )

    def num_frames(self, num_samples: int, padded_samples: int) -> tuple[int, int]:
        """How many frames a sound has.

        Args:
            num_samples: Of the sound, at the model's rate.
            padded_samples: Of the longest sound of the sample.

        Returns:
            Those that are stored, and those among them with mask 1.

        Raises:
            RefuseSample: The feature extractor does not take so short a sound.
        """
        hop, reach = self._extractor.hop_length, self._extractor.n_fft // 2
        if num_samples == 0 or padded_samples <= reach:
            raise RefuseSample(
                "audio-length",
                f"a sound of {num_samples} samples at {self.sampling_rate} a second: the processor needs more than {reach}",
            )
        every = padded_samples // hop
        first_silent = -(-(num_samples + reach) // hop)
        return min(every, first_silent + 1), min(every, -(-num_samples // hop))

    def num_tokens(self, num_samples: int, padded_samples: int) -> int:
        """Placeholders of a sound; see `num_frames`."""
        _, heard = self.num_frames(num_samples, padded_samples)
        return int(self._output_lengths(heard, self._n_window))

    def work(self, num_samples: int, padded_samples: int, window: int) -> EncoderWork:
        """What the model's encoder has to do for a sound whose tokens see `window` frames; see `num_frames`."""
        _, heard = self.num_frames(num_samples, padded_samples)
        chunk = 2 * self._n_window
        tokens = int(self._output_lengths(chunk, self._n_window)) * (window // chunk)
        return sound_work(heard, self.num_tokens(num_samples, padded_samples), chunk=chunk, window=tokens)

    def lengths(self, num_samples: int, padded_samples: int) -> dict[str, NDArray[np.int64]]:
        """The small fields of a sound, [1] each; see `num_frames`."""
        frames = self.num_frames(num_samples, padded_samples)
        return {name: np.array([number], dtype=np.int64) for name, number in zip(LENGTHS, frames, strict=True)}

    def num_bytes(self, num_samples: int, padded_samples: int) -> int:
        """Bytes of a sound's features as they are stored."""
        return self.num_frames(num_samples, padded_samples)[0] * (int(self._extractor.feature_size) + 1) * 4

    def tensors(self, samples: NDArray[np.float32], padded_samples: int) -> dict[str, NDArray[Any]]:
        """Features and mask of a decoded sound.

        Args:
            samples: [n] float32, at the model's rate.
            padded_samples: Of the longest sound of the sample.

        Returns:
            `input_features` [F, bins] float32, `feature_attention_mask` [F] int32, and the lengths.

        Raises:
            RefuseSample: The feature extractor does not take so short a sound, or the sample's longest is shorter.
        """
        if len(samples) > padded_samples:
            raise RefuseSample(
                "lying-header", f"{len(samples)} samples decode, the headers promised at most {padded_samples}"
            )
        lengths = self.lengths(len(samples), padded_samples)
        made = self._extractor([np.pad(samples, (0, padded_samples - len(samples)))], **self._settings)
        features = np.ascontiguousarray(np.asarray(made["input_features"])[0].T)  # [every frame, bins]
        stored, heard = (int(number[0]) for number in lengths.values())
        behind = features[stored - 1 :]
        assert stored == len(features) or (behind == behind[:1]).all(), "silence gives one frame again and again"
        mask = (np.arange(stored) < heard).astype(np.int32)
        return {"input_features": features[:stored], "feature_attention_mask": mask, **lengths}

    def rules(self) -> dict[str, PixelRule]:
        """How the frames of several sounds join."""
        shape: dict[str, Any] = {"layout": "stored", "per_medium": LENGTHS[0], "drops": LENGTHS}
        return {
            "input_features": PixelRule(arithmetic="stored", fill="last", items_last=True, **shape),
            "feature_attention_mask": PixelRule(arithmetic="stored", **shape),
        }
