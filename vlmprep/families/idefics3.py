"""Idefics3 and SmolVLM: images in rows and columns of tiles with a global view behind, each framed by tokens of its own."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vlmprep.families.base import Expected
from vlmprep.families.media.arithmetic import arithmetic_rule, require
from vlmprep.families.media.clips import Clip
from vlmprep.families.media.work import seen
from vlmprep.families.stamped import stamped_metadata
from vlmprep.families.text.turns import TurnFinder
from vlmprep.families.tiles import STRIP, TiledFamily, levels_of, pixel_bytes, processed_clip
from vlmprep.schema.conversation import Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import ImageSize, MediaCount, MediaSize, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["Idefics3", "SmolVLM"]

MASK_RULE = PixelRule(arithmetic="stored", layout="ones", lead=True)
"""Tiles are whole, so the mask hides nothing; the processors' padding of batches is no part of a pack."""


class Idefics3(TiledFamily):
    """Idefics3.

    The model takes `[samples, tiles, ...]` and looks only at the tiles, so all tiles of a pack stand in one row: what the
    processor gives for one conversation with all these images.

    Args:
        processor: The model's own processor.
        config: The model's config, or None.
        keep_control_text: Let text through that holds the model's control tokens.

    Raises:
        StopRun: Settings that counts and pixels do not rest on.
    """

    name: ClassVar[str] = "idefics3"
    kinds: ClassVar[frozenset[str]] = frozenset({"image"})
    needs: ClassVar[tuple[str, ...]] = ("do_resize", "do_rescale", "do_normalize", "do_pad")

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, config, keep_control_text=keep_control_text)
        self.fake_image_size = STRIP
        self._side = int(self._images.max_image_size["longest_edge"])
        longest = self._images.size["longest_edge"]
        if not longest or (self._images.do_image_splitting and (longest % self._side or self._side % 2)):
            raise StopRun(
                f"the image processor resizes the longest edge to {longest} and cuts tiles of {self._side}; where the first "
                "is no multiple of the second its own count of tiles differs from the tiles that it makes",
                "Set size to a multiple of an even max_image_size, as the published processors have it.",
            )

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        try:
            found = self._images.get_number_of_image_patches(size.height, size.width, self._image_options)
        except (ValueError, ZeroDivisionError) as error:
            raise RefuseSample("image-shape", f"a {size.width} x {size.height} image: {error}") from error
        num_tiles, rows, columns = found
        return self._expected(max(num_tiles, 1), rows=[[rows]], cols=[[columns]])

    def _expected(self, num_tiles: int, **hints: Any) -> Expected:
        return Expected(
            inputs={"pixel_attention_mask": np.full((num_tiles, 2), self._side, dtype=np.int64)},
            num_patches=num_tiles,
            stored_bytes=pixel_bytes(num_tiles, self._side, self._side),
            work=seen((num_tiles, 0)),
            hints=hints,
        )

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded image as levels.

        Returns:
            `pixel_values` uint8 [tiles, 3, side, side] and `pixel_attention_mask` int64 [tiles, 2], their sides.

        Raises:
            RefuseSample: The processor does not take it.
        """
        return stored_tiles(self._processed([[decoded]]))

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become `[1, tiles, ...]`, and the sides of the tiles a mask of ones."""
        rule = arithmetic_rule(self._images, self.loader, layout="images", lead=True)
        return {"pixel_values": rule, "pixel_attention_mask": MASK_RULE}


class SmolVLM(Idefics3):
    """SmolVLM and SmolVLM2: Idefics3 with clips, whose frames are images with their time before them."""

    name: ClassVar[str] = "smolvlm"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video"})

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, config, keep_control_text=keep_control_text)
        self._videos = processor.video_processor
        require(self._videos, "video", "do_resize", "do_rescale", "do_normalize", "do_pad")
        if self._videos.num_frames is not None or self._videos.fps is not None:
            # Its apply_chat_template passes both on, and transformers samples wherever it is given one.
            self._videos.do_sample_frames = True

    def _turns_of(self, sample: Sample) -> TurnFinder:
        if any(medium.kind == "video" for medium in sample.media()):
            return self._turns_with_clips
        return self._turns

    @functools.cached_property
    def _turns_with_clips(self) -> TurnFinder:
        """The processor renders conversations with clips by a template of its own, whatever it was saved with."""
        processor = copy.copy(self.processor)
        processor.chat_template = sys.modules[type(processor).__module__].DEFAULT_CHAT_TEMPLATE
        return TurnFinder(processor, self.control_tokens)

    def measure(self, sizes: Sequence[MediaSize]) -> list[MediaCount]:
        """Count all media of one sample; see Family.

        The processor writes the number of frames of the longest clip of a sample for each of its clips.

        Raises:
            RefuseSample: Images and clips in one sample, of which the processor returns the clips alone.
        """
        counts = super().measure(sizes)
        clips = [size for size in sizes if isinstance(size, VideoSize)]
        if clips and len(clips) < len(sizes):
            raise RefuseSample("unsupported-media", "images and clips in one sample: the processor loses the images")
        most = max((count.num_patches for count in counts), default=0)
        if all(count.num_patches == most for count in counts) or not clips:
            return counts
        return [self._count("video", self._clip(size, most), len(clips)) for size in clips]

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        return self._clip(size, None)

    def _clip(self, size: VideoSize, frames_written: int | None) -> Expected:
        """What the video processor would return for a clip.

        Args:
            size: What the container says.
            frames_written: How many frames the text says that it has; None: as many as it has.
        """
        self._refuse_unlike_clips(self._side, int(self._videos.max_image_size["longest_edge"]))
        metadata = stamped_metadata(self._videos, size)
        num_frames = len(metadata.frames_indices)
        written = torch.empty((1, frames_written or num_frames), device="meta")
        return self._expected(num_frames, pixel_values=written, video_metadata=[metadata])

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded image or clip as levels; see Idefics3."""
        if isinstance(decoded, Clip):
            return stored_tiles(processed_clip(self._videos, decoded))
        return super().tensors(decoded, count)


def stored_tiles(made: Any) -> dict[str, NDArray[Any]]:
    """The stored form of what an image or video processor made of one medium.

    Raises:
        RefuseSample: Its mask hides something.
    """
    mask = made["pixel_attention_mask"][0]
    if not bool(mask.all()):
        raise RefuseSample("image-shape", "the processor pads tiles of this image")
    sides = np.array([mask.shape[1:]], dtype=np.int64)
    return {
        "pixel_values": levels_of(made["pixel_values"][0]),
        "pixel_attention_mask": np.repeat(sides, len(mask), axis=0),
    }
