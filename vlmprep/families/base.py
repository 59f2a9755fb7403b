"""What all families share: rendering, tokens and labels, loading, fingerprints of what changes a token or a pixel."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmprep.families.media.clips import load_clip, refuse_large_clip
from vlmprep.families.media.fake_image import place_of, written_tokens
from vlmprep.families.media.images import image_loader, load_image
from vlmprep.families.media.sounds import load_sound, sampling_rate_of
from vlmprep.families.text.control import control_pattern, refuse_control_text, refuse_joined_control_text
from vlmprep.families.text.encoding import Collapsed, PlaceholderEncoder, filled_tokens
from vlmprep.families.text.turns import Rendered, TurnFinder
from vlmprep.schema.conversation import Media, MediaKind, Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import DEFAULT_MAX_CLIP_BYTES, Encoded, Tokens
from vlmprep.schema.media import NO_WORK, AudioSize, EncoderWork, ImageSize, Loader, MediaCount, MediaSize, VideoSize
from vlmprep.schema.pixels import PixelRule

__all__ = ["FAKE_IMAGE_SIDE", "BaseFamily", "Expected"]

FAKE_IMAGE_SIDE = 56
"""Pixels; the reference's fake image, which every Qwen processor makes its smallest of."""

Result = TypeVar("Result")

COUNTS_KEPT = 65_536
"""Sizes of each kind whose counts are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expected:
    """What a processor would return for one medium, as far as its size says it."""

    inputs: dict[str, NDArray[Any]]
    """Inputs of the model that depend on the size alone."""
    num_patches: int = 0
    """Rows of the pixel field."""
    stored_bytes: int
    """Bytes of its tensors in a pack, before compression."""
    work: EncoderWork = NO_WORK
    """What the encoders have to do for it."""
    hints: dict[str, Any] = field(default_factory=dict)
    """What the processor's replacement of a placeholder reads beside `inputs`, and the model does not get."""


