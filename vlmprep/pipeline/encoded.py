"""Packs that hold the original files of their pictures (`--pixels encoded`): written with proof, read by decoding.

Writer and reader decode the same bytes with the family's own loader. The writer notes a digest of what came out; the reader
holds what it decodes against it, so another release of a decoder is noticed and never trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from vlmprep.families.loading import load_family
from vlmprep.families.wording import first_line
from vlmprep.mediafiles.opening import open_medium
from vlmprep.packing.document import Document, Medium, size_of
from vlmprep.pipeline.inspect.decoder import processor_of
from vlmprep.schema.conversation import Media, Message, Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import Family
from vlmprep.schema.media import AudioSize, MediaCount, MediaSize
from vlmprep.shardformat.manifest import Manifest
from vlmprep.shardformat.members import ENCODED, PIXEL_FIELDS, Array
from vlmprep.shardformat.packinfo import DecodedInfo, MediumInfo, PackInfo
from vlmprep.sources.media import MediaReader, own_the_pixel_limit

__all__ = ["EncodedForm", "PackDecoder", "in_memory", "pack_decoder"]

NO_BYTES = np.zeros(0, dtype=np.uint8)


class EncodedForm:
    """Brings documents into the form that holds original files.

    Args:
        family: Decodes them.
        media: Reads headers.
    """

    def __init__(self, family: Family, media: MediaReader) -> None:
        self._decoder = DocumentDecoder(family, media)

    def sample(self, sample: Sample) -> Sample:
        """The sample with its pictures read into memory, so that what is decoded is what is stored.

        Raises:
            RefuseSample: A file cannot be read.
        """
        return replace(sample, messages=tuple(map(with_contents, sample.messages)))

    def document(self, document: Document) -> Document:
        """The document with files in the place of pixels.

        Raises:
            RefuseSample: The files that it keeps, by themselves, decode to other pixels: a cut took media away that the
                processor had looked at.
        """
        media = tuple(map(with_file, document.media))
        if document.lost_media:
            self._prove(
                [as_info(medium) for medium in media], [medium.source if medium.files else None for medium in media]
            )
        return replace(document, media=media)

    def _prove(self, media: Sequence[MediumInfo], sources: Sequence[Media | None]) -> None:
        try:
            for _ in self._decoder.decoded(media, sources):
                pass
        except ValueError as error:
            raise RefuseSample(
                "encoded-cut", f"what the cut leaves of it cannot be stored as files: {first_line(error)}"
            ) from error


def with_contents(message: Message) -> Message:
    """A turn whose pictures are in memory."""
    parts = (in_memory(part) if isinstance(part, Media) and part.kind != "audio" else part for part in message.parts)
    return replace(message, parts=tuple(parts))


def in_memory(medium: Media) -> Media:
    """A medium with its content in the place of its location.

    Raises:
        RefuseSample: It cannot be read.
    """
    if medium.frames is not None:
        return replace(medium, frames=tuple(map(in_memory, medium.frames)))
    if medium.content is not None:
        return medium
    try:
        with open_medium(medium) as file:
            content = file.read()
    except FileNotFoundError:
        raise RefuseSample("missing-media", f"{medium.where} does not exist") from None
    except StopRun:
        raise
    except Exception as error:  # each file system behind a URL has errors of its own
        raise RefuseSample("unreadable-media", f"{medium.where} cannot be read: {first_line(error)}") from error
    return Media(kind=medium.kind, content=content, name=medium.where)


def with_file(medium: Medium) -> Medium:
    """A medium with its files in the place of its pixels, and a digest of these."""
    pixels = {name: array for name, array in medium.tensors.items() if name in PIXEL_FIELDS}
    if not pixels:
        return medium
    files = [] if medium.fake or medium.source is None else contents_of(medium.source)
    content = np.frombuffer(b"".join(files), dtype=np.uint8) if files else NO_BYTES
    tensors = {name: array for name, array in medium.tensors.items() if name not in pixels}
    decoded = {name: DecodedInfo(rows=len(array), xxh3=digest(array)) for name, array in pixels.items()}
    return replace(medium, tensors={**tensors, ENCODED: content}, files=tuple(map(len, files)), decoded=decoded)


def contents_of(medium: Media) -> list[bytes]:
    """The files of a medium that is in memory."""
    if medium.frames is not None:
        return [content for frame in medium.frames for content in contents_of(frame)]
    assert medium.content is not None, "it was read before"
    return [medium.content]


def digest(array: NDArray[Any]) -> str:
    """XXH3 of type, shape and values in C order, in hexadecimal."""
    found = xxhash.xxh3_64(f"{array.dtype.str}{list(array.shape)}".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def as_info(medium: Medium) -> MediumInfo:
    """What key.json says of a medium, as far as decoding needs it."""
    return MediumInfo(
        document=1,
        kind=medium.kind,
        shape=medium.shape,
        num_tokens=medium.num_placeholders,
        rows={},
        files=medium.files,
        decoded=medium.decoded,
    )


class DocumentDecoder:
    """Decodes the media of one document after another.

    Args:
        family: The model's.
        media: Reads headers.
    """

    def __init__(self, family: Family, media: MediaReader) -> None:
        self._family, self._media = family, media

    def decoded(
        self, infos: Sequence[MediumInfo], sources: Sequence[Media | None]
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """The pixel fields of each medium of a document.

        Args:
            infos: What key.json says of them.
            sources: Their files; None for sounds and fake images.

        Raises:
            ValueError: One does not decode to what it decoded to when it was packed.
        """
        try:
            sizes = [self._size(info, source) for info, source in zip(infos, sources, strict=True)]
            counts = self._family.measure(sizes)
            for place, (info, source, count) in enumerate(zip(infos, sources, counts, strict=True), start=1):
                yield self._checked(place, info, source, count) if info.decoded else {}
        except RefuseSample as refusal:
            raise ValueError(f"a medium does not decode: {refusal.reason}") from refusal

    def _size(self, info: MediumInfo, source: Media | None) -> MediaSize:
        if info.kind == "audio":
            return AudioSize(num_samples=info.shape[0], sampling_rate=info.shape[1], num_bytes=0)
        if source is None:
            return size_of(self._white)
        return self._media.size(source, self._family.loader, with_sound=self._family.hears_clips)

    def _checked(
        self, place: int, info: MediumInfo, source: Media | None, count: MediaCount
    ) -> dict[str, NDArray[Any]]:
        tensors = self._family.tensors(self._white if source is None else self._family.load(source), count)
        for name, expected in info.decoded.items():
            found = tensors.get(name)
            if found is None or len(found) != expected.rows or digest(found) != expected.xxh3:
                raise ValueError(
                    f"medium {place} of the document decodes to other {name} than when it was packed: its libraries "
                    "(fingerprint.versions of manifest.json) or its processor were others"
                )
        return {name: tensors[name] for name in info.decoded}

    @functools.cached_property
    def _white(self) -> Image.Image:
        """The fake image, which has no file."""
        white: Image.Image = self._family.fake_image()[2]
        return white


class PackDecoder:
    """Puts the pixels of packs in the place of the files that they hold.

    Args:
        family: The model's.
        media: Reads headers.
    """

    def __init__(self, family: Family, media: MediaReader) -> None:
        self._documents = DocumentDecoder(family, media)

    def __call__(self, info: PackInfo, fields: Mapping[str, Array]) -> dict[str, Array]:
        """A pack's tensors with pixels.

        Args:
            info: What the pack says about itself.
            fields: Its tensors by field, as they are stored.

        Raises:
            ValueError: A file does not decode to what it decoded to when it was packed, or is not there.
        """
        pixels: dict[str, list[NDArray[Any]]] = {}
        sources = sources_of(info, fields[ENCODED])
        pairs = list(zip(info.media, sources, strict=True))
        for _, own in groupby(pairs, key=lambda pair: pair[0].document):
            media, files = zip(*own, strict=True)
            for tensors in self._documents.decoded(media, files):
                for name, array in tensors.items():
                    pixels.setdefault(name, []).append(array)
        stored = {name: array for name, array in fields.items() if name != ENCODED}
        return stored | {name: np.concatenate(parts) for name, parts in pixels.items()}


def sources_of(info: PackInfo, encoded: Array) -> list[Media | None]:
    """Each medium's files, cut out of all of a pack's; None where it has none.

    Raises:
        ValueError: The pack does not hold as many bytes as its media say.
    """
    found: list[Media | None] = []
    at = 0
    for medium in info.media:
        frames: list[Media] = []
        for size in medium.files:
            frames.append(Media(kind="image", content=encoded[at : at + size].tobytes(), name="a file of the pack"))
            at += size
        found.append(medium_of(medium, frames))
    if at != len(encoded):
        raise ValueError(f"its media have {at} bytes of files by key.json, {ENCODED} holds {len(encoded)}")
    return found


def medium_of(info: MediumInfo, files: Sequence[Media]) -> Media | None:
    """One medium from its files."""
    if not files:
        return None
    if info.listed:
        return Media(kind="video", frames=tuple(files))
    return replace(files[0], kind="video" if info.kind == "video" else "image")


def pack_decoder(manifest: Manifest, processor: str | None, *, trust_remote_code: bool) -> PackDecoder:
    """What decodes the packs of a set.

    Args:
        manifest: Of the pack set.
        processor: Folder or hub name of its processor; None: where it lay when the set was packed.
        trust_remote_code: Whether code that comes with the processor may run; never taken from the pack set.

    Raises:
        StopRun: The processor cannot be loaded.
    """
    settings = replace(processor_of(manifest), trust_remote_code=trust_remote_code)
    if processor is not None:
        settings = replace(settings, processor=processor, revision=None)
    limits = {name: manifest.settings[name] for name in ("max_image_pixels", "max_clip_frames", "max_audio_seconds")}
    if limits["max_image_pixels"] > (Image.MAX_IMAGE_PIXELS or 0):
        own_the_pixel_limit()
    return PackDecoder(load_family(settings), MediaReader(**limits))
