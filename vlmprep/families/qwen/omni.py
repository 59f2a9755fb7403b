"""Qwen3-Omni: images and clips as its relatives', sounds, and clips that are heard."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmprep.families.base import COUNTS_KEPT, Expected
from vlmprep.families.media.clips import Clip, refuse_large_clip
from vlmprep.families.media.sounds import load_sound, samples_at
from vlmprep.families.qwen.omni_positions import OmniPositions
from vlmprep.families.qwen.sound import SoundFeatures
from vlmprep.families.qwen.vl import Qwen2VL
from vlmprep.schema.conversation import Media, MediaKind
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import AudioSize, MediaCount, MediaSize, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["HeardClip", "Qwen3Omni"]

TOKENS = {
    "image_token_id": "image_token",
    "video_token_id": "video_token",
    "audio_token_id": "audio_token",
    "vision_start_token_id": "vision_bos_token",
    "audio_start_token_id": "audio_bos_token",
}
"""Tokens that the model's positions look for: their names in its config and in its processor."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeardClip:
    """A clip and its sound."""

    clip: Clip
    samples: NDArray[np.float32]  # [n], at the model's rate


class Qwen3Omni(Qwen2VL):
    """Qwen3-Omni's thinker.

    The time of a clip's steps does not come from its file: it is `temporal_patch_size / fps` with the `fps` of the
    processor's settings, 1 without one. Clips are heard, their sound between their frames, where the processor's
    `load_audio_from_video` is on.
    """

    name: ClassVar[str] = "qwen3_omni_moe"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video", "audio"})
    model_parts: ClassVar[tuple[str, ...]] = ("qwen3_omni_moe_thinker",)

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, config, keep_control_text=keep_control_text)
        fps = self.call_settings["videos_kwargs"].get("fps")
        self._seconds_per_step: float = self._clips.temporal_patch_size / (1.0 if fps is None else fps)
        self._sounds = SoundFeatures(processor, self.call_settings["audio_kwargs"])
        self._measured_sound = functools.lru_cache(maxsize=COUNTS_KEPT)(self._measure_sound)
        self._measured_heard_clip = functools.lru_cache(maxsize=COUNTS_KEPT)(self._measure_heard_clip)

    @functools.cached_property
    def hears_clips(self) -> bool:
        """Whether a clip's sound goes in with its frames."""
        settings = self.call_settings
        return bool(settings["videos_kwargs"].get("load_audio_from_video", settings["load_audio_from_video"]))

    def _model_classes(self) -> tuple[type, type]:
        from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeConfig
        from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
            Qwen3OmniMoePreTrainedModelForConditionalGeneration,
        )

        return Qwen3OmniMoePreTrainedModelForConditionalGeneration, Qwen3OmniMoeConfig

    def _default_config(self, config_class: Any) -> Any:
        """The defaults with what the processor knows itself: its tokens and its clock."""
        config = config_class()
        for name, token in TOKENS.items():
            setattr(config.thinker_config, name, self._token_id(token))
        config.thinker_config.position_id_per_seconds = int(self.call_settings["position_id_per_seconds"])
        return config

    def _token_id(self, name: str) -> int:
        token = getattr(self.processor, name)
        return int(self.processor.tokenizer.convert_tokens_to_ids(token))

    @property
    def _thinker(self) -> Any:
        """The part of the config that is about the language model and what it sees and hears."""
        return getattr(self.config, "thinker_config", self.config)

    def _vision_config(self) -> Any:
        return self._thinker.vision_config

    def _check_config(self) -> None:
        """Stop where the config is another model's.

        Raises:
            StopRun: Its merge size, its tokens, its audio window or its clock are not the processor's.
        """
        super()._check_config()
        thinker, settings = self._thinker, self.call_settings
        pairs = {name: (getattr(thinker, name, None), self._token_id(token)) for name, token in TOKENS.items()}
        pairs["n_window"] = (thinker.audio_config.n_window, settings["n_window"])
        if self.hears_clips:  # else nothing but the model counts in it
            pairs["position_id_per_seconds"] = (thinker.position_id_per_seconds, settings["position_id_per_seconds"])
        for name, (of_model, of_processor) in pairs.items():
            if of_model != of_processor:
                raise StopRun(
                    f"the model's config ({self.config.model_type}) has {name} {of_model}, the processor {of_processor}",
                    "Give the config that belongs to the processor (--model-config).",
                )

    def _make_positions(self, model_class: type) -> Any:
        return OmniPositions(model_class, self._thinker)

    def measure(self, sizes: Sequence[MediaSize]) -> list[MediaCount]:
        """Count the media of one sample; the features of its sounds depend on the longest of them."""
        lengths = [self._num_samples(size) for size in sizes]
        heard = {length is not None for size, length in zip(sizes, lengths, strict=True) if size.kind == "video"}
        if self.hears_clips and len(heard) > 1:
            raise RefuseSample(
                "unplaceable-clips", "one clip of the sample is silent and another is not, which the model mixes up"
            )
        padded = max((length for length in lengths if length is not None), default=0)
        return [self._measure_beside(*medium, padded) for medium in zip(sizes, lengths, strict=True)]

    def _num_samples(self, size: MediaSize) -> int | None:
        """Samples of a medium that the model hears, at the model's rate; None for what it does not hear."""
        sound = size
        if isinstance(size, VideoSize) and self.hears_clips and size.audio is not None:
            sound = size.audio
        return samples_at(sound, self._sounds.sampling_rate) if isinstance(sound, AudioSize) else None

    def _measure_beside(self, size: MediaSize, num_samples: int | None, padded_samples: int) -> MediaCount:
        """Count a medium beside a longest sound."""
        if num_samples is None:
            return self._measure(size, 1)
        if isinstance(size, VideoSize):
            return self._measured_heard_clip(dataclasses.replace(size, num_bytes=0), num_samples, padded_samples)
        return self._measured_sound(num_samples, padded_samples)

    def _measure_sound(self, num_samples: int, padded_samples: int) -> MediaCount:
        expected = self._sound_inputs(num_samples, padded_samples)
        return dataclasses.replace(self._count("audio", expected, 1), padded_samples=padded_samples)

    def _measure_heard_clip(self, size: VideoSize, num_samples: int, padded_samples: int) -> MediaCount:
        refuse_large_clip(self.processor.video_processor, size, self.max_clip_bytes)
        seen, heard = self._video_inputs(size, 1), self._sound_inputs(num_samples, padded_samples)
        both = Expected(
            inputs=seen.inputs | heard.inputs,
            hints=seen.hints | heard.hints,
            num_patches=seen.num_patches,
            stored_bytes=seen.stored_bytes + heard.stored_bytes,
            work=seen.work + heard.work,
        )
        return dataclasses.replace(self._count("video", both, 1), padded_samples=padded_samples)

    def _sound_inputs(self, num_samples: int, padded_samples: int) -> Expected:
        return Expected(
            inputs=dict(self._sounds.lengths(num_samples, padded_samples)),
            stored_bytes=self._sounds.num_bytes(num_samples, padded_samples),
            work=self._sounds.work(num_samples, padded_samples, self._thinker.audio_config.n_window_infer),
            hints={"num_audio_tokens": [self._sounds.num_tokens(num_samples, padded_samples)]},
        )

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        expected = super()._video_inputs(size, num_alike)
        # Python's number, as the processor has it where it lays sound between frames.
        hints = {**expected.hints, "video_second_per_grid": [self._seconds_per_step]}
        return dataclasses.replace(expected, hints=hints)

    def _times(self, metadata: Any) -> dict[str, NDArray[Any]]:
        return {"video_second_per_grid": np.array([self._seconds_per_step], dtype=np.float32)}

    def _replacement(self, kind: MediaKind, expected: Expected) -> str:
        if kind != "video":
            return super()._replacement(kind, expected)
        inputs = {**expected.inputs, **expected.hints}
        heard = "num_audio_tokens" in inputs
        written: str = self.processor.replace_video_token(
            inputs,
            0,
            processed_audio=inputs,
            video_to_audio_indices=[0],
            load_audio_from_video=heard,
            position_id_per_seconds=self.call_settings["position_id_per_seconds"],
        )
        return written

    def load(self, medium: Media) -> Any:
        """Decode a medium; a clip with its sound where the model hears clips."""
        decoded = super().load(medium)
        if medium.kind != "video" or medium.frames is not None or not self.hears_clips:
            return decoded
        try:
            samples = load_sound(medium, self._sounds.sampling_rate)
        except RefuseSample as refusal:
            if refusal.code == "no-sound":
                return decoded
            raise
        return HeardClip(clip=decoded, samples=samples)

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded medium; see ImagePatches, ClipPatches and SoundFeatures."""
        if isinstance(decoded, HeardClip):
            heard = self._sounds.tensors(decoded.samples, count.padded_samples)
            return {**super().tensors(decoded.clip, count), **heard}
        if count.kind == "audio":
            return self._sounds.tensors(decoded, count.padded_samples)
        return super().tensors(decoded, count)

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become pixels, and the frames of sounds features."""
        return {**super().pixel_rules(), **self._sounds.rules()}
