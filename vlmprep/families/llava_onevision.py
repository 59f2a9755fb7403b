"""LLaVA-OneVision: an image that stands alone in its sample is cut into crops, several are not; clips of one length."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from vlmprep.families.base import Expected
from vlmprep.families.media.arithmetic import arithmetic_rule, require
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.families.media.work import seen
from vlmprep.families.text.encoding import Collapsed
from vlmprep.families.tiles import STRIP, TiledFamily, levels_of, pixel_bytes, processed_clip
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import Encoded
from vlmprep.schema.media import ImageSize, MediaCount, MediaSize, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["LlavaOnevision"]

CROPS = "pixel_values_items"
"""Field that says how many crops each image has, the whole image included; readers need it, the model does not."""
FRAMES = "pixel_values_videos_items"
"""The same for the frames of clips."""


class LlavaOnevision(TiledFamily):
    """LLaVA-OneVision in transformers' own form.

    The model's encoder reads clips from one tensor `[clips, frames, ...]`, so clips of a pack that have not all as many frames
    come back as a list; what the encoder makes of each goes to the model as `mm_encoder_outputs`.

    Args:
        processor: The model's own processor.
        config: The model's config, or None.
        keep_control_text: Let text through that holds the model's control tokens.

    Raises:
        StopRun: Settings that counts and pixels do not rest on, or the config is another model's.
    """

    name: ClassVar[str] = "llava_onevision"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    needs: ClassVar[tuple[str, ...]] = ("do_resize", "do_rescale", "do_normalize", "do_pad")

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, config, keep_control_text=keep_control_text)
        self.fake_image_size = STRIP
        self._videos = processor.video_processor
        require(self._videos, "video", "do_resize", "do_rescale", "do_normalize")
        self._refuse_center_crop()
        self._refuse_other_config()
        self._speck = (
            torch.zeros((3, 8, 8), dtype=torch.uint8) if self.loader == "torchvision" else Image.new("RGB", (8, 8))
        )

    def _refuse_center_crop(self) -> None:
        for part in (self._images, self._videos):
            if part.do_center_crop or not (part.size and part.size["height"]):
                raise StopRun(
                    f"{type(part).__name__} crops the middle of images, or resizes them to no height and width",
                    "Set do_center_crop to false and size to a height and a width, as the published processors have it.",
                )

    def _refuse_other_config(self) -> None:
        grid = getattr(self.config, "image_grid_pinpoints", None)
        if grid is not None and [list(point) for point in grid] != [list(p) for p in self._images.image_grid_pinpoints]:
            raise StopRun(
                "the model's config cuts images by another image_grid_pinpoints than the processor",
                "Give the config that belongs to the processor (--model-config).",
            )

    def measure(self, sizes: Sequence[MediaSize]) -> list[MediaCount]:
        """Count all media of one sample; its first image says how many it has (`batch_num_images`). See Family.

        Raises:
            RefuseSample: A medium is refused, or clips of several lengths, which the processor does not take together.
        """
        counts = super().measure(sizes)
        lengths = sorted({count.num_patches for count in counts if count.kind == "video"})
        if len(lengths) > 1:
            raise RefuseSample(
                "clip-length",
                f"clips of {', '.join(map(str, lengths))} frames in one sample, and the processor takes clips of one length: "
                "set do_sample_frames and num_frames of the video processor",
            )
        return with_number_of_images(counts)

    def counts_after_cut(self, counts: Sequence[MediaCount]) -> list[MediaCount]:
        """Its first image says how many are left, which are several where there were several; see Family."""
        return with_number_of_images(counts)

    def _labelled(self, collapsed: Collapsed, ids: NDArray[np.int32] | RefuseSample) -> Encoded:
        """As for all families; but of several images one is never left alone, which the model would take for crops."""
        encoded = super()._labelled(collapsed, ids)
        images = [at for at, kind in enumerate(collapsed.kinds) if kind == "image"][:2]
        if len(images) < 2:
            return encoded
        return dataclasses.replace(encoded, find_media=lambda: together(encoded.media_spans, images))

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        side_height, side_width = self._images.size["height"], self._images.size["width"]
        num_crops = 1
        if num_alike == 1:
            height, width = select_best_resolution(size.shape, self._images.image_grid_pinpoints)
            num_crops += math.ceil(height / side_height) * math.ceil(width / side_height)  # it cuts squares
        one_crop = torch.empty((3, side_height, side_width), device="meta")
        return Expected(
            inputs={
                "image_sizes": np.array([size.shape], dtype=np.int64),
                CROPS: np.array([num_crops], dtype=np.int64),
            },
            num_patches=num_crops,
            stored_bytes=pixel_bytes(num_crops, side_height, side_width),
            work=seen((num_crops, 0)),
            hints={"batch_num_images": [num_alike], "image_sizes": [size.shape], "pixel_values": [[one_crop]]},
        )

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        num_frames = len(sampled_frames(self._videos, clip_metadata(size)))
        height, width = self._videos.size["height"], self._videos.size["width"]
        return Expected(
            inputs={FRAMES: np.array([num_frames], dtype=np.int64)},
            num_patches=num_frames,
            stored_bytes=pixel_bytes(num_frames, height, width),
            work=seen((num_frames, 0)),
            hints={"pixel_values_videos": torch.empty((1, num_frames, 3, height, width), device="meta")},
        )

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded image or clip as levels.

        Returns:
            Of an image, `pixel_values` uint8 [crops, 3, side, side], how many crops they are, `image_sizes` [1, 2] and
            `batch_num_images`; of a clip, `pixel_values_videos` uint8 [frames, 3, side, side] and how many they are.

        Raises:
            RefuseSample: The processor does not take it.
        """
        if isinstance(decoded, Clip):
            frames = levels_of(processed_clip(self._videos, decoded)["pixel_values_videos"][0])
            return {"pixel_values_videos": frames, FRAMES: np.array([len(frames)], dtype=np.int64)}
        alone = count.num_alike == 1
        made = self._processed([[decoded]] if alone else [[decoded, self._speck]])
        pixels = levels_of(made["pixel_values"][0])
        return {
            "pixel_values": pixels,
            CROPS: np.array([len(pixels)], dtype=np.int64),
            "image_sizes": np.asarray(made["image_sizes"][:1], dtype=np.int64),
            "batch_num_images": count.inputs["batch_num_images"],
        }

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become `[images, most crops, ...]`, zeros behind the shorter ones, and `[clips, frames, ...]`."""
        images = arithmetic_rule(self._images, self.loader, layout="images", per_medium=CROPS, drops=(CROPS,))
        clips = arithmetic_rule(
            self._videos, "torchvision", layout="images", per_medium=FRAMES, fill="none", drops=(FRAMES,)
        )
        return {"pixel_values": images, "pixel_values_videos": clips}


def with_number_of_images(counts: Sequence[MediaCount]) -> list[MediaCount]:
    """Counts of a sample's media, of which the first image says how many images they have (`batch_num_images`)."""
    images = [at for at, count in enumerate(counts) if count.kind == "image"]
    said = list(counts)
    for at in images:
        number = [len(images)] if at == images[0] else []
        inputs = {**counts[at].inputs, "batch_num_images": np.array(number, dtype=np.int64)}
        said[at] = dataclasses.replace(counts[at], inputs=inputs)
    return said


def together(spans: NDArray[np.int32] | None, media: Sequence[int]) -> NDArray[np.int32] | None:
    """Spans of media, those of some stretched over all of these."""
    if spans is not None:
        spans[media] = spans[media, 0].min(), spans[media, 1].max()
    return spans
