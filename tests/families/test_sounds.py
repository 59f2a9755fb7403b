"""Sounds against transformers' soundfile backend: as long as the header says, and the same samples, bit for bit."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray
from transformers.audio_utils import load_audio

from tests.clips import Recipe, clip, mp3, sound, tone
from vlmprep.families.media.sounds import load_sound, samples_at
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import AudioSize
from vlmprep.sources.media import MediaReader

SOUNDS: dict[str, Callable[[], bytes]] = {
    "wav": sound,
    "wav 8-bit": lambda: sound(subtype="PCM_U8"),
    "wav 24-bit stereo": lambda: sound(subtype="PCM_24", channels=2, rate=44_100),
    "wav float of 3 channels": lambda: sound(subtype="FLOAT", channels=3, rate=8_000),
    "wav cut off": lambda: sound()[:5_000],
    "wav that does not know its size": lambda: sound().replace(
        b"data" + (9_600).to_bytes(4, "little"), b"data\xff\xff\xff\xff"
    ),
    "flac": lambda: sound("FLAC"),
    "flac stereo": lambda: sound("FLAC", channels=2, rate=48_000, num_samples=9_999),
    "ogg": lambda: sound("OGG", rate=22_050),
    "opus": lambda: sound("OGG", subtype="OPUS", rate=48_000),
    "mp3 of libsndfile": lambda: sound("MP3", channels=2, rate=44_100, num_samples=20_001),
    "mp3": mp3,
    "mp3 of varying rate": lambda: mp3(varying=True),
    "mp3 without tag": lambda: mp3(tag=False),
    "mp3 with a tag at its end": lambda: mp3() + b"TAG" + bytes(125),
    "mp3 without note": lambda: mp3(noted=False),
    "mp3 without note or tag": lambda: mp3(noted=False, tag=False),
    "mp3 without note, cut off": lambda: mp3(noted=False)[:6_000],
}
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "mp3 of varying rate without note": (lambda: mp3(noted=False, varying=True), "unknown-length"),
    "mp3 cut off": (lambda: mp3()[:6_000], "truncated-media"),
    "wav of nothing": (lambda: sound(num_samples=0), "no-samples"),
    "ogg cut off": (lambda: sound("OGG", num_samples=48_000)[:3_000], "not-a-sound"),
    "text": (lambda: b"not a sound at all\n" * 10, "not-a-sound"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "not-a-sound"),
    "a video": (lambda: clip(Recipe(sound="aac")), "not-a-sound"),
    "flac that does not know its length": (lambda: flac_of_unknown_length(), "unknown-length"),
}


def flac_of_unknown_length() -> bytes:
    """As a recorder writes it that cannot go back to its header: 36 bits of zeros."""
    data = bytearray(sound("FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def audio(content: bytes) -> Media:
    return Media(kind="audio", content=content)


def refusal(call: Callable[..., Any], *arguments: Any) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_is_as_long_as_its_header_says_and_sounds_as_in_transformers(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(SOUNDS[name]())
    medium = Media(kind="audio", location=str(path))
    size = MediaReader().audio_size(medium)
    decoded, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    assert (size.num_samples, size.sampling_rate) == (len(decoded), rate)
    assert size.num_bytes == path.stat().st_size
    for wanted in (16_000, 48_000, 11_025, rate):
        expected = load_audio(str(path), sampling_rate=wanted, backend="soundfile")
        found = load_sound(medium, wanted)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)
        assert len(found) == samples_at(size, wanted) > 0
    assert np.array_equal(load_sound(audio(path.read_bytes()), 16_000), load_sound(medium, 16_000))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_sound_is_refused_from_its_header(name: str) -> None:
    make, code = REFUSED[name]
    assert refusal(MediaReader().audio_size, audio(make())).code == code


def test_an_mp3_that_transformers_would_cut_short_is_refused_with_both_lengths() -> None:
    data = mp3(noted=False, varying=True)
    short = len(soundfile.read(io.BytesIO(data))[0])
    assert short < 10_000
    assert f"would read {short} of 32256 samples" in refusal(MediaReader().audio_size, audio(data)).reason


@pytest.mark.parametrize("name", ["mp3 cut off", "flac cut off"])
def test_a_sound_that_decodes_to_another_length_is_refused_when_it_is_loaded(name: str) -> None:
    data = mp3()[:6_000] if name == "mp3 cut off" else sound("FLAC", num_samples=40_000)[:-9_000]
    assert refusal(load_sound, audio(data), 16_000).code in ("lying-header", "undecodable-media")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    gone = Media(kind="audio", location=str(tmp_path / "gone.wav"))
    assert refusal(load_sound, gone, 16_000).code == "unreadable-media"
    assert refusal(MediaReader().audio_size, gone).code == "missing-media"


def test_the_length_of_sounds_has_a_limit() -> None:
    data = sound(num_samples=16_000)
    assert MediaReader(max_audio_seconds=1.0).audio_size(audio(data)).num_samples == 16_000
    found = refusal(MediaReader(max_audio_seconds=0.9).audio_size, audio(data))
    assert found.code == "sound-too-long"
    assert "--max-audio-seconds 0.9" in found.reason


@pytest.mark.parametrize("num_samples", [1, 2, 159, 160, 161, 44_099, 44_100, 44_101])
@pytest.mark.parametrize("rates", [(44_100, 16_000), (16_000, 44_100), (48_000, 16_000), (8_000, 16_000)])
def test_resampled_lengths_are_known_from_the_header(num_samples: int, rates: tuple[int, int]) -> None:
    rate, wanted = rates
    data = sound(num_samples=num_samples, rate=rate)
    size = AudioSize(num_samples=num_samples, sampling_rate=rate, num_bytes=len(data))
    assert len(load_sound(audio(data), wanted)) == samples_at(size, wanted) == math.ceil(num_samples * wanted / rate)


VIDEOS = {
    "mp4 AAC": Recipe(sound="aac"),
    "webm Opus": Recipe(container="webm", codec="libvpx-vp9", sound="libopus"),
    "avi MP3": Recipe(container="avi", codec="mpeg4", sound="libmp3lame"),
    "mov PCM": Recipe(container="mov", sound="pcm_s16le"),
    "ts AAC": Recipe(container="mpegts", sound="aac"),
}


def decoded_by_av(data: bytes) -> NDArray[Any]:
    """All samples of a video's first sound, as its codec gives them: [channels, n], or [1, n * channels] for PCM."""
    with av.open(io.BytesIO(data), "r") as container:
        return np.concatenate([block.to_ndarray() for block in container.decode(audio=0)], axis=1)


