"""Clips and sounds as rows mention them: lists of images, encoded sounds, URLs, and what would be left out in silence."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from tests.sources.test_conversation import MEDIA, refusal, sample
from vlmprep.schema.conversation import Media, MediaKind, Message, Text
from vlmprep.sources.media import MediaReader

SOUND = b"RIFF and the rest"
FRAMES = ("f1.jpg", "f2.PNG", "deep/f3.webp")
CLIP_OF_IMAGES = Media(kind="video", frames=tuple(Media(kind="image", location=f"{MEDIA}/{name}") for name in FRAMES))


def file(kind: MediaKind, name: str) -> Media:
    return Media(kind=kind, location=f"{MEDIA}/{name}")


def row(content: Any, **columns: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A"}]
    return {"messages": messages, **columns}


SPELLINGS: dict[str, tuple[dict[str, Any], list[Media]]] = {
    "tags and columns": (
        row("<video><audio>", videos=["a.mp4"], audios=["b.wav"]),
        [file("video", "a.mp4"), file("audio", "b.wav")],
    ),
    "columns of one": (row("<video>", video="a.mp4"), [file("video", "a.mp4")]),
    "a list of clips in the column of one": (
        row("<video><video>", video=["a.mp4", "b.mkv"]),
        [file("video", "a.mp4"), file("video", "b.mkv")],
    ),
    "one clip as images": (row("<video>", video=list(FRAMES)), [CLIP_OF_IMAGES]),
    "clips as images and files": (
        row("<video><video>", videos=[list(FRAMES), "a.mp4"]),
        [CLIP_OF_IMAGES, file("video", "a.mp4")],
    ),
    "parts": (
        row([{"type": "video", "video": "a.mp4"}, {"type": "audio", "audio": "b.wav"}]),
        [file("video", "a.mp4"), file("audio", "b.wav")],
    ),
    "parts with paths": (
        row([{"type": "video", "path": "a.mp4"}, {"type": "audio", "url": "file://" + MEDIA + "/b.wav"}]),
        [file("video", "a.mp4"), file("audio", "b.wav")],
    ),
    "parts with URLs": (
        row([{"type": "video_url", "video_url": {"url": "a.mp4"}}, {"type": "audio_url", "audio_url": "b.wav"}]),
        [file("video", "a.mp4"), file("audio", "b.wav")],
    ),
    "a part of images": (row([{"type": "video", "video": list(FRAMES)}]), [CLIP_OF_IMAGES]),
    "a part of frames": (row([{"type": "video", "frames": list(FRAMES)}]), [CLIP_OF_IMAGES]),
    "parts that take from columns": (
        row([{"type": "video"}, {"type": "audio"}], videos=[list(FRAMES)], audio="b.wav"),
        [CLIP_OF_IMAGES, file("audio", "b.wav")],
    ),
    "a sound inside the row": (
        row([{"type": "input_audio", "input_audio": {"data": base64.b64encode(SOUND).decode(), "format": "wav"}}]),
        [Media(kind="audio", content=SOUND)],
    ),
    "a sound as a data URI": (
        row([{"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64," + base64.b64encode(SOUND).decode()}}]),
        [Media(kind="audio", content=SOUND)],
    ),
    "a clip as a data URI": (
        row("<video>", videos=["data:video/mp4;base64," + base64.b64encode(SOUND).decode()]),
        [Media(kind="video", content=SOUND)],
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_finds_its_clips_and_sounds(name: str) -> None:
    record, expected = SPELLINGS[name]
    assert sample(record).messages == (
        Message(role="user", parts=tuple(expected)),
        Message(role="assistant", parts=(Text(text="A"),)),
    )


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a clip without images": (row([{"type": "video", "video": [["f.jpg"]]}]), "bad-media-path", "image is a list"),
    "an empty clip": (row("<video>", videos=[[]]), "no-frames", "empty list"),
    "an image outside": (row("<video>", videos=[["f1.jpg", "../f2.jpg"]]), "outside-media", "../f2.jpg"),
    "an image on the web": (row("<video>", videos=[["http://h/f.jpg"]]), "remote-media", "--allow-remote-media"),
    "a list of sounds for one": (row([{"type": "audio", "audio": ["a.wav"]}]), "bad-media-path", "audio is a list"),
    "a sound that is no base64": (
        row([{"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}}]),
        "bad-media-path",
        "input_audio does not decode",
    ),
    "no sound at all": (row([{"type": "input_audio", "input_audio": {}}]), "bad-media-path", "no 'data'"),
    "a rate of its own": (row([{"type": "video", "video": "a.mp4", "fps": 1.0}]), "unsupported-media-option", "'fps'"),
    "a stretch of a clip": (
        row([{"type": "video", "video": "a.mp4", "video_start": 2.0, "video_end": 5}]),
        "unsupported-media-option",
        "'video_end'",
    ),
    "a size of its own": (
        row([{"type": "image_url", "image_url": {"url": "a.png", "max_pixels": 9}}]),
        "unsupported-media-option",
        "'max_pixels'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused(name: str) -> None:
    record, code, says = REFUSED[name]
    found = refusal(record)
    assert found.code == code
    assert says in found.reason


def test_the_state_of_a_clip_is_that_of_all_its_images(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]

    def state(*order: Path) -> int:
        frames = tuple(Media(kind="image", location=str(path)) for path in order)
        return MediaReader().state(Media(kind="video", frames=frames))

    paths[0].write_bytes(b"a")
    assert state(*paths) == 0, "one is not there"
    paths[1].write_bytes(b"b")
    first = state(*paths)
    assert first not in (0, state(*reversed(paths)), state(paths[0]))
    assert state(*paths) == first
    os.utime(paths[1], ns=(7, 7))
    assert state(*paths) not in (0, first)
