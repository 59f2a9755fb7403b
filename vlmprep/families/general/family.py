"""A family that nobody wrote code for: everything is asked of the model's own processor.

Media are counted by running the processor on pixels that are not there (PyTorch's meta device), which depends on sizes
alone; where a processor looks at pixels on its way, on black ones, which takes as long as the real thing. Tensors are stored
as the processor returns them, as 8-bit levels where trying shows that they are plain arithmetic of levels. What the general
way rests on is tried on noise when the family is made, and refused by name where it does not hold.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmprep.families.base import BaseFamily, Expected
from vlmprep.families.general.found_rules import level_planes, restored
from vlmprep.families.general.joins import counts_field, counts_of, unjoined
from vlmprep.families.general.models import model_types, refuse_own_positions
from vlmprep.families.general.own_media import OwnMedia
from vlmprep.families.general.own_run import OwnRun, UnreadableRun
from vlmprep.families.general.probes import noise_clips, noise_images, refuse_other_sequences
from vlmprep.families.general.trial import Field, find_fields
from vlmprep.families.general.work import picture_work
from vlmprep.families.media.clips import clip_metadata, sampled_frames
from vlmprep.families.wording import first_line
from vlmprep.schema.conversation import MediaKind
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import ImageSize, MediaCount, MediaSize, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["GeneralFamily", "general_family"]

LOG = logging.getLogger("vlmprep")
PARTS: dict[MediaKind, str] = {"image": "image_processor", "video": "video_processor"}
"""Where a processor keeps what works on each kind that the general way packs."""


def general_family(processor: Any, config: Any = None, *, keep_control_text: bool = False) -> GeneralFamily:
    """A family for a processor that has none of its own.

    Args:
        processor: The model's own.
        config: The model's config, or None.
        keep_control_text: Let text through that holds the model's control tokens.

    Raises:
        StopRun: The model computes positions of its own, or the processor is none that the general way can pack.
    """
    refuse_own_positions(processor, config)
    return GeneralFamily(processor, config, keep_control_text=keep_control_text)


class GeneralFamily(BaseFamily):
    """Any processor of transformers with the replacement hooks and a chat template, tried when it is made.

    Args:
        processor: The model's own.
        config: The model's config, or None; it names the family, and its digest goes into the fingerprint.
        keep_control_text: Let text through that holds the model's control tokens.

    Raises:
        StopRun: The processor does not do what the general way rests on.
    """

    name: str  # type: ignore[misc]  # a property of the processor here, not of the class
    kinds: frozenset[MediaKind]  # type: ignore[misc]
    position_axes = 1

    def __init__(self, processor: Any, config: Any = None, *, keep_control_text: bool = False) -> None:
        self.name = getattr(config, "model_type", None) or name_of(processor)
        super().__init__(processor, keep_control_text=keep_control_text)
        self.config = config
        self.kinds = frozenset({"image"})
        self._media = OwnMedia(processor, self.loader)
        self._fields: dict[str, dict[str, Field]] = {"image": self._tried_images()}
        self.unpacked: dict[str, str] = {}
        """Kinds that the processor knows and the general way does not pack, with the reason."""
        if has_video(processor):
            self._try_videos()
        if getattr(processor, "audio_token", None) is not None:
            self._leave_out("audio", "the general way has no sounds")
        try:
            refuse_other_sequences(self, processor)
        except UnreadableRun as problem:
            raise self._unpackable(problem) from problem

    def _unpackable(self, problem: UnreadableRun) -> StopRun:
        return StopRun(
            f"{type(self.processor).__name__} cannot be packed the general way: {problem}",
            "Packing this model needs a family of its own in vlmprep.families.",
        )

    def _tried_images(self) -> dict[str, Field]:
        """What the processor makes of images.

        Raises:
            StopRun: It cannot be packed.
        """
        media, others = noise_images(self.loader, seed=0), noise_images(self.loader, seed=1)
        try:
            fields = find_fields(
                lambda m, way: self._media.run("image", m, way), media, others, self.processor.image_processor
            )
            self._media.try_blanks("image", media)
        except UnreadableRun as problem:
            raise self._unpackable(problem) from problem
        except Exception as error:  # whatever a processor stumbles over on plain images
            raise self._unpackable(UnreadableRun(f"it fails on noise: {first_line(error)}")) from error
        return fields

    def _try_videos(self) -> None:
        """Find out what the processor makes of clips, or why they are not packed."""
        part = self.processor.video_processor
        try:
            media = noise_clips(part, seed=0)
            fields = find_fields(
                lambda m, way: self._media.run("video", m, way), media, noise_clips(part, seed=1), part
            )
            self._media.refuse_other_frames(media, noise_clips(part, seed=0, sampled=False))
            self._media.try_blanks("video", media)
        except UnreadableRun as problem:
            return self._leave_out("video", str(problem))
        except Exception as error:  # noqa: BLE001 - likewise; images alone are packed then
            return self._leave_out("video", f"it fails on noise: {first_line(error)}")
        if clash := [
            name for name in fields if self._fields["image"].get(name, fields[name]).rule != fields[name].rule
        ]:
            return self._leave_out("video", f"its {clash[0]} lies otherwise for clips than for images")
        self._fields["video"] = fields
        self.kinds = self.kinds | {"video"}
        return None

    def _leave_out(self, kind: MediaKind, reason: str) -> None:
        """Samples with this kind are refused; why is said once."""
        self.unpacked[kind] = reason
        LOG.warning("%s: samples with %s are not packed: %s", type(self.processor).__name__, kind, reason)

    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        return self._expected("image", self._media.blank_image(size.height, size.width), size, num_alike)

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        metadata = clip_metadata(size)
        metadata.frames_indices = sampled_frames(self.processor.video_processor, metadata)
        blank = self._media.blank_clip(metadata, len(metadata.frames_indices), size.height, size.width)
        return self._expected("video", blank, size, num_alike)

    def _expected(self, kind: MediaKind, blank: Any, size: MediaSize, num_alike: int) -> Expected:
        try:
            one = self._media.run(kind, [blank])
            alike = one if num_alike == 1 else self._media.run(kind, [blank] * num_alike)
        except Exception as error:  # processors refuse sizes in their own ways
            raise RefuseSample("media-shape", f"the processor does not take {size}: {first_line(error)}") from error
        self._refuse_company(kind, one, alike, num_alike)
        stored = self._stored(kind, one)
        pixel_field = "pixel_values_videos" if kind == "video" else "pixel_values"
        pixels = stored.get(pixel_field)
        return Expected(
            inputs={name: tensor.numpy() for name, tensor in stored.items() if self._is_from_size(kind, name, tensor)},
            num_patches=max(map(len, stored.values())) if pixels is None else len(pixels),
            stored_bytes=sum(self._stored_bytes(kind, name, tensor) for name, tensor in stored.items()),
            work=picture_work(pixels, self._fields[kind].get(pixel_field)),
            hints={"replacement": one.replacements[0]},
        )

    def _refuse_company(self, kind: MediaKind, one: OwnRun, alike: OwnRun, num_alike: int) -> None:
        """Refuse a medium that the processor treats otherwise beside others of its kind than alone.

        Raises:
            RefuseSample: It does.
        """
        same = alike.replacements == one.replacements * num_alike
        for name, field in self._fields[kind].items():
            if name in one.tensors and field.join.way == "rows":
                same = same and len(alike.tensors[name]) == len(one.tensors[name]) * num_alike
        if not same:
            raise RefuseSample(
                "depends-on-company",
                f"the processor makes something else of a {kind} among {num_alike} than of one alone",
            )

    def _is_from_size(self, kind: MediaKind, name: str, tensor: Tensor) -> bool:
        field = self._fields[kind].get(name)
        return not tensor.is_meta and (field is None or field.from_size)

    def _stored_bytes(self, kind: MediaKind, name: str, tensor: Tensor) -> int:
        field = self._fields[kind].get(name)
        if field is None or field.levels is None:
            return tensor.nbytes
        return tensor.numel() // field.levels.repeat

    def _stored(self, kind: MediaKind, run: OwnRun) -> dict[str, Tensor]:
        """What one medium's run gives, in the form that packs join; levels still in the processor's shape.

        Raises:
            RefuseSample: Not what was tried.
        """
        stored: dict[str, Tensor] = {}
        for name, tensor in run.tensors.items():
            field = self._fields[kind].get(name)
            if field is None:
                raise RefuseSample(
                    "unknown-field", f"the processor returns {name} for this {kind}, and none when tried"
                )
            try:
                stored[name] = unjoined(tensor, field.join)
            except ValueError as error:
                raise RefuseSample("media-shape", f"{name} of this {kind}: {error}") from error
            if tuple(stored[name].shape[1:]) != field.item_shape:
                raise RefuseSample(
                    "media-shape",
                    f"{name} of this {kind} has items of {tuple(stored[name].shape[1:])}, others of {field.item_shape}",
                )
            if (counts := counts_field(name, field.join)) is not None:
                stored[counts] = counts_of(tensor, field.join)
        return stored

    def _replacement(self, kind: MediaKind, expected: Expected) -> str:
        return str(expected.hints["replacement"])

    def _count(self, kind: MediaKind, expected: Expected, num_alike: int) -> MediaCount:
        """As for any family; where a processor names no token that the model fills, it is the one it repeats most."""
        count = super()._count(kind, expected, num_alike)
        if count.num_visual_tokens or kind == "audio":
            return count
        tokens = Counter(self.processor.tokenizer(count.replacement, add_special_tokens=False)["input_ids"])
        return replace(count, num_visual_tokens=max(tokens.values(), default=0))

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """What the processor returns for one decoded medium; see Family.

        Raises:
            RefuseSample: The processor does not take it, or does not find it 8 bits deep.
        """
        kind = count.kind
        try:
            made = self._media.run(kind, [decoded])
            whole = self._stored(kind, made)
            levels = self._stored(kind, self._media.run(kind, [decoded], "levels")) if self._has_levels(kind) else {}
        except RefuseSample:
            raise
        except Exception as error:  # likewise
            raise RefuseSample(
                "media-shape", f"the processor does not take this {kind}: {first_line(error)}"
            ) from error
        if self._encoder.shorten(made.replacements[0]) != (count.replacement, count.run_lengths):
            raise RefuseSample("depends-on-pixels", f"what the processor writes for this {kind} depends on its pixels")
        return {name: self._array(kind, name, tensor, levels.get(name)) for name, tensor in whole.items()}

    def _has_levels(self, kind: MediaKind) -> bool:
        return any(field.levels is not None for field in self._fields[kind].values())

    def _array(self, kind: MediaKind, name: str, whole: Tensor, levels: Tensor | None) -> NDArray[Any]:
        """A field's stored form; levels only where the rule turns them into the processor's very numbers."""
        field = self._fields[kind].get(name)
        if field is None or field.levels is None:
            plain = whole.contiguous()
            return np.asarray((plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy())
        part = getattr(self.processor, PARTS[kind])
        planes = None if levels is None else level_planes(levels, field.levels, getattr(part, "patch_size", None))
        if planes is None or not torch.equal(restored(planes, field.levels).reshape(whole.shape), whole):
            raise RefuseSample(
                "not-eight-bit", f"{name} of this {kind} is not made of 8-bit levels, as it was when tried"
            )
        return np.asarray(planes.numpy())

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How stored fields become the processor's, for those that are stored otherwise; and all floats."""
        rules: dict[str, PixelRule] = {}
        for fields in self._fields.values():
            for name, field in fields.items():
                if field.rule is not None:
                    rules[name] = field.rule
                elif not field.from_size:
                    rules[name] = PixelRule(arithmetic="stored", layout="stored")
        return rules


def name_of(processor: Any) -> str:
    """What a family is called after its processor: the model's type, where transformers knows it."""
    types = model_types(processor)
    return types[0] if types else type(processor).__name__.removesuffix("Processor").lower()


def has_video(processor: Any) -> bool:
    """Whether a processor takes clips."""
    return (
        getattr(processor, "video_processor", None) is not None and getattr(processor, "video_token", None) is not None
    )
