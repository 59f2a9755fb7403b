"""One pack, read back into documents, media and text, with what is trained on told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vlmprep.pipeline.inspect.decoder import Decoder, find_decoder
from vlmprep.pipeline.inspect.packset import open_packset
from vlmprep.pipeline.places import local_folder
from vlmprep.pipeline.recognize import Kind, recognize
from vlmprep.schema.errors import StopRun
from vlmprep.schema.packset import IGNORE_INDEX, shard_name
from vlmprep.shardformat.errors import broken_pack
from vlmprep.shardformat.index import PackIndex
from vlmprep.shardformat.members import Array
from vlmprep.shardformat.pack import check_digest, decode_pack
from vlmprep.shardformat.packinfo import PackInfo, SampleRef
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.urls import is_url

__all__ = ["DocumentView", "MediumView", "PackView", "Span", "view_pack"]

Role: TypeAlias = Literal["text", "control", "media", "ids"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A run of a document's tokens as text."""

    text: str
    role: Role
    """`ids`: numbers, where there is no tokenizer."""
    trained: bool
    """The loss counts these tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumView:
    """One medium of a document."""

    kind: str
    shape: tuple[int, ...]
    """Of the original, as in MediumInfo."""
    num_tokens: int
    """Placeholders that it fills."""
    fake: bool = False
    """A white image that nobody sees."""

    @property
    def name(self) -> str:
        """What it is, in words: `image 640x480`, `video 640x480 40 frames`, `audio 3.2 s`."""
        match self.kind, self.shape:
            case "image", (height, width):
                return f"{'fake ' if self.fake else ''}image {width}x{height}"
            case "video", (frames, height, width):
                return f"video {width}x{height} {frames} frames"
            case "audio", (samples, rate) if rate:
                return f"audio {samples / rate:.1f} s"
        return self.kind

    def __str__(self) -> str:
        return f"{self.name}, {self.num_tokens} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentView:
    """One document of a pack; tokens after the shift."""

    number: int
    """1..n; 0 for the fake image."""
    sample: SampleRef | None
    """Where it came from; None for the fake image."""
    num_tokens: int
    num_label_tokens: int
    media: tuple[MediumView, ...]
    spans: tuple[Span, ...]
    """Its tokens in order, with the one behind the end that the shift dropped, where it is trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackView:
    """One pack."""

    packset: str
    pack_id: int
    shard: str
    num_bytes: int
    pack_size: int
    num_tokens: int
    num_visual_tokens: int
    num_label_tokens: int
    documents: tuple[DocumentView, ...]
    """The fake image's last, where there is one."""
    note: str
    """What a person should know about the text; empty if nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """The L tokens of one document, and the one that the shift dropped where its label tells it."""

    input_ids: NDArray[np.int32]
    types: NDArray[np.uint8]
    trained: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive tokens of one type that are all trained on or all not."""

    place: slice
    type: int
    """As in mm_token_type_ids."""
    trained: bool

    @property
    def num_tokens(self) -> int:
        """How many tokens they are."""
        return int(self.place.stop - self.place.start)


def view_pack(
    place: Path | str, pack_id: int, processor: str | None = None, *, trust_remote_code: bool = False
) -> PackView:
    """Read one pack of a complete pack set.

    Args:
        place: The pack set, a folder or a URL.
        pack_id: The pack's number.
        processor: Folder or hub name of the processor whose tokenizer reads the text; None: what the pack set names.
        trust_remote_code: Run code that comes with the processor.

    Raises:
        StopRun: There is no such pack set or pack, or it is broken.
    """
    root = local_folder(place)
    if (kind := recognize(root).kind) is not Kind.PACKSET:
        raise StopRun(f"--pack {pack_id} shows a pack of a pack set, {place} is a {kind}")
    manifest, index = open_packset(root)
    if not 0 <= pack_id < len(index):
        raise StopRun(f"--pack {pack_id}: {place} has packs 0 to {len(index) - 1}")
    info, fields = read_pack(place, index, pack_id)
    decoder, note = find_decoder(manifest, processor, trust_remote_code=trust_remote_code)
    return PackView(
        packset=str(place),
        pack_id=pack_id,
        shard=shard_name(int(index.shard[pack_id])),
        num_bytes=int(index.size[pack_id]),
        pack_size=manifest.pack_size,
        num_tokens=int(index.num_tokens[pack_id]),
        num_visual_tokens=int(index.num_visual_tokens[pack_id]),
        num_label_tokens=int(index.num_label_tokens[pack_id]),
        documents=tuple(documents_of(info, fields, decoder)),
        note=note,
    )


