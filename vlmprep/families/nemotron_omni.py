"""Nemotron-Omni: images of any size as patches, a clip as pairs of frames with their times, sounds as mel frames.

Its processors resize floats and keep what overshoots, so no 8-bit level stands for a pixel and bfloat16 would not be what they
return: pixels are stored as the float32 that they are.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmprep.families.base import BaseFamily, Expected
from vlmprep.families.media.arithmetic import require
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.families.media.sounds import samples_at
from vlmprep.families.media.work import halved, heard, seen
from vlmprep.families.wording import first_line
from vlmprep.schema.conversation import MediaKind
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import AudioSize, ImageSize, MediaCount, MediaSize, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["NemotronOmni"]

FLOAT_BYTES = 4
LEAST_FRAMES = 2
"""Mel frames that a sound must have for their spread to be a number."""


class NemotronOmni(BaseFamily):
    """Nemotron-Omni.

    How many patches an image may have depends, under some settings, on how many images stand beside it. A clip becomes image
    placeholders between times, so a sample has one clip and no image beside it: the processor expands one clip a call, and the
    model tells images from a clip by which of them it was given.

    Args:
        processor: The model's own processor.
        config: Not needed; it goes into the fingerprint.
        keep_control_text: Let text through that holds the model's control tokens.
    """

    name: ClassVar[str] = "nemotron_h_omni"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video", "audio"})
    position_axes: ClassVar[int] = 1

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, keep_control_text=keep_control_text)
        self.config = config
        self._images, self._videos = processor.image_processor, processor.video_processor
        self._sounds = processor.feature_extractor
        self._grid_size = sys.modules[type(self._images).__module__].get_patch_grid_size
        self._check_settings()

    def _check_settings(self) -> None:
        require(self._images, "image", "do_rescale", "do_normalize")
        if self._videos.norm_mean is None or self._videos.norm_std is None:
            raise StopRun(
                "the video processor has no norm_mean or norm_std, without which it makes nothing of a clip",
                "Set them in its video_preprocessor_config.json, as published.",
            )
        if self._sounds.hop_length != self.processor.audio_hop_length:
            raise StopRun(
                f"the feature extractor makes a frame of every {self._sounds.hop_length} samples, "
                f"the processor counts one for every {self.processor.audio_hop_length}",
                "Give the processor the feature extractor's hop_length (audio_hop_length).",
            )

    def measure(self, sizes: Sequence[MediaSize]) -> list[MediaCount]:
        """Count the media of one sample from their sizes alone; see Family.

        Raises:
            RefuseSample: Several clips, or a clip beside images.
        """
        kinds = Counter(size.kind for size in sizes)
        if kinds["video"] > 1:
            raise RefuseSample("several-clips", f"{kinds['video']} clips; the processor expands one in a sample")
        if kinds["video"] and kinds["image"]:
            raise RefuseSample("clip-beside-images", "a clip beside images: the model takes the one or the others")
        return super().measure(sizes)

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        images = self._images
        try:
            rows, columns = self._grid_size(
                size.height,
                size.width,
                images.patch_size,
                self._merge_size,
                images.min_num_patches,
                self._most_patches(num_alike),
            )
        except (ValueError, ZeroDivisionError) as error:
            raise RefuseSample("image-shape", f"a {size.width} x {size.height} image: {first_line(error)}") from error
        if not rows or not columns:
            raise RefuseSample("image-shape", f"a {size.width} x {size.height} image is too thin for a patch")
        return Expected(
            inputs={"image_grid_hw": np.array([[rows, columns]], dtype=np.int64)},
            num_patches=rows * columns,
            stored_bytes=rows * columns * 3 * images.patch_size**2 * FLOAT_BYTES,
            work=seen((1, rows * columns)),
        )

    @property
    def _merge_size(self) -> int:
        merge_size: int = round(1 / self._images.downsample_ratio)
        return merge_size

    def _most_patches(self, num_images: int) -> int:
        """The bound on an image's patches among so many images of a sample."""
        images = self._images
        most = max((images.max_model_len - 4) * self._merge_size**2, images.min_num_patches * num_images)
        if images.max_num_patches:
            most = min(most, images.max_num_patches)
        return int(max(most, images.min_num_patches))

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        metadata = clip_metadata(size)
        metadata.frames_indices = sampled_frames(self._videos, metadata)
        frames, side = len(metadata.frames_indices), self._videos.patch_size
        columns, rows = self._videos._compute_target_patches(size.height, size.width)  # noqa: SLF001 - its own arithmetic
        num_tokens = rows * columns // round(1 / self._videos.downsample_ratio) ** 2
        return Expected(
            inputs={"video_grid_fhw": np.array([[frames, rows, columns]], dtype=np.int64)},
            hints={"num_tokens": [num_tokens], "num_frames": frames, "video_metadata": metadata},
            num_patches=frames * rows * columns,
            stored_bytes=frames * rows * columns * 3 * side**2 * FLOAT_BYTES,
            work=seen((-(-frames // self.processor.video_temporal_patch_dim), rows * columns)),
        )

    def _audio_inputs(self, size: AudioSize, num_alike: int) -> Expected:
        num_samples = samples_at(size, self.processor.audio_sampling_rate)
        num_frames = self._num_frames(num_samples)
        estimate = self.processor._estimate_audio_num_embeddings  # noqa: SLF001 - its own arithmetic
        return Expected(
            inputs={"audio_frames": np.array([num_frames], dtype=np.int64)},
            hints={"num_tokens": [max(1, estimate(num_samples))]},
            stored_bytes=num_frames * (self._sounds.feature_size * FLOAT_BYTES + 1),
            work=heard(num_frames, halved(num_frames, int(math.log2(self.processor.audio_subsampling_factor)))),
        )

    def _num_frames(self, num_samples: int) -> int:
        """Mel frames of a sound, the last of which is masked."""
        if num_samples // self._sounds.hop_length < LEAST_FRAMES:
            raise RefuseSample(
                "audio-length", f"a sound of {num_samples} samples is too short for {LEAST_FRAMES} frames"
            )
        return int(1 + num_samples // self._sounds.hop_length)

    def _replacement(self, kind: MediaKind, expected: Expected) -> str:
        if kind != "video":
            return super()._replacement(kind, expected)
        hints = dict(expected.hints)
        tokens = {"num_tokens": hints.pop("num_tokens")}  # of a frame; the rest are arguments of the processor's hook
        return str(self.processor.replace_video_token(tokens, 0, **hints))

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """Patches float32 [patches, 768] of an image or of a clip's frames, or mel frames [frames, bins]; see Family.

        Raises:
            RefuseSample: The processor does not take it.
        """
        try:
            if count.kind == "video":
                return self._moving(decoded)
            return self._heard(decoded) if count.kind == "audio" else self._seen(decoded, count.num_alike)
        except (ValueError, RuntimeError) as error:
            raise RefuseSample("media-shape", f"the {count.kind} does not fit: {first_line(error)}") from error

    def _seen(self, decoded: Any, num_images: int) -> dict[str, NDArray[Any]]:
        """One image, bounded as it is among so many."""
        most = self._most_patches(num_images)
        made = self._images(images=[decoded], max_num_patches=most, max_model_len=most + 4, return_tensors="pt")
        return {"pixel_values": made["pixel_values"].numpy(), "image_grid_hw": made["image_grid_hw"].numpy()}

    def _moving(self, clip: Clip) -> dict[str, NDArray[Any]]:
        """A clip's frames, cut into patches so that clips of any size join; PixelRule lays them together again."""
        made = self._videos(
            videos=[clip.frames], video_metadata=[clip.metadata], do_sample_frames=False, return_tensors="pt"
        )
        frames, side = made["pixel_values_videos"], self._videos.patch_size
        num_frames, channels, height, width = frames.shape
        rows, columns = height // side, width // side
        patches = frames.view(num_frames, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        return {
            "pixel_values_videos": patches.reshape(-1, channels, side, side).numpy(),
            "video_grid_fhw": np.array([[num_frames, rows, columns]], dtype=np.int64),
        }

    def _heard(self, samples: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        self._num_frames(len(samples))
        made = self._sounds([samples], sampling_rate=self._sounds.sampling_rate, return_tensors="pt")
        frames = made["input_features"][0].numpy()
        return {
            "input_features": frames,
            "input_features_mask": made["attention_mask"][0].numpy(),
            "audio_frames": np.array([len(frames)], dtype=np.int64),
        }

    def pixel_rules(self) -> dict[str, PixelRule]:
        """Images as they are; clips laid together from their patches; sounds filled up to the longest."""
        plain: dict[str, Any] = {"arithmetic": "stored", "layout": "stored"}
        frames: dict[str, Any] = {**plain, "per_medium": "audio_frames", "drops": ("audio_frames",)}
        return {
            "pixel_values": PixelRule(**plain),
            "pixel_values_videos": PixelRule(
                arithmetic="stored", layout="clips", per_medium="video_grid_fhw", drops=("video_grid_fhw",)
            ),
            "input_features": PixelRule(**frames),
            "input_features_mask": PixelRule(**frames),
        }
