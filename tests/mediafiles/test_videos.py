"""A clip's header against decoding it: frames, rate and size of every container, cut, turned, varying and broken ones."""

from __future__ import annotations

import io
import struct

import av
import pytest

from tests.clips import X265, Recipe, clip, decoded_frames, remuxed
from vlmprep.mediafiles.containers import opened_container
from vlmprep.mediafiles.videos import UNLIMITED, ClipLimits, Turn, picture_stream, video_size
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import VideoSize

WITH_HIDDEN_FRAMES = {"auto-alt-ref": "1", "lag-in-frames": "16"}
"""VP8 and VP9 then hold frames that are never shown."""
OPEN_GROUPS = "open-gop=1:keyint=6:min-keyint=6:bframes=3:b-adapt=0:scenecut=0"
"""Pictures behind a key frame in the file, before it on the screen."""

KINDS = {
    "mp4": Recipe(),
    "mp4 with B-frames": Recipe(b_frames=3),
    "mp4 in fragments": Recipe(key_every=4, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "mp4 in fragments behind frames": Recipe(key_every=4, container_options={"movflags": "frag_keyframe"}),
    "mp4 with sound": Recipe(sound="aac"),
    "mp4 HEVC": Recipe(codec="libx265", options=X265),
    "mp4 10-bit": Recipe(codec="libx265", pixels="yuv420p10le", options=X265),
    "mp4 of odd sides": Recipe(pixels="yuv444p", height=47, width=63),
    "mp4 MPEG-4": Recipe(codec="mpeg4", b_frames=2),
    "mp4 of one frame": Recipe(num_frames=1),
    "mp4 of varying rate": Recipe(milliseconds=[n * n * 7 for n in range(12)]),
    "mov": Recipe(container="mov"),
    "webm VP8": Recipe(container="webm", codec="libvpx", num_frames=40, options=WITH_HIDDEN_FRAMES),
    "webm VP9": Recipe(container="webm", codec="libvpx-vp9", num_frames=40, options=WITH_HIDDEN_FRAMES),
    "webm of one frame": Recipe(container="webm", codec="libvpx-vp9", num_frames=1),
    "mkv": Recipe(container="matroska", b_frames=2),
    "mkv of varying rate": Recipe(container="matroska", milliseconds=[n * n * 7 for n in range(12)]),
    "avi": Recipe(container="avi", b_frames=0),
    "avi MPEG-4": Recipe(container="avi", codec="mpeg4", b_frames=2),
    "avi MJPEG": Recipe(container="avi", codec="mjpeg", pixels="yuvj420p"),
    "avi of one frame": Recipe(container="avi", codec="mpeg4", num_frames=1),
    "gif": Recipe(container="gif", codec="gif", pixels="rgb8"),
    "flv": Recipe(container="flv"),
    "ts": Recipe(container="mpegts", b_frames=2),
    "mpg": Recipe(container="mpeg", codec="mpeg2video", b_frames=2, rate=25),
    "wmv": Recipe(container="asf", codec="wmv2"),
}


def size_of(data: bytes, limits: ClipLimits = UNLIMITED) -> VideoSize:
    with opened_container(io.BytesIO(data), "it") as container:
        return video_size(container, len(data), "it", limits)


def refusal(data: bytes, limits: ClipLimits = UNLIMITED) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        size_of(data, limits)
    return caught.value


def outcome_of(data: bytes) -> VideoSize | RefuseSample:
    try:
        return size_of(data)
    except RefuseSample as refusal:
        return refusal


def average_rate(data: bytes) -> float:
    with av.open(io.BytesIO(data), "r") as container:
        rate = container.streams.video[0].average_rate
        assert rate is not None
        return float(rate)


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_tells_what_decoding_gives(kind):
    data = clip(KINDS[kind])
    frames = decoded_frames(data)
    assert len(frames) == KINDS[kind].num_frames > 0
    height, width = frames[0].shape[:2]
    assert size_of(data) == VideoSize(
        num_frames=len(frames),
        frames_per_second=average_rate(data),
        height=height,
        width=width,
        num_bytes=len(data),
    )


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv"])
@pytest.mark.parametrize("first", [1, 5, 8])
def test_a_clip_cut_without_encoding_has_the_frames_that_decode(container, first):
    data = remuxed(clip(Recipe(num_frames=32, b_frames=2, key_every=8)), container, first=first)
    frames = decoded_frames(data)
    assert 0 < len(frames) < 32 - first, "the decoder drops what leans on frames before the cut"
    assert size_of(data).num_frames == len(frames)


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_pictures_before_the_first_key_frame_on_the_screen_are_counted_as_they_decode(codec, container):
    name = codec.removeprefix("lib")
    data = clip(Recipe(codec=codec, num_frames=30, options={f"{name}-params": f"{OPEN_GROUPS}:log-level=none"}))
    with av.open(io.BytesIO(data), "r") as opened:
        keys = [number for number, packet in enumerate(opened.demux(video=0)) if packet.size and packet.is_keyframe]
    cut = remuxed(data, container, first=keys[1])
    frames = decoded_frames(cut)
    assert 0 < len(frames) < 30 - keys[1] + 1
    assert size_of(cut).num_frames == len(frames)


@pytest.mark.parametrize("earlier", [0.2, 0.9, 1.5])
def test_frames_that_an_edit_list_hides_are_not_counted(earlier):
    data = remuxed(clip(Recipe(num_frames=30, b_frames=2, key_every=8)), "mp4", earlier=earlier)
    frames = decoded_frames(data)
    with av.open(io.BytesIO(data), "r") as container:
        assert container.streams.video[0].frames == 30 > len(frames) > 0
    assert size_of(data).num_frames == len(frames)


@pytest.mark.parametrize("kind", ["mp4", "mp4 in fragments", "mkv", "webm VP9", "avi MPEG-4", "ts"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_clip_that_was_cut_off_is_refused_or_has_the_frames_that_decode(kind, share):
    data = clip(KINDS[kind])
    data = data[: int(len(data) * share)]
    outcome = outcome_of(data)
    if isinstance(outcome, RefuseSample):
        assert outcome.code in (
            "truncated-media",
            "undecodable-media",
            "not-a-video",
            "no-video",
            "no-frames",
            "no-frame-rate",
        )
    else:
        assert outcome.num_frames == len(decoded_frames(data))


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270, -90])
def test_a_turned_clip_has_the_size_it_is_shown_in(container, rotation):
    size = size_of(clip(Recipe(container=container, rotation=rotation)))
    assert (size.height, size.width) == ((64, 48) if rotation % 180 else (48, 64))


def test_a_clip_turned_askew_is_refused():
    assert refusal(clip(Recipe(rotation=45))).code == "unread-orientation"


def test_every_turn_keeps_the_size_that_it_promises():
    import numpy as np

    frame = np.zeros((2, 5, 3), np.uint8)
    for transposed in (False, True):
        turn = Turn(transposed=transposed, mirrored=True)
        assert turn.upright(frame).shape[:2] == turn.size(2, 5)


def test_a_sound_without_pictures_is_no_video():
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48_000)
        container.mux(stream.encode(None))
    found = refusal(clip(Recipe(sound="aac")) and target.getvalue())
    assert found.code in ("no-video", "not-a-video")