class BaseFamily(ABC):
    """The part of the Family interface that holds for every processor of transformers.

    Args:
        processor: The model's own processor.
        keep_control_text: Let text through that holds the model's control tokens.
    """

    name: ClassVar[str]
    kinds: ClassVar[frozenset[str]]
    position_axes: ClassVar[int]
    max_clip_bytes: int = DEFAULT_MAX_CLIP_BYTES
    """Clips whose sampled frames take more, decoded, are refused."""

    def __init__(self, processor: Any, *, keep_control_text: bool = False) -> None:
        self.processor = processor
        self.loader: Loader = image_loader(processor.image_processor)
        self.pad_token_id = pad_token(processor.tokenizer)
        self.fake_image_size: tuple[int, int] = (FAKE_IMAGE_SIDE, FAKE_IMAGE_SIDE)  # height, width
        self.control_tokens = control_pattern(processor)
        self._keep_control_text = keep_control_text
        self._turns = TurnFinder(processor, self.control_tokens)
        self._encoder = PlaceholderEncoder(processor, self.control_tokens)
        kept = functools.lru_cache(maxsize=COUNTS_KEPT)
        self._measured_image = kept(self._measure_image)
        self._measured_video = kept(self._measure_video)
        self._measured_audio = kept(self._measure_audio)

    @property
    def hears_clips(self) -> bool:
        """Whether a clip's sound goes in with its frames; see Family."""
        return False

    def measure(self, sizes: Sequence[MediaSize]) -> list[MediaCount]:
        """Count the media of one sample from their sizes alone; see Family."""
        alike = Counter(size.kind for size in sizes)
        return [self._measure(size, alike[size.kind]) for size in sizes]

    def _measure(self, size: MediaSize, num_alike: int) -> MediaCount:
        if size.kind not in self.kinds:
            raise RefuseSample("unsupported-media", f"{self.name} samples with {size.kind} are not packed")
        if isinstance(size, ImageSize):
            return self._measured_image(size.height, size.width, num_alike)
        if isinstance(size, VideoSize):
            audio = size.audio and (size.audio.num_samples, size.audio.sampling_rate)
            return self._measured_video(
                size.num_frames, size.frames_per_second, size.height, size.width, audio, num_alike
            )
        return self._measured_audio(size.num_samples, size.sampling_rate, num_alike)

    def _measure_image(self, height: int, width: int, num_alike: int) -> MediaCount:
        size = ImageSize(height=height, width=width, num_bytes=0)
        return self._count("image", self._image_inputs(size, num_alike), num_alike)

    def _measure_video(
        self,
        num_frames: int,
        frames_per_second: float | None,
        height: int,
        width: int,
        audio: tuple[int, int] | None,
        num_alike: int,
    ) -> MediaCount:
        sound = audio and AudioSize(num_samples=audio[0], sampling_rate=audio[1], num_bytes=0)
        size = VideoSize(
            num_frames=num_frames,
            frames_per_second=frames_per_second,
            height=height,
            width=width,
            num_bytes=0,
            audio=sound,
        )
        refuse_large_clip(self.processor.video_processor, size, self.max_clip_bytes)
        return self._count("video", self._video_inputs(size, num_alike), num_alike)

    def _measure_audio(self, num_samples: int, sampling_rate: int, num_alike: int) -> MediaCount:
        size = AudioSize(num_samples=num_samples, sampling_rate=sampling_rate, num_bytes=0)
        return self._count("audio", self._audio_inputs(size, num_alike), num_alike)

    def _count(self, kind: MediaKind, expected: Expected, num_alike: int) -> MediaCount:
        replacement, run_lengths = self._encoder.shorten(self._replacement(kind, expected))
        return MediaCount(
            kind=kind,
            num_visual_tokens=self._encoder.num_visual_tokens(replacement, run_lengths),
            num_patches=expected.num_patches,
            stored_bytes=expected.stored_bytes,
            replacement=replacement,
            run_lengths=run_lengths,
            inputs=expected.inputs,
            work=expected.work,
            num_alike=num_alike,
            num_framing=self._encoder.num_framing(replacement),
        )

    def _replacement(self, kind: MediaKind, expected: Expected) -> str:
        """What the processor writes for one medium."""
        replace = getattr(self.processor, f"replace_{kind}_token")
        return str(replace({**expected.inputs, **expected.hints}, 0))

    @abstractmethod
    def _image_inputs(self, size: ImageSize, num_alike: int) -> Expected:
        """What the image processor would return for an upright image among so many images of a sample.

        Raises:
            RefuseSample: The processor does not take an image of this shape.
        """

    def _video_inputs(self, size: VideoSize, num_alike: int) -> Expected:
        """The same for a clip, by the family's own sampling of its frames."""
        raise NotImplementedError

    def _audio_inputs(self, size: AudioSize, num_alike: int) -> Expected:
        """The same for a sound."""
        raise NotImplementedError

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
        kinds = [medium.kind for medium in sample.media()]
        literals: dict[str, str] = {kind: self._turns_of(sample).media_literal(kind) for kind in kinds}
        return self._encoder.collapse(self._rendered(sample), counts, kinds, literals)

    def _rendered(self, sample: Sample) -> Rendered:
        if self._keep_control_text:
            return self._turns_of(sample).render(sample)
        refuse_control_text(sample, self.control_tokens)
        rendered = self._turns_of(sample).render(sample)
        refuse_joined_control_text(rendered.text, rendered.num_control_tokens, self.control_tokens)
        return rendered

    def _turns_of(self, sample: Sample) -> TurnFinder:
        """What renders a sample; families whose processor has a template of its own for some samples say which."""
        return self._turns

    def _labelled(self, collapsed: Collapsed, ids: NDArray[np.int32] | RefuseSample) -> Encoded:
        if isinstance(ids, RefuseSample):
            raise ids
        encoded = self._encoder.encode(collapsed, ids)
        if encoded.num_label_tokens == 0:
            raise RefuseSample("no-label-tokens", "no token of this sample is learned")
        return encoded

    def counts_after_cut(self, counts: Sequence[MediaCount]) -> list[MediaCount]:
        """As they are; see Family."""
        return list(counts)

    def load(self, medium: Media) -> Any:
        """Decode a medium with the processor's own loader; see Family."""
        if medium.kind == "video":
            return load_clip(self.processor.video_processor, medium)
        if medium.kind == "audio":
            return load_sound(medium, sampling_rate_of(self.processor))
        return load_image(self.processor.image_processor, medium)

    @abstractmethod
    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """See Family."""

    def positions(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """One axis that counts from 0; see Family."""
        return np.arange(len(tokens.input_ids), dtype=np.int32)

    def fake_image(self) -> tuple[Encoded, MediaCount, Any]:
        """A white image in the template's image tokens and nothing else; see Family."""
        height, width = self.fake_image_size
        encoded, count, text = self._fake_sequence
        if text.endswith(tuple(filled_tokens(self.processor))):
            encoded = with_token_behind(encoded, self.pad_token_id)
        return encoded, count, Image.new("RGB", (width, height), (255, 255, 255))

    def fake_tokens(self, encoded: Encoded) -> NDArray[np.bool_]:
        """Which entries of a sequence are the fake image's that its sample got; see Family."""
        alone = self._fake_sequence[0]
        written = written_tokens(self.processor.tokenizer, alone.input_ids.tolist())
        ids, repeats = alone.input_ids[written], alone.repeats[written]
        at = place_of(ids, encoded.input_ids)
        if at is None or not np.array_equal(encoded.repeats[at : at + len(ids)], repeats):
            raise RefuseSample("no-fake-image", "the tokens of the fake image cannot be told from those of the text")
        hidden = np.zeros(len(encoded.input_ids), dtype=np.bool_)
        hidden[at : at + len(ids)] = True
        return hidden

    @functools.cached_property
    def _fake_sequence(self) -> tuple[Encoded, MediaCount, str]:
        """The sequence of a white image by itself, its count, and the text that it is the sequence of."""
        height, width = self.fake_image_size
        literal = self._turns.image_literal()
        rendered = Rendered(text=literal, label_spans=(), num_control_tokens=0)
        try:
            (count,) = self.measure([ImageSize(height=height, width=width, num_bytes=0)])
            collapsed = self._encoder.collapse(rendered, [count], ["image"])
            (ids,) = self._encoder.tokenize([collapsed.text])
            assert not isinstance(ids, RefuseSample), "a template is Unicode"
            return self._encoder.encode(collapsed, ids), count, collapsed.text
        except RefuseSample as refusal:
            raise StopRun(f"the chat template writes {literal!r} for an image: {refusal.reason}") from refusal

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


def with_token_behind(encoded: Encoded, token: int) -> Encoded:
    """A sequence and one token of text more: the shift cuts the last token off, which must not be a placeholder."""
    return replace(
        encoded,
        input_ids=np.append(encoded.input_ids, np.int32(token)),
        is_label=np.append(encoded.is_label, False),
        mm_token_type_ids=np.append(encoded.mm_token_type_ids, np.uint8(0)),
        repeats=np.append(encoded.repeats, np.int32(1)),
    )


def pad_token(tokenizer: Any) -> int:
    """The id that fills a batch.

    Raises:
        StopRun: The tokenizer has neither a padding nor an end token.
    """
    token = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise StopRun("the tokenizer has neither a padding nor an end-of-sequence token", "Set tokenizer.pad_token.")
    return int(token)