def read_pack(place: Path | str, index: PackIndex, pack_id: int) -> tuple[PackInfo, dict[str, Array]]:
    """One pack's own account and its tensors, the digest checked.

    Raises:
        BrokenPack: The bytes are not what the writer wrote.
    """
    shard, size = shard_name(int(index.shard[pack_id])), int(index.size[pack_id])
    try:
        raw = memoryview(_part(place, shard, int(index.offset[pack_id]), size))
    except OSError as error:
        raise broken_pack(shard, pack_id, f"the shard cannot be read: {error.strerror or error}") from error
    check_digest(raw, int(index.xxh3[pack_id]), shard=shard, pack_id=pack_id)
    return decode_pack(raw, shard=shard, pack_id=pack_id)


def _part(place: Path | str, shard: str, offset: int, size: int) -> bytes:
    if is_url(str(place)):
        return StoreFolder(str(place)).read_range(shard, offset, size)
    with (Path(place) / shard).open("rb") as file:
        file.seek(offset)
        return file.read(size)


def documents_of(info: PackInfo, fields: dict[str, Array], decoder: Decoder | None) -> Iterator[DocumentView]:
    """Every document of a pack, the fake image's last."""
    lengths = info.all_lengths
    ends = np.cumsum(lengths)
    documents = [_tokens(fields, slice(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    runs = [_runs(tokens) for tokens in documents]
    for number, (tokens, own) in enumerate(zip(documents, runs, strict=True), start=1):
        is_fake = number > len(info.samples)
        media = _media_of(info, 0 if is_fake else number)
        yield DocumentView(
            number=0 if is_fake else number,
            sample=None if is_fake else info.samples[number - 1],
            num_tokens=lengths[number - 1],
            num_label_tokens=int(np.count_nonzero(tokens.trained)),
            media=media,
            spans=tuple(_spans(tokens, own, media, decoder)),
        )


def _tokens(fields: dict[str, Array], place: slice) -> Tokens:
    """Labels are shifted: `labels[i]` is token `i + 1`, which is trained on unless it is -100."""
    labels = fields["labels"][place]
    ids = np.append(fields["input_ids"][place], labels[-1])
    types = np.append(fields["mm_token_type_ids"][place], np.uint8(0))
    trained = np.append(False, labels != IGNORE_INDEX)
    end = len(ids) if trained[-1] else len(ids) - 1
    return Tokens(input_ids=ids[:end], types=types[:end], trained=trained[:end])


def _runs(tokens: Tokens) -> list[Run]:
    """Where the type changes, or whether tokens are trained on, a run ends."""
    changes = np.flatnonzero((np.diff(tokens.types) != 0) | (np.diff(tokens.trained) != 0)) + 1
    bounds = [0, *changes.tolist(), len(tokens.input_ids)]
    return [
        Run(place=slice(start, end), type=int(tokens.types[start]), trained=bool(tokens.trained[start]))
        for start, end in pairwise(bounds)
    ]


def _media_of(info: PackInfo, document: int) -> tuple[MediumView, ...]:
    """The media of one document, 0 for the fake image's."""
    return tuple(
        MediumView(
            kind=medium.kind,
            shape=medium.shape,
            num_tokens=medium.num_tokens + medium.num_framing,
            fake=medium.fake or document == 0,
        )
        for medium in info.media
        if medium.document == document
    )


def _labels(media: Sequence[MediumView], runs: Sequence[Run]) -> Iterator[str]:
    """What to show for every run of placeholders: a medium where it begins, and dots where a run goes on with it."""
    left = iter(media)
    open_tokens = 0
    for run in runs:
        shown: list[str] = []
        room = run.num_tokens
        while room > open_tokens and (medium := next(left, None)) is not None:
            room -= open_tokens
            open_tokens = medium.num_tokens
            shown.append(str(medium))
        open_tokens -= min(room, open_tokens)
        yield " ".join(shown) or f"... {run.num_tokens} tokens"


def _spans(tokens: Tokens, runs: Sequence[Run], media: Sequence[MediumView], decoder: Decoder | None) -> Iterator[Span]:
    labels = (f"<{label}>" for label in _labels(media, [run for run in runs if run.type]))
    for run in runs:
        if run.type:
            yield Span(text=next(labels), role="media", trained=run.trained)
        elif decoder is None:
            yield Span(text=" ".join(map(str, tokens.input_ids[run.place])) + " ", role="ids", trained=run.trained)
        else:
            for text, is_control in decoder.pieces(tokens.input_ids[run.place].tolist()):
                yield Span(text=text, role="control" if is_control else "text", trained=run.trained)