def test_a_sound_with_a_cover_is_no_video():
    from av.stream import Disposition

    target = io.BytesIO()
    picture = io.BytesIO(clip(Recipe(codec="mjpeg", pixels="yuvj420p", num_frames=1)))
    with av.open(picture, "r") as old, av.open(target, "w", format="mp4") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.disposition = Disposition.attached_pic
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    assert refusal(target.getvalue()).code == "no-video"


def test_limits_hold_before_anything_is_decoded():
    data = clip(Recipe(num_frames=12))
    assert refusal(data, ClipLimits(max_pixels=48 * 64 - 1, max_frames=12)).code == "image-too-large"
    found = refusal(data, ClipLimits(max_pixels=48 * 64, max_frames=11))
    assert (found.code, "--max-clip-frames 11" in found.reason) == ("clip-too-long", True)
    assert size_of(data, ClipLimits(max_pixels=48 * 64, max_frames=12)).num_frames == 12
    for container in ("matroska", "mpegts"):
        data = clip(Recipe(container=container, num_frames=12))
        assert refusal(data, ClipLimits(max_pixels=48 * 64, max_frames=11)).code == "clip-too-long"


def test_frames_larger_than_the_container_says_are_not_decoded():
    with opened_container(io.BytesIO(clip(Recipe(height=96, width=128))), "it") as container:
        picture_stream(container, "it", 96 * 128)
        assert next(container.decode(video=0)).height == 96
    heights: list[int] = []
    with pytest.raises(RefuseSample, match="does not decode"):
        decode_heights(of_two_sizes("mjpeg", larger=8), 48 * 64, heights)
    assert set(heights) == {48}


def decode_heights(data: bytes, max_pixels: int, heights: list[int]) -> None:
    with opened_container(io.BytesIO(data), "it") as container:
        picture_stream(container, "it", max_pixels)
        heights.extend(frame.height for frame in container.decode(video=0))


def of_two_sizes(codec: str, larger: int = 2) -> bytes:
    """Frames of 64 x 48, then some that are so many times larger, in one stream."""
    pixels, container = ("yuvj420p", "matroska") if codec == "mjpeg" else ("yuv420p", "flv")
    parts = [
        clip(Recipe(container=container, codec=codec, pixels=pixels, num_frames=4, height=48 * n, width=64 * n))
        for n in (1, larger)
    ]
    target = io.BytesIO()
    with av.open(target, "w", format=container) as new:
        stream = None
        for part in parts:
            with av.open(io.BytesIO(part), "r") as old:
                stream = stream or new.add_stream_from_template(old.streams.video[0])
                for packet in old.demux(video=0):
                    if packet.size and packet.pts is not None:
                        packet.pts = packet.dts = packet.pts + (part is parts[1]) * 400
                        packet.stream = stream
                        new.mux(packet)
    return target.getvalue()


def test_a_clip_that_changes_its_size_is_refused():
    data = of_two_sizes("flv")
    assert [frame.shape[0] for frame in decoded_frames(data)] == [48] * 4 + [96] * 4
    assert refusal(data).code == "lying-header"


def test_a_container_that_lies_about_the_size_is_found_out_or_harmless():
    data = clip(Recipe())
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    assert struct.unpack_from(">HH", data, at) == (64, 48)
    lying = data[:at] + struct.pack(">HH", 32, 24) + data[at + 4 :]
    assert decoded_frames(lying)[0].shape == (48, 64, 3)
    outcome = outcome_of(lying)
    if isinstance(outcome, RefuseSample):
        assert outcome.code == "lying-header"
    else:
        assert (outcome.height, outcome.width) == (48, 64)
