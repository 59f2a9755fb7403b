"""Sounds are held against time and memory before they are decoded: silence packs so well that kilobytes fill memories."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from tests.clips import Recipe, clip
from tests.fuzz.bombs import BOMBS
from vlmprep.schema.conversation import Media, MediaKind
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.media import MediaReader

SECONDS = 2.0


def silence(seconds: float, rate: int, channels: int) -> bytes:
    target = io.BytesIO()
    soundfile.write(target, np.zeros((int(seconds * rate), channels), np.int16), rate, format="FLAC")
    return target.getvalue()


def refusal(kind: MediaKind, data: bytes, seconds: float = SECONDS) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        MediaReader(max_audio_seconds=seconds).size(Media(kind=kind, content=data), "pil", with_sound=True)
    return caught.value


def test_a_short_sound_of_many_channels_at_a_high_rate_is_refused_by_what_it_takes() -> None:
    data = silence(1.0, 192_000, 8)
    assert len(data) < 100_000
    found = refusal("audio", data)
    assert found.code == "sound-too-large"
    assert "192000 samples of 8 channels" in found.reason
    assert MediaReader().audio_size(Media(kind="audio", content=data)).num_samples == 192_000


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (96_000, 1), (16_000, 6)])
def test_as_much_as_stereo_of_that_time_is_read(rate: int, channels: int) -> None:
    reader = MediaReader(max_audio_seconds=SECONDS)
    assert (
        reader.audio_size(Media(kind="audio", content=silence(SECONDS, rate, channels))).num_samples == SECONDS * rate
    )


def test_a_longer_sound_is_refused_by_its_time() -> None:
    found = refusal("audio", silence(SECONDS + 0.5, 8_000, 1))
    assert found.code == "sound-too-long"
    assert "2 s long" in found.reason


def test_the_sound_of_a_clip_is_held_against_the_same_limit() -> None:
    data = clip(Recipe(sound="aac"))
    assert refusal("video", data, 0.1).code == "sound-too-long"
    size = MediaReader(max_audio_seconds=SECONDS).clip_size(Media(kind="video", content=data), with_sound=True)
    assert size.audio is not None


@pytest.mark.parametrize("name", ["wav of no rate", "wav of no channel", "wav of 65,535 channels"])
def test_headers_that_make_no_sense_are_no_sounds(name: str) -> None:
    assert refusal("audio", BOMBS["audio"][name]()).code == "not-a-sound"
