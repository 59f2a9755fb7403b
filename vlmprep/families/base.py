"""What all families share: rendering, tokens and labels, loading, fingerprints of what changes a token or a pixel."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmprep.families.control import control_pattern, refuse_control_text, refuse_joined_control_text
from vlmprep.families.encoding import Collapsed, PlaceholderEncoder
from vlmprep.families.images import image_loader, load_image
from vlmprep.families.turns import Rendered, TurnFinder
from vlmprep.schema.conversation import Media, Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import Encoded, Tokens
from vlmprep.schema.media import Loader, MediaCount, MediaSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["FAKE_IMAGE_SIDE", "BaseFamily"]

FAKE_IMAGE_SIDE = 56
"""Pixels; the reference's fake image, which every Qwen processor makes its smallest of."""

Result = TypeVar("Result")

COUNTS_KEPT = 65_536
"""Image sizes whose counts are remembered."""


class BaseFamily(ABC):
    """The part of the Family interface that holds for every processor of transformers.

    Args:
        processor: The model's own processor.
        keep_control_text: Let text through that holds the model's control tokens.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]]
    position_axes: ClassVar[int]

    def __init__(self, processor: Any, *, keep_control_text: bool = False) -> None:
        self.processor = processor
        self.loader: Loader = image_loader(processor.image_processor)
        self.pad_token_id = pad_token(processor.tokenizer)
        self._control_tokens = control_pattern(processor)
        self._keep_control_text = keep_control_text
        self._turns = TurnFinder(processor, self._control_tokens)
        self._encoder = PlaceholderEncoder(processor, self._control_tokens)
        self._measured = functools.lru_cache(maxsize=COUNTS_KEPT)(self._measure)

    def measure(self, size: MediaSize) -> MediaCount:
        """Count one medium from its size alone; see Family."""
        if size.kind not in self.kinds:
            raise RefuseSample("unsupported-media", f"{self.name} samples with {size.kind} are not packed yet")
        return self._measured(size.height, size.width)

    def _measure(self, height: int, width: int) -> MediaCount:
        inputs, num_patches, num_visual_tokens = self._image_inputs(height, width)
        replacement, run_lengths = self._encoder.shorten(self.processor.replace_image_token(inputs, 0))
        return MediaCount(
            num_visual_tokens=num_visual_tokens,
            num_patches=num_patches,
            replacement=replacement,
            run_lengths=run_lengths,
            inputs=inputs,
        )

    @abstractmethod
    def _image_inputs(self, height: int, width: int) -> tuple[dict[str, NDArray[Any]], int, int]:
        """What the image processor would return beside pixels for an upright image of this size in pixels.

        Returns:
            The small media inputs, the number of patches, and the number of visual tokens.

        Raises:
            RefuseSample: The processor does not take an image of this shape.
        """

    def encode(self, sample: Sample, counts: Sequence[MediaCount]) -> Encoded:
        """Render, tokenize and label one conversation; see Family."""
        (encoded,) = self.encode_all([(sample, counts)])
        if isinstance(encoded, RefuseSample):
            raise encoded
        return encoded

    def encode_all(self, samples: Sequence[tuple[Sample, Sequence[MediaCount]]]) -> list[Encoded | RefuseSample]:
        """Render, tokenize and label several conversations; see Family."""
        texts = [refusal_or(self._collapsed, sample, counts) for sample, counts in samples]
        tokenized = iter(self._encoder.tokenize([text.text for text in texts if isinstance(text, Collapsed)]))
        return [
            text if isinstance(text, RefuseSample) else refusal_or(self._labelled, text, next(tokenized))
            for text in texts
        ]

    def _collapsed(self, sample: Sample, counts: Sequence[MediaCount]) -> Collapsed:
        if self._keep_control_text:
            rendered = self._turns.render(sample)
        else:
            refuse_control_text(sample, self._control_tokens)
            rendered = self._turns.render(sample)
            refuse_joined_control_text(rendered.text, rendered.num_control_tokens, self._control_tokens)
        return self._encoder.collapse(rendered, counts, [medium.kind for medium in sample.media()])

    def _labelled(self, collapsed: Collapsed, ids: NDArray[np.int32] | RefuseSample) -> Encoded:
        if isinstance(ids, RefuseSample):
            raise ids
        encoded = self._encoder.encode(collapsed, ids)
        if encoded.num_label_tokens == 0:
            raise RefuseSample("no-label-tokens", "no token of this sample is learned")
        return encoded

    def load(self, medium: Media) -> Any:
        """Decode an image with the processor's own loader; see Family."""
        return load_image(self.processor.image_processor, medium)

    @abstractmethod
    def tensors(self, kind: str, decoded: Any) -> dict[str, NDArray[Any]]:
        """See Family."""

    def positions(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """One axis that counts from 0; see Family."""
        return np.arange(len(tokens.input_ids), dtype=np.int32)

    def fake_image(self) -> tuple[Encoded, MediaCount, Any]:
        """A white square in the template's image tokens and nothing else; see Family."""
        side = FAKE_IMAGE_SIDE
        literal = self._turns.image_literal()
        rendered = Rendered(text=literal, label_spans=(), num_control_tokens=0)
        try:
            count = self.measure(MediaSize(kind="image", height=side, width=side, num_bytes=0))
            collapsed = self._encoder.collapse(rendered, [count], ["image"])
            (ids,) = self._encoder.tokenize([collapsed.text])
            assert not isinstance(ids, RefuseSample), "a template is Unicode"
            encoded = self._encoder.encode(collapsed, ids)
        except RefuseSample as refusal:
            raise StopRun(f"the chat template writes {literal!r} for an image: {refusal.reason}") from refusal
        return encoded, count, Image.new("RGB", (side, side), (255, 255, 255))

    @abstractmethod
    def pixel_rules(self) -> dict[str, PixelRule]:
        """See Family."""

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text, control tokens shown."""
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def refusal_or(work: Callable[..., Result], *arguments: Any) -> Result | RefuseSample:
    """What some work on one sample returns, or the refusal that it raises."""
    try:
        return work(*arguments)
    except RefuseSample as refusal:
        return refusal


def pad_token(tokenizer: Any) -> int:
    """The id that fills a batch.

    Raises:
        StopRun: The tokenizer has neither a padding nor an end token.
    """
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise StopRun("the tokenizer has neither a padding nor an end-of-sequence token", "Set tokenizer.pad_token.")
    return int(token)
