"""Media files: what their header says and whether they changed. Decodes no pixel of an image, and one frame of a clip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO

import xxhash
from PIL import Image

from vlmprep.mediafiles.containers import opened_container
from vlmprep.mediafiles.lmdb_values import data_file
from vlmprep.mediafiles.opening import is_on_the_web, is_remote, open_medium
from vlmprep.mediafiles.remembered import remember
from vlmprep.mediafiles.sounds import container_sound_size, sound_size
from vlmprep.mediafiles.videos import ClipLimits, check_frames, video_size
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, VlmprepError
from vlmprep.schema.media import AudioSize, ImageSize, Loader, MediaSize, VideoSize
from vlmprep.sources.headers import upright_size
from vlmprep.sources.wording import clipped
from vlmprep.stores.file import look_at
from vlmprep.stores.retry import StoreTrouble

__all__ = [
    "DEFAULT_MAX_AUDIO_SECONDS",
    "DEFAULT_MAX_CLIP_FRAMES",
    "DEFAULT_MAX_IMAGE_PIXELS",
    "MediaReader",
    "own_the_pixel_limit",
]

DEFAULT_MAX_IMAGE_PIXELS = 89_478_485
"""Pillow's own warning threshold against decompression bombs: a quarter of a gigabyte of RGB."""
DEFAULT_MAX_CLIP_FRAMES = 1_000_000
"""Nine hours at 30 a second."""
DEFAULT_MAX_AUDIO_SECONDS = 4 * 3_600
"""Decoded and in stereo at 48 kHz, five gigabytes."""


