"""One sample as the model reads it: its sequence after the shift, its positions and its media inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmprep.schema.conversation import Media, MediaKind, Sample
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.fake_image import FAKE_IMAGE, with_fake_image
from vlmprep.schema.family import Encoded, Family
from vlmprep.schema.media import ImageSize, Loader, MediaCount, MediaSize
from vlmprep.schema.packset import IGNORE_INDEX
from vlmprep.shardformat.packinfo import DecodedInfo

__all__ = ["Document", "HeaderReader", "Medium", "build_document", "build_fake_document", "check_media", "size_of"]


class HeaderReader(Protocol):
    """Looks at media without decoding them."""

    def size(self, medium: Media, loader: Loader, *, with_sound: bool = False) -> MediaSize:
        """Raises RefuseSample for a medium that cannot be used."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Medium:
    """One medium of a document."""

    kind: MediaKind
    shape: tuple[int, ...]
    """What the original's header says: an image's (height, width), a clip's (frames, height, width), a sound's
    (samples, samples per second)."""
    num_placeholders: int
    """Tokens of the sequence that it fills."""
    num_visual_tokens: int
    """Those of them that the vision encoder fills."""
    num_framing: int
    """Tokens beside them that are typed as its own."""
    tensors: dict[str, NDArray[Any]]
    """The model's inputs, as stored."""
    fake: bool = False
    """No medium of the sample's own: the white image that keeps the vision encoder running."""
    source: Media | None = None
    """Where it came from; None for a fake image that is a document of its own."""
    files: tuple[int, ...] = ()
    """Bytes of each of its original files, where packs hold these instead of pixels."""
    decoded: Mapping[str, DecodedInfo] = field(default_factory=dict)
    """What they decode to, by field."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Document:
    """One document of a pack, S tokens after the shift."""

    input_ids: NDArray[np.int32]  # [S]
    labels: NDArray[np.int32]  # [S]: the next token where the loss counts it, else -100
    position_ids: NDArray[np.int32]  # [S] or [3, S]
    mm_token_type_ids: NDArray[np.uint8]  # [S]
    media: tuple[Medium, ...]
    """In the conversation's order."""
    num_visual_tokens: int
    hidden: NDArray[np.bool_]  # [S]: nobody may see this token: a fake image's inside the sample
    lost_media: bool = False
    """Whether a cut left media of the sample out."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_label_tokens(self) -> int:
        """Tokens that the loss counts."""
        return int(np.count_nonzero(self.labels != IGNORE_INDEX))


def build_document(
    sample: Sample,
    *,
    family: Family,
    media: HeaderReader,
    num_tokens: int,
    white: Image.Image | None = None,
    keep_tokens: int | None = None,
) -> Document:
    """Tokenize a sample, decode its media and shift its labels.

    A sample that is to be cut is tokenized and placed as a whole; media behind the cut are not decoded.

    Args:
        sample: The conversation.
        family: The model's family.
        media: Checks headers before anything is decoded.
        num_tokens: What was counted for this sample, before the shift; with the fake image, where it gets one.
        white: The family's fake image, for a sample without pictures that gets it into its first user turn.
        keep_tokens: How many of its tokens are kept, before the shift; None: all.

    Raises:
        RefuseSample: A medium does not decode, the sample is no longer what was counted, or it cannot be cut there.
    """
    sample = sample if white is None else with_fake_image(sample)
    all_media = sample.media()
    sizes = tuple(
        size_of(white)
        if white and medium is FAKE_IMAGE
        else media.size(medium, family.loader, with_sound=family.hears_clips)
        for medium in all_media
    )
    counts = family.measure(sizes)
    encoded = family.encode(sample, counts)
    if encoded.num_tokens != num_tokens:
        raise RefuseSample(
            "changed-since-estimate",
            f"{num_tokens} tokens were counted, {encoded.num_tokens} are there now: media changed since `vlmprep estimate`",
        )
    kept = _kept(encoded, len(counts), keep_tokens)
    stay = counts if len(kept) == len(counts) else family.counts_after_cut([counts[at] for at in kept])
    loaded = tuple(
        _medium(sizes[at], count, _checked_tensors(family, all_media[at], count, white), all_media[at])
        for at, count in zip(kept, stay, strict=True)
    )
    document = _document(encoded, counts, loaded, family, keep_tokens)
    return document if white is None else _with_hidden(document, [all_media[at] for at in kept], encoded, family)


def check_media(sample: Sample, counts: Sequence[MediaCount], family: Family) -> None:
    """Decode a sample's media as `build_document` does, one at a time, and keep nothing.

    Args:
        sample: The conversation.
        counts: One per medium, in the conversation's order.
        family: The model's family.

    Raises:
        RefuseSample: For what `build_document` would refuse its media.
    """
    for medium, count in zip(sample.media(), counts, strict=True):
        _checked_tensors(family, medium, count, None)


def build_fake_document(family: Family) -> Document:
    """The white image that stands in a pack without media, as a document of its own without labels."""
    encoded, count, pixels = family.fake_image()
    medium = replace(_medium(size_of(pixels), count, family.tensors(pixels, count)), fake=True)
    return _document(encoded, [count], (medium,), family)


def size_of(white: Image.Image) -> ImageSize:
    """The size of a fake image, which has no file."""
    return ImageSize(height=white.height, width=white.width, num_bytes=0)


def _with_hidden(document: Document, all_media: Sequence[Media], encoded: Encoded, family: Family) -> Document:
    """A document whose fake image is marked, and its tokens hidden.

    Raises:
        RefuseSample: The document would begin with hidden tokens, which readers of `attention_mask` give to the one before it.
    """
    hidden = np.repeat(family.fake_tokens(encoded), encoded.repeats)
    if hidden[0]:
        raise RefuseSample(
            "no-fake-image", "the chat template writes nothing before the fake image, which would hide its start"
        )
    assert not np.repeat(encoded.is_label, encoded.repeats)[hidden].any(), "a user's turn is never learned"
    marked = (
        replace(medium, fake=given is FAKE_IMAGE) for given, medium in zip(all_media, document.media, strict=True)
    )
    return replace(document, hidden=hidden[: len(document)], media=tuple(marked))


def _kept(encoded: Encoded, num_media: int, keep_tokens: int | None) -> list[int]:
    """Which media a document of the first tokens of a sample holds, by their place in the conversation.

    Raises:
        RefuseSample: The cut would fall into a medium, or leave no label.
    """
    if keep_tokens is None:
        return list(range(num_media))
    if (spans := encoded.media_spans) is None:
        raise RefuseSample(
            "overlong", "where it may be cut cannot be told: its text does not show where its media begin"
        )
    if (cut_through := np.flatnonzero((spans[:, 0] < keep_tokens) & (keep_tokens <= spans[:, 1]))).size:
        raise RefuseSample("overlong", f"a cut behind {keep_tokens} tokens falls into its medium {cut_through[0] + 1}")
    if encoded.first_label >= keep_tokens:
        raise RefuseSample("overlong", f"cut behind {keep_tokens} tokens it has no label token")
    return [int(at) for at in np.flatnonzero(spans[:, 1] < keep_tokens)]


def _medium(
    size: MediaSize, count: MediaCount, tensors: dict[str, NDArray[Any]], source: Media | None = None
) -> Medium:
    return Medium(
        kind=size.kind,
        shape=size.shape,
        num_placeholders=count.num_placeholders,
        num_visual_tokens=count.num_visual_tokens,
        num_framing=count.num_framing,
        tensors=tensors,
        source=source,
    )


def _checked_tensors(
    family: Family, medium: Media, count: MediaCount, white: Image.Image | None
) -> dict[str, NDArray[Any]]:
    tensors = family.tensors(white if medium is FAKE_IMAGE else family.load(medium), count)
    for name, expected in count.inputs.items():
        if not np.array_equal(tensors[name], expected):
            raise RefuseSample(
                "lying-header",
                f"{medium.where}: {name} is {tensors[name].tolist()}, its header promised {expected.tolist()}",
            )
    return tensors


def _document(
    encoded: Encoded,
    counts: Sequence[MediaCount],
    media: tuple[Medium, ...],
    family: Family,
    keep_tokens: int | None = None,
) -> Document:
    """A document of a sample, or of its first tokens.

    Args:
        encoded: The whole sample.
        counts: Of all its media, which places the tokens behind them.
        media: Those that the document holds.
        family: The model's family.
        keep_tokens: How many tokens it has, before the shift; None: all.
    """
    tokens = encoded.expand()
    names = dict.fromkeys(name for count in counts for name in count.inputs)
    inputs = {name: np.concatenate([count.inputs[name] for count in counts if name in count.inputs]) for name in names}
    positions = family.positions(tokens, inputs)
    labels = np.where(tokens.is_label, tokens.input_ids, np.int32(IGNORE_INDEX))
    end = len(tokens.input_ids) if keep_tokens is None else keep_tokens
    return Document(
        input_ids=tokens.input_ids[: end - 1],
        labels=labels[1:end],
        position_ids=positions[..., : end - 1],
        mm_token_type_ids=tokens.mm_token_type_ids[: end - 1],
        media=media,
        num_visual_tokens=sum(medium.num_visual_tokens for medium in media),
        hidden=np.zeros(end - 1, dtype=np.bool_),
        lost_media=len(media) < len(counts),
    )
