"""Damaged clips and sounds: refused with a reason, or exactly as long and as large as their headers said."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import transformers

from tests.clips import X265, Recipe, clip, mp3, sound
from vlmprep.families.media.clips import load_clip
from vlmprep.families.media.sounds import load_sound
from vlmprep.schema.conversation import Media, MediaKind
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.media import MediaReader

TRIES = 60
CLIPS = {
    "mp4": Recipe(num_frames=6),
    "mp4 HEVC": Recipe(num_frames=6, codec="libx265", options=X265),
    "webm": Recipe(num_frames=6, container="webm", codec="libvpx-vp9"),
    "avi": Recipe(num_frames=6, container="avi", codec="mpeg4"),
}
SOUNDS: dict[str, Callable[[], bytes]] = {
    "wav": sound,
    "flac": functools.partial(sound, "FLAC"),
    "ogg": functools.partial(sound, "OGG"),
    "mp3": mp3,
    "mp3 without note": functools.partial(mp3, noted=False),
}


def damaged(kind: MediaKind, data: bytes) -> Iterator[Media]:
    """The medium with a few bytes changed, in its first part every other time."""
    rng = np.random.default_rng(3)
    whole = np.frombuffer(data, np.uint8)
    for number in range(TRIES):
        copy = whole.copy()
        end = len(copy) if number % 2 else len(copy) // 4
        copy[rng.integers(0, end, 6)] = rng.integers(0, 256, 6)
        yield Media(kind=kind, content=copy.tobytes())


def outcomes(read: Callable[[Media], Any], media: Iterator[Media]) -> Counter[str]:
    """How often reading went well, and how often it was refused; anything else is raised."""
    found: Counter[str] = Counter()
    for medium in media:
        try:
            read(medium)
            found["read"] += 1
        except RefuseSample:
            found["refused"] += 1
    return found


@pytest.mark.parametrize("name", CLIPS)
def test_a_damaged_clip_is_refused_or_as_its_header_says(name: str) -> None:
    processor = transformers.Qwen2VLVideoProcessor()

    def read(medium: Media) -> None:
        size = MediaReader(max_clip_frames=1_000, max_image_pixels=1 << 16).clip_size(medium)
        assert load_clip(processor, medium).frames.shape == (size.num_frames, 3, size.height, size.width)

    found = outcomes(read, damaged("video", clip(CLIPS[name])))
    assert found.total() == TRIES
    assert min(found["read"], found["refused"]) > 2, found


def test_damaged_sounds_are_refused_or_as_their_headers_say() -> None:
    def read(medium: Media) -> None:
        size = MediaReader().audio_size(medium)
        assert len(load_sound(medium, size.sampling_rate)) == size.num_samples

    found: Counter[str] = Counter()
    for make in SOUNDS.values():  # formats with checksums are always refused, those without one seldom
        found += outcomes(read, damaged("audio", make()))
    assert found.total() == TRIES * len(SOUNDS)
    assert min(found["read"], found["refused"]) > TRIES, found
