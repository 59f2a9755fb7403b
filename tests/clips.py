"""Small clips and sounds, encoded on the spot: moving gradients and tones, in every container and with every oddity."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

__all__ = [
    "X265",
    "Recipe",
    "clip",
    "decoded_frames",
    "moving_picture",
    "mp3",
    "remuxed",
    "sound",
    "tone",
    "with_a_silent_packet",
]

MILLISECOND = Fraction(1, 1_000)
NAL_FILLER = 38 << 1
X265 = {"x265-params": "log-level=none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A clip."""

    container: str = "mp4"
    codec: str = "libx264"
    num_frames: int = 12
    rate: int | Fraction = 10
    height: int = 48
    width: int = 64
    pixels: str = "yuv420p"
    b_frames: int | None = None
    key_every: int | None = None
    rotation: int | None = None
    """Degrees, counter-clockwise, as in a display matrix."""
    milliseconds: Sequence[int] | None = None
    """When each frame is shown, where the rate varies."""
    sound: str | None = None
    """Codec of half a second of sound."""
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)


def clip(recipe: Recipe) -> bytes:
    """Encode a clip."""
    target = io.BytesIO()
    with av.open(target, "w", format=recipe.container, container_options=dict(recipe.container_options)) as container:
        stream: Any = container.add_stream(recipe.codec, rate=recipe.rate, options=dict(recipe.options))
        stream.height, stream.width, stream.pix_fmt = recipe.height, recipe.width, recipe.pixels
        if recipe.b_frames is not None:
            stream.codec_context.max_b_frames = recipe.b_frames
        if recipe.key_every is not None:
            stream.codec_context.gop_size = recipe.key_every
        if recipe.rotation is not None:
            stream.set_display_rotation(recipe.rotation)
        if recipe.milliseconds is not None:
            stream.codec_context.time_base = MILLISECOND
        hearing: Any = container.add_stream(recipe.sound, rate=48_000) if recipe.sound else None
        for number in range(recipe.num_frames):
            frame = av.VideoFrame.from_ndarray(moving_picture(number, recipe.height, recipe.width), "rgb24")
            if recipe.milliseconds is not None:
                frame.pts, frame.time_base = recipe.milliseconds[number], MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if hearing is not None:
            samples = av.AudioFrame.from_ndarray(np.stack([tone(24_000), tone(24_000, 660)]), "fltp", "stereo")
            samples.rate = 48_000
            container.mux(hearing.encode(samples))
            container.mux(hearing.encode(None))
    return target.getvalue()


def moving_picture(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Frame `number` of a gradient that moves: [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 + number * 9, y * 4 + number * 5, (x + y) * 2 + number * 13], -1).astype(np.uint8)


def remuxed(data: bytes, container: str, *, first: int = 0, earlier: float = 0.0) -> bytes:
    """The packets of a clip in another container, without decoding.

    Args:
        data: The clip.
        container: Of the result.
        first: Packets before this one are left out, as a cut without encoding does.
        earlier: Seconds that all are shown earlier; mp4 then hides what would be shown before 0 by an edit list.
    """
    target = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as old, av.open(target, "w", format=container) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size == 0 or number < first:
                continue
            shift = int(earlier / packet.time_base)
            assert packet.pts is not None
            assert packet.dts is not None
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = stream
            new.mux(packet)
    return target.getvalue()


def with_a_silent_packet(recipe: Recipe, packet: int) -> bytes:
    """An HEVC clip one of whose packets decodes to nothing: its picture is filler."""
    data = clip(replace(recipe, codec="libx265", options=X265))
    with av.open(io.BytesIO(data), "r") as container:
        found = [bytes(each) for each in container.demux(video=0)][packet]
    at = data.index(found)
    assert data.count(found) == 1
    return data[: at + 4] + bytes([NAL_FILLER]) + data[at + 5 :]


def decoded_frames(data: bytes) -> list[NDArray[np.uint8]]:
    """Every frame that PyAV decodes of the first video stream: [height, width, 3] each, as it lies."""
    with av.open(io.BytesIO(data), "r") as container:
        return [rgb(frame) for frame in container.decode(video=0)]


def rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    levels: Any = frame.to_ndarray(format="rgb24")
    return np.asarray(levels, np.uint8)


def tone(num_samples: int, hertz: float = 440, rate: int = 48_000) -> NDArray[np.float32]:
    """A sine that swells: [num_samples]."""
    time = np.arange(num_samples) / rate
    return (np.sin(2 * np.pi * hertz * time) * np.linspace(0.1, 0.9, num_samples)).astype(np.float32)


def mp3(num_samples: int = 30_000, *, noted: bool = True, varying: bool = False, tag: bool = True) -> bytes:
    """Encode an MP3 with LAME, 44,100 samples a second in stereo.

    Args:
        num_samples: Of one channel.
        noted: Write the frame that says how long the sound is.
        varying: Let the bit rate vary.
        tag: Begin with an ID3v2 tag.
    """
    target = io.BytesIO()
    options = {"write_xing": "1" if noted else "0", "id3v2_version": "4" if tag else "0"}
    with av.open(target, "w", format="mp3", container_options=options) as container:
        quality = {"flags": "+qscale", "global_quality": "590"} if varying else {}
        stream: Any = container.add_stream("libmp3lame", rate=44_100, options=quality)
        samples = av.AudioFrame.from_ndarray(np.stack([tone(num_samples, 440, 44_100)] * 2), "fltp", "stereo")
        samples.rate = 44_100
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    return target.getvalue()


def sound(
    container: str = "WAV", *, num_samples: int = 4_800, rate: int = 16_000, channels: int = 1, **options: Any
) -> bytes:
    """Encode a sound with libsndfile."""
    target = io.BytesIO()
    waves = np.stack([tone(num_samples, 300 + 120 * channel, rate) for channel in range(channels)], axis=1)
    soundfile.write(target, waves, rate, format=container, **options)
    return target.getvalue()
