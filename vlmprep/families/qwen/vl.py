"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: images and clips of any size as patches of a grid, mRoPE positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmprep.families.base import BaseFamily, Expected
from vlmprep.families.media.clips import Clip, clip_metadata, sampled_frames
from vlmprep.families.qwen.image import ImagePatches
from vlmprep.families.qwen.mrope import MropePositions
from vlmprep.families.qwen.video import ClipPatches
from vlmprep.families.qwen.work import picture_work
from vlmprep.families.stamped import stamped_metadata
from vlmprep.families.wording import first_line
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import Tokens
from vlmprep.schema.media import ImageSize, MediaCount, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["Qwen2VL", "Qwen3VL", "Qwen3VLMoe", "Qwen25VL", "Qwen35", "Qwen35Moe"]

AMBIGUOUS_HEIGHTS = (1, 3)
"""Of frames [T, H, W, 3], whose rows transformers then takes for channels."""


class Qwen2VL(BaseFamily):
    """Qwen2-VL; the later ones differ in sizes, positions and video, which their processors and models know themselves.

    Args:
        processor: The model's own processor.
        config: The model's config, or None for the family's defaults.
        keep_control_text: Let text through that holds the model's control tokens.
    """

    name: ClassVar[str] = "qwen2_vl"
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    position_axes: ClassVar[int] = 3
    model_parts: ClassVar[tuple[str, ...]] = ()
    """model_types of configs of a part of the model, which say enough."""

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        super().__init__(processor, keep_control_text=keep_control_text)
        self.call_settings = call_settings(processor)
        self._images = ImagePatches(processor.image_processor, self.call_settings["images_kwargs"])
        self._clips = ClipPatches(processor.video_processor, self.call_settings["videos_kwargs"])
        model_class, config_class = self._model_classes()
        self.config = self._default_config(config_class) if config is None else config
        self._check_config()
        self._window = self._attention_window()
        self._positions = self._make_positions(model_class)

    def _model_classes(self) -> tuple[type, type]:
        """The model and config of transformers that bear the family's name."""
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_MAPPING

        config_class = CONFIG_MAPPING[self.name]
        model_class: Any = MODEL_MAPPING[config_class]
        return model_class, config_class

    def _default_config(self, config_class: Any) -> Any:
        return config_class()

    def _make_positions(self, model_class: type) -> Any:
        return MropePositions(model_class, self.config)

    def _vision_config(self) -> Any:
        return getattr(self.config, "vision_config", None)

    def _attention_window(self) -> int | None:
        """Rows and columns of patches of a window that some of the vision encoder's layers see."""
        return None

    def _check_config(self) -> None:
        """Stop where the config is another model's.

        Raises:
            StopRun: Its merge size is not the processor's, or its model is none of the family.
        """
        merge_size = getattr(self._vision_config(), "spatial_merge_size", None)
        for part in (self.processor.image_processor, self.processor.video_processor):
            if merge_size != part.merge_size:
                raise StopRun(
                    f"the model's config ({self.config.model_type}) merges {merge_size} x {merge_size} patches, "
                    f"the processor {part.merge_size} x {part.merge_size}",
                    "Give the config that belongs to the processor (--model-config).",
                )
        if self.config.model_type not in (self.name, *self.model_parts):
            raise StopRun(
                f"the config is of the model {self.config.model_type}, and the processor is packed for {self.name}",
                "Give the config that belongs to the processor (--model-config).",
            )

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        grid = self._images.grid(size.height, size.width)
        return Expected(
            inputs={"image_grid_thw": grid},
            num_patches=int(grid.prod()),
            stored_bytes=self._images.num_bytes(grid),
            work=picture_work(grid, self._window),
        )

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        refuse_ambiguous_frames(size)
        metadata = self._sampled_metadata(size)
        grid = self._clips.grid(len(metadata.frames_indices), size.height, size.width)
        return Expected(
            inputs={"video_grid_thw": grid, **self._times(metadata)},
            num_patches=int(grid.prod()),
            stored_bytes=self._clips.num_bytes(grid),
            work=picture_work(grid, self._window),
            hints={"video_metadata": [metadata]},
        )

    def _sampled_metadata(self, size: VideoSize) -> Any:
        """What the loader says of a clip, with the frames that the processor samples."""
        metadata = clip_metadata(size)
        metadata.frames_indices = sampled_frames(self.processor.video_processor, metadata)
        return metadata

    def _times(self, metadata: Any) -> dict[str, NDArray[Any]]:
        """The inputs that tell the model how fast a clip runs."""
        return {}

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """One decoded image or clip: patches of 8-bit levels and their grid; see ImagePatches and ClipPatches.

        Raises:
            RefuseSample: The processor does not take a medium of this shape, or does not find it 8 bits deep.
        """
        if isinstance(decoded, Clip):
            return {**self._clips.tensors(decoded.frames), **self._times(decoded.metadata)}
        return self._images.tensors(decoded)

    def positions(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """The model's own mRoPE: temporal, height and width axes, [3, S].

        Raises:
            RefuseSample: The template puts no token between two images, whom the model then takes for one.
        """
        try:
            found: NDArray[np.int32] = self._positions(tokens, tensors)
        except (ValueError, RuntimeError, StopIteration) as error:
            raise RefuseSample("unplaceable-images", f"the images cannot be placed: {first_line(error)}") from error
        return found

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored levels become `pixel_values` and `pixel_values_videos`."""
        return {"pixel_values": self._images.rule(), "pixel_values_videos": self._clips.rule()}


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: window attention and absolute time in video; its images count and lie as Qwen2-VL's."""

    name: ClassVar[str] = "qwen2_5_vl"

    def _sampled_metadata(self, size: VideoSize) -> Any:
        return stamped_metadata(self.processor.video_processor, size)

    def _attention_window(self) -> int | None:
        vision = self._vision_config()
        visual_tokens = (
            vision.window_size // vision.spatial_merge_size // vision.patch_size
        )  # rounded as the model rounds
        if visual_tokens < 1:
            raise StopRun(
                f"the model's config has a window of {vision.window_size} pixels, less than one visual token",
                "Give the config that belongs to the processor (--model-config).",
            )
        return int(visual_tokens * vision.spatial_merge_size)

    def _times(self, metadata: Any) -> dict[str, NDArray[Any]]:
        seconds = self._clips.temporal_patch_size / metadata.sampled_fps
        return {"second_per_grid_ts": np.array([seconds], dtype=np.float32)}


class Qwen3VL(Qwen2VL):
    """Qwen3-VL: patches of 16 pixels, and in a clip a time in words before each pair of frames."""

    name: ClassVar[str] = "qwen3_vl"

    def _sampled_metadata(self, size: VideoSize) -> Any:
        return stamped_metadata(self.processor.video_processor, size)


class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL as a mixture of experts."""

    name: ClassVar[str] = "qwen3_vl_moe"


class Qwen35(Qwen3VL):
    """Qwen3.5: the processor of Qwen3-VL before another model."""

    name: ClassVar[str] = "qwen3_5"


class Qwen35Moe(Qwen35):
    """Qwen3.5 as a mixture of experts."""

    name: ClassVar[str] = "qwen3_5_moe"


def call_settings(processor: Any) -> dict[str, Any]:
    """What a processor hands its parts at every call, and its own settings; they win over the parts' settings."""
    merged: dict[str, Any] = processor._merge_kwargs(  # noqa: SLF001 - what its own call begins with
        tokenizer_init_kwargs=processor.tokenizer.init_kwargs
    )
    return merged


def refuse_ambiguous_frames(size: VideoSize) -> None:
    """Refuse a clip whose decoded frames transformers would take for something else.

    Raises:
        RefuseSample: They are 1 or 3 pixels high.
    """
    if size.frames_per_second is not None and size.height in AMBIGUOUS_HEIGHTS:
        raise RefuseSample(
            "clip-shape", f"frames {size.height} pixels high: the processor would take their rows for channels"
        )