@pytest.mark.parametrize("name", VIDEOS)
def test_the_sound_of_a_video_is_as_long_as_it_decodes_and_goes_the_way_of_other_sounds(name: str) -> None:
    medium = Media(kind="video", content=clip(VIDEOS[name]))
    assert medium.content is not None
    size = MediaReader().clip_size(medium, with_sound=True).audio
    assert size is not None
    blocks = decoded_by_av(medium.content)
    if blocks.dtype == np.int16:
        blocks = (blocks.reshape(-1, 2).T / 32_768).astype(np.float32)
    mean = blocks.astype(np.float32).mean(axis=0)
    assert (size.num_samples, size.sampling_rate) == (len(mean), 48_000)
    assert np.array_equal(load_sound(medium, 48_000), mean)
    expected = soxr.resample(mean, 48_000, 16_000, quality="soxr_hq")[: samples_at(size, 16_000)]
    found = load_sound(medium, 16_000)
    assert len(found) == samples_at(size, 16_000)
    assert np.array_equal(found[: len(expected)], expected)


def test_pcm_in_a_video_is_the_very_sound() -> None:
    medium = Media(kind="video", content=clip(VIDEOS["mov PCM"]))
    expected = (tone(24_000) + tone(24_000, 660)) / 2
    assert np.abs(load_sound(medium, 48_000) - expected).max() < 1e-4


def test_a_silent_video_has_no_sound() -> None:
    medium = Media(kind="video", content=clip(Recipe()))
    assert MediaReader().clip_size(medium, with_sound=True).audio is None
    assert refusal(load_sound, medium, 16_000).code == "no-sound"


def test_the_sound_of_a_video_is_looked_at_only_where_it_is_wanted() -> None:
    medium = Media(kind="video", content=clip(Recipe(sound="aac")))
    assert MediaReader().clip_size(medium).audio is None
    found = refusal(lambda: MediaReader(max_audio_seconds=0.1).clip_size(medium, with_sound=True))
    assert found.code == "sound-too-long"


def test_real_sounds_are_those_of_transformers(shared_data: Path) -> None:
    paths = sorted((shared_data / "audio").iterdir())
    assert paths
    for path in paths:
        medium = Media(kind="audio", location=str(path))
        expected = load_audio(str(path), sampling_rate=16_000, backend="soundfile")
        assert np.array_equal(load_sound(medium, 16_000), expected)
        assert samples_at(MediaReader().audio_size(medium), 16_000) == len(expected)