def own_the_pixel_limit() -> None:
    """Take Pillow's global limit away in a process of ours: MediaReader's own holds before anything is decoded."""
    Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReader:
    """Reads headers of media, within limits."""

    max_image_pixels: int = DEFAULT_MAX_IMAGE_PIXELS
    """Images and frames whose header claims more are refused."""
    max_clip_frames: int = DEFAULT_MAX_CLIP_FRAMES
    """Clips of more frames are refused, whether all are sampled or few."""
    max_audio_seconds: float = DEFAULT_MAX_AUDIO_SECONDS
    """Longer sounds are refused, and those that make more levels than so much stereo at 48 kHz."""

    def state(self, medium: Media) -> int:
        """Digest of a medium's location, size and modification time (those of its LMDB, if any); 0 where it cannot be read."""
        if medium.frames is not None:
            states = [self.state(frame) for frame in medium.frames]
            return (
                0 if 0 in states else xxhash.xxh3_64_intdigest(b"".join(each.to_bytes(8, "little") for each in states))
            )
        if medium.content is not None:
            return xxhash.xxh3_64_intdigest(medium.content)
        assert medium.location is not None
        where = os.fsencode(medium.place or "")
        if is_on_the_web(medium.location):
            return xxhash.xxh3_64_intdigest(where)
        if is_remote(medium.location):
            return _remote_state(medium.location)
        try:
            found = os.stat(medium.location if medium.key is None else data_file(medium.location))
        except OSError:
            return 0
        return xxhash.xxh3_64_intdigest(b"%b\0%d\0%d" % (where, found.st_size, found.st_mtime_ns))

    def size(self, medium: Media, loader: Loader, *, with_sound: bool = False) -> MediaSize:
        """Read what a medium's header says: an image's upright size, a clip's frames, a sound's length.

        Args:
            medium: The medium.
            loader: Which of the processors' loaders will decode it, where it is an image.
            with_sound: Find out how long the sound of a video is, too.

        Raises:
            RefuseSample: It cannot be used.
        """
        if medium.kind == "audio":
            return self.audio_size(medium)
        if medium.kind == "video":
            return self.clip_size(medium, with_sound=with_sound)
        return self.image_size(medium, loader)

    def image_size(self, medium: Media, loader: Loader) -> ImageSize:
        """Read an image's upright size from its header.

        Args:
            medium: The image.
            loader: Which of the processors' loaders will decode it: they honour different orientation tags.

        Raises:
            RefuseSample: Missing, empty, no medium of this kind, above the pixel limit, or one that the loader does not read.
        """
        name = clipped(medium.where)
        with opened(medium, name) as (file, num_bytes):
            height, width = upright_size(file, name, loader, self.max_image_pixels)
        return ImageSize(height=height, width=width, num_bytes=num_bytes)

    def clip_size(self, medium: Media, *, with_sound: bool = False) -> VideoSize:
        """Find out what decoding a clip gives: its frames, their size after turning, their rate.

        Args:
            medium: The clip: a file, or a list of images.
            with_sound: Find out how long its sound is, too.

        Raises:
            RefuseSample: Missing, empty, no video, above a limit, broken, or images of several sizes.
        """
        if medium.frames is not None:
            return self._listed_size(medium.frames)
        name = clipped(medium.where)
        limits = ClipLimits(max_pixels=self.max_image_pixels, max_frames=self.max_clip_frames)
        with opened(medium, name) as (file, num_bytes):
            with opened_container(file, name) as container:
                size = video_size(container, num_bytes, name, limits)
            remember(file, size)
            if not with_sound:
                return size
            with opened_container(file, name) as container:
                sound = container_sound_size(container, num_bytes, name, self.max_audio_seconds)
            return replace(size, audio=sound)

    def _listed_size(self, frames: tuple[Media, ...]) -> VideoSize:
        """The size of a clip that is a list of images, which video processors load with torchvision."""
        if not frames:
            raise RefuseSample("no-frames", "a clip is an empty list of images")
        check_frames(len(frames), self.max_clip_frames, "a list of images")
        sizes = [self.image_size(frame, "torchvision") for frame in frames]
        first = sizes[0]
        for frame, size in zip(frames, sizes, strict=True):
            if (size.height, size.width) != (first.height, first.width):
                raise RefuseSample(
                    "changing-size",
                    f"{clipped(frame.where)} is {size.width} x {size.height}, the clip's first image "
                    f"{first.width} x {first.height}: a clip needs one size",
                )
        return VideoSize(
            num_frames=len(frames),
            frames_per_second=None,
            height=first.height,
            width=first.width,
            num_bytes=sum(size.num_bytes for size in sizes),
        )

    def audio_size(self, medium: Media) -> AudioSize:
        """Read a sound's length from its header.

        Raises:
            RefuseSample: Missing, empty, no sound, of unknown length, or above the limit.
        """
        name = clipped(medium.where)
        with opened(medium, name) as (file, num_bytes):
            return sound_size(file, num_bytes, name, self.max_audio_seconds)


def _remote_state(url: str) -> int:
    try:
        stored = look_at(url)
    except StoreTrouble as error:
        if not error.lasting:
            raise
        return xxhash.xxh3_64_intdigest(url.encode())
    return 0 if stored is None else xxhash.xxh3_64_intdigest(f"{url}\0{stored.size}\0{stored.state}".encode())


@contextmanager
def opened(medium: Media, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """A medium's file and its size.

    Raises:
        RefuseSample: It is not there, cannot be read, or is empty.
    """
    try:
        file = open_medium(medium)
    except FileNotFoundError:
        raise RefuseSample("missing-media", f"{name} does not exist") from None
    except VlmprepError:
        raise
    except Exception as error:  # each file system behind a URL has errors of its own
        reason = error.strerror if isinstance(error, OSError) else None
        raise RefuseSample("unreadable-media", f"{name} cannot be read: {reason or error}") from error
    try:
        with file:
            yield file, checked_bytes(file, name)
    except VlmprepError:
        raise
    except Exception as error:  # likewise, between the first byte and the last
        raise RefuseSample("unreadable-media", f"{name} cannot be read: {error}") from error


def checked_bytes(file: IO[bytes], name: str) -> int:
    """Size of an open file.

    Raises:
        RefuseSample: It is empty.
    """
    num_bytes = file.seek(0, os.SEEK_END)
    if num_bytes == 0:
        raise RefuseSample("empty-media", f"{name} is empty (0 bytes)")
    file.seek(0)
    return num_bytes
