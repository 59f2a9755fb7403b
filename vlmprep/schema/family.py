"""What the rest of vlmprep asks of a model family: the interface, and the data that travels over it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.conversation import Media, Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.media import Loader, MediaCount, MediaSize
from vlmprep.schema.pixels import PixelRule

__all__ = [
    "DEFAULT_MAX_CLIP_BYTES",
    "PROCESSOR_HINT",
    "Encoded",
    "Family",
    "FamilySettings",
    "Tokens",
    "check_processor",
    "is_missing",
    "is_path",
    "no_media",
]

DEFAULT_MAX_CLIP_BYTES = 2 << 30
"""Of frames in RGB, as many as the processor samples: 776 frames of 1280 x 720."""
PROCESSOR_HINT = (
    "Give a folder made by processor.save_pretrained(...) or a hub name such as Qwen/Qwen2.5-VL-7B-Instruct."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """A sample's sequence in full, before the shift."""

    input_ids: NDArray[np.int32]  # [S]
    is_label: NDArray[np.bool_]  # [S]
    mm_token_type_ids: NDArray[np.uint8]  # [S]: 0 text, 1 image, 2 video, 3 audio


def no_media() -> NDArray[np.int32]:
    """Where the media of a sequence without media lie."""
    return np.zeros((0, 2), dtype=np.int32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """A sample's sequence with every run of equal media placeholders written once: C <= S entries."""

    input_ids: NDArray[np.int32]  # [C]
    is_label: NDArray[np.bool_]  # [C]: the loss counts this token
    mm_token_type_ids: NDArray[np.uint8]  # [C]
    repeats: NDArray[np.int32]  # [C]: how often the entry stands in the sequence
    num_left_out_characters: int = 0
    """Of thoughts of earlier turns, which the chat template leaves out as it does at inference."""
    find_media: Callable[[], NDArray[np.int32] | None] = no_media
    """What `media_spans` asks."""

    @property
    def num_tokens(self) -> int:
        """Tokens before the shift."""
        return int(self.repeats.sum())

    @property
    def num_label_tokens(self) -> int:
        """Tokens that the loss counts; the shift loses none, because the first token is never one."""
        return int(self.is_label[1:].sum())

    @property
    def media_spans(self) -> NDArray[np.int32] | None:
        """Where each medium lies in the sequence in full, looked up anew at each call.

        Returns:
            [media, 2] in the conversation's order: from the first to behind the last token that template and processor write
            for it. Spans overlap where no cut may part media. None where they cannot be told.
        """
        return self.find_media()

    @property
    def first_label(self) -> int:
        """Place in the sequence in full of the first token that the loss counts; there is one."""
        entry = int(self.is_label[1:].argmax()) + 1
        return int(np.add.reduce(self.repeats[:entry]))

    def expand(self) -> Tokens:
        """Write every placeholder as often as the model wants it."""
        return Tokens(
            input_ids=np.repeat(self.input_ids, self.repeats),
            is_label=np.repeat(self.is_label, self.repeats),
            mm_token_type_ids=np.repeat(self.mm_token_type_ids, self.repeats),
        )


class Family(Protocol):
    """A model family, wrapped around the model's own Hugging Face processor."""

    @property
    def name(self) -> str:
        """As in the model's config: qwen2_5_vl."""
        ...

    @property
    def loader(self) -> Loader:
        """Which of transformers' loaders decodes the images."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of media that vlmprep packs for this family."""
        ...

    @property
    def hears_clips(self) -> bool:
        """Whether a clip's sound goes in with its frames."""
        ...

    @property
    def position_axes(self) -> int:
        """3 with mRoPE, else 1."""
        ...

    @property
    def fake_image_size(self) -> tuple[int, int]:
        """Height and width of the image that `fake_image` gives."""
        ...

    @property
    def pad_token_id(self) -> int:
        """What fills a batch behind the shorter packs."""
        ...

    @property
    def control_tokens(self) -> re.Pattern[str]:
        """Matches the model's control tokens in text."""
        ...

    def measure(self, sizes: Sequence[MediaSize]) -> list[MediaCount]:
        """Count all media of one sample from their sizes alone, in the conversation's order.

        Raises:
            RefuseSample: The processor does not take a medium of this size.
        """
        ...

    def encode(self, sample: Sample, counts: Sequence[MediaCount]) -> Encoded:
        """Render, tokenize and label one conversation.

        Args:
            sample: The conversation.
            counts: One per medium, in the conversation's order.

        Raises:
            RefuseSample: Control tokens in the text, no label token, turns that cannot be located.
        """
        ...

    def encode_all(self, samples: Sequence[tuple[Sample, Sequence[MediaCount]]]) -> list[Encoded | RefuseSample]:
        """The same for several conversations at once, which is faster; a refusal stands in its sample's place."""
        ...

    def counts_after_cut(self, counts: Sequence[MediaCount]) -> list[MediaCount]:
        """Counts of the media that a cut sample keeps, in the form in which the model takes these without the others.

        Args:
            counts: Of the kept media, as they were measured in the whole sample.
        """
        ...

    def load(self, medium: Media) -> Any:
        """Decode one medium with the processor's own loader.

        Raises:
            RefuseSample: The file does not decode.
        """
        ...

    def tensors(self, decoded: Any, count: MediaCount) -> dict[str, NDArray[Any]]:
        """The model's inputs for one decoded medium, in their stored form; those of several media join along axis 0.

        Args:
            decoded: From `load`.
            count: What was counted for this medium; its `inputs` are among the result's.

        Raises:
            RefuseSample: The processor does not take it.
        """
        ...

    def positions(self, tokens: Tokens, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """Positions of a sequence: [S], or [3, S] with mRoPE."""
        ...

    def fake_image(self) -> tuple[Encoded, MediaCount, Any]:
        """The image that stands in packs without media: its sequence, its count, and its decoded pixels."""
        ...

    def fake_tokens(self, encoded: Encoded) -> NDArray[np.bool_]:
        """Which entries of a sequence stand for the fake image that its sample got; nobody may see these.

        Args:
            encoded: Of a sample with the fake image as its only picture.

        Returns:
            [C], as `encoded` has them: all that the processor writes for it, from its first to its last added token.

        Raises:
            RefuseSample: They cannot be told from the text.
        """
        ...

    def pixel_rules(self) -> dict[str, PixelRule]:
        """How each media field becomes the processor's, for those that are stored otherwise; pixels and sound above all."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text, control tokens shown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySettings:
    """How to build a family; everything that changes a token or a pixel."""

    processor: str
    """Folder or hub name of the processor."""
    revision: str | None = None
    image_backend: Loader | None = None
    """None: the processor's own choice."""
    control_text: str = "refuse"
    """`refuse` or `keep` text that holds the model's own control tokens."""
    trust_remote_code: bool = False
    thinking_prefix: bool = False
    """Put Gemma 4's empty thinking channel in front of every answer."""
    model_config: str | None = None
    """Folder, file or hub name of the model's config; None: the processor's sibling, else the family's defaults."""
    max_clip_bytes: int = DEFAULT_MAX_CLIP_BYTES
    """Clips whose sampled frames take more, decoded, are refused."""
    options: tuple[tuple[str, Any], ...] = ()
    """Keyword arguments of the processor's from_pretrained, such as ("max_pixels", 1003520)."""


def is_path(processor: str) -> bool:
    """Whether a processor's name can be no hub name: `./p`, `/data/p`, `~/p`, `p/`, `a/b/c`."""
    return processor.startswith((".", "/", "~")) or "/" in processor.partition("/")[2] or processor.endswith("/")


def is_missing(processor: str) -> bool:
    """Whether a processor is named by a path that leads to no folder here; the hub would be asked for it in vain."""
    return is_path(processor) and not os.path.isdir(processor)


def check_processor(processor: str) -> None:
    """Look for a processor that is named by a path.

    Raises:
        StopRun: There is no such folder.
    """
    if is_missing(processor):
        raise StopRun(
            f"the processor {processor!r} cannot be loaded: there is no such folder on this machine", PROCESSOR_HINT
        )
