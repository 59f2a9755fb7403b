"""A processor run on decoded media, or on media of which only the size is known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from vlmprep.families.general.own_run import OwnRun, UnreadableRun, Way, run_processor
from vlmprep.families.general.trial import same_from_sizes, shapes_of
from vlmprep.families.media.clips import Clip
from vlmprep.schema.conversation import MediaKind
from vlmprep.schema.media import Loader

__all__ = ["OwnMedia"]

LOG = logging.getLogger("vlmprep")
META, BLACK = "meta", "cpu"
"""Where blank pixels lie: nowhere, or in memory."""


class OwnMedia:
    """A processor, and blank media for it.

    Args:
        processor: The model's own.
        loader: What its loader makes of an image: tensors or PIL's images.
    """

    def __init__(self, processor: Any, loader: Loader) -> None:
        self.processor = processor
        self._loader = loader
        self._devices: dict[MediaKind, str] = {}

    def run(self, kind: MediaKind, media: Sequence[Any], way: Way = "whole") -> OwnRun:
        """What the processor makes of some media of one kind; see run_processor."""
        if kind == "video":
            frames, metadata = [clip.frames for clip in media], [clip.metadata for clip in media]
            return run_processor(self.processor, kind, frames, way=way, metadata=metadata)
        return run_processor(self.processor, kind, media, way=way)

    def blank(self, like: Any) -> Any:
        """A medium of the same size as a decoded one."""
        if isinstance(like, Clip):
            return self.blank_clip(like.metadata, len(like.frames), *like.frames.shape[2:])
        if isinstance(like, Image.Image):
            return self.blank_image(like.height, like.width)
        return self.blank_image(*like.shape[1:])

    def blank_image(self, height: int, width: int) -> Any:
        """An image of so many pixels."""
        if self._loader == "pil":
            return Image.new("RGB", (width, height))
        return torch.zeros((3, height, width), dtype=torch.uint8, device=self._devices["image"])

    def blank_clip(self, metadata: Any, num_frames: int, height: int, width: int) -> Clip:
        """A clip of so many sampled frames."""
        shape = (num_frames, 3, height, width)
        return Clip(frames=torch.zeros(shape, dtype=torch.uint8, device=self._devices["video"]), metadata=metadata)

    def refuse_other_frames(self, sampled: Sequence[Clip], whole: Sequence[Clip]) -> None:
        """Hold the frames that we leave of clips against those that the processor samples itself.

        Args:
            sampled: Clips with the frames that the processor's own sampling named.
            whole: The same clips with all frames.

        Raises:
            UnreadableRun: They differ.
        """
        frames, metadata = [clip.frames for clip in whole], [clip.metadata for clip in whole]
        own = run_processor(self.processor, "video", frames, metadata=metadata, sampled=False)
        if not same_from_sizes(own, self.run("video", sampled)):
            raise UnreadableRun("it samples other frames than it says")

    def try_blanks(self, kind: MediaKind, media: Sequence[Any]) -> None:
        """Find out whether the processor can be run on pixels that are not there; where not, counting is slow and that is said.

        Args:
            kind: Of the media.
            media: Decoded ones.

        Raises:
            UnreadableRun: What stands for a medium depends on its pixels, so sizes do not tell it.
        """
        real = self.run(kind, media)
        self._devices[kind] = META
        try:
            if same_from_sizes(real, self.run(kind, [self.blank(medium) for medium in media])):
                return
        except Exception:  # noqa: BLE001 - whatever code does that looks at pixels which are not there
            pass
        self._devices[kind] = BLACK
        black = self.run(kind, [self.blank(medium) for medium in media])
        if real.replacements != black.replacements or shapes_of(real) != shapes_of(black):
            raise UnreadableRun(f"what it makes of a {kind} of one size depends on the pixels")
        LOG.warning(
            "%s looks at pixels to count %ss: each size is counted by a full run on black ones, which is slow",
            type(self.processor).__name__,
            kind,
        )
