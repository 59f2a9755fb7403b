"""What decoding a clip gives, found without decoding it: the number of its frames, their rate and their size.

    container says the number, and its index agrees       count the index
    a packet is a frame (H.264, HEVC, AV1, VP9 and the like)  count the packets
    anything else                                             count the decoder's frames

Packets that an edit list hides are none; a stream that begins in the middle (no key frame first, or pictures that
lean on one before) is counted by decoding, because decoders drop what they cannot build.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import VideoSize

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["UNLIMITED", "ClipLimits", "Turn", "check_frames", "picture_stream", "rgb", "turn_of", "video_size"]

PACKET_IS_FRAME = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "vvc", "prores", "png", "ffv1", "rawvideo"})
"""Codecs of which a container's packet holds one shown frame."""
INDEXED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"})
"""Containers that keep frames apart; in others a packet is what a parser makes of the bytes."""
READS_PAST_DATA = frozenset({"mjpeg"})
"""Decoders that fill a damaged frame with what lay in memory, other levels at every reading, unless told to fail."""
MARGIN = 4
"""Decoders round sides up before they hold them against their limit."""
DECODERS_LIMIT = (1 << 31) - 1
LEAST_LIMIT = 1 << 16
"""Decoders hold buffers of their own against their limit, too: of a 64 x 48 clip these are larger than four frames."""
ONE = 1 << 16
"""1.0 in a display matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLimits:
    """What is read of a clip at most."""

    max_pixels: int
    """Height x width of a frame."""
    max_frames: int
    """Frames of the file, sampled or not."""


UNLIMITED = ClipLimits(max_pixels=(1 << 31) - 1, max_frames=1 << 62)
"""For a clip that was held against its limits before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How decoded frames are brought upright: first transposed, then mirrored."""

    transposed: bool = False
    upside_down: bool = False
    """Rows in reverse, after transposing."""
    mirrored: bool = False
    """Columns in reverse, after transposing."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an upright frame."""
        return (width, height) if self.transposed else (height, width)

    def upright(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of a frame [height, width, 3], upright."""
        turned = frame.transpose(1, 0, 2) if self.transposed else frame
        return turned[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


@dataclass(slots=True)
class PacketTally:
    """Counts packets as they are taken, up to a limit."""

    packets: Iterator[Packet[VideoStream]]
    most: int
    name: str
    shown: int = 0
    """Packets that are not hidden by an edit list."""
    starts_clean: bool = True
    """The first is a key frame, and no other is shown before it."""
    _first: int | None = field(default=None)

    def __iter__(self) -> Iterator[Packet[VideoStream]]:
        for packet in self.packets:
            if packet.size and not packet.is_discard:
                self._add(packet)
            yield packet

    def _add(self, packet: Packet[VideoStream]) -> None:
        if packet.is_corrupt:
            raise RefuseSample("truncated-media", f"{self.name} is damaged or cut off at packet {self.shown}")
        if self.shown == 0:
            self._first = packet.pts
            self.starts_clean = packet.is_keyframe
        elif self._first is not None and packet.pts is not None and packet.pts < self._first:
            self.starts_clean = False
        self.shown += 1
        check_frames(self.shown, self.most, self.name)


def video_size(container: InputContainer, num_bytes: int, name: str, limits: ClipLimits) -> VideoSize:
    """Find out what decoding a container's first picture stream gives.

    The first frame is decoded, to see how it is to be turned; FFmpeg does the same to open most files.

    Args:
        container: Just opened; it is read to its end, or somewhere before.
        num_bytes: Size of the encoded file.
        name: What a person calls it.
        limits: What is read at most.

    Raises:
        RefuseSample: No pictures, no frame rate, above a limit, cut off, or turned by no multiple of 90 degrees.
    """
    stream = picture_stream(container, name, limits.max_pixels)
    check_frames(stream.frames, limits.max_frames, name)
    rate = stream.average_rate
    if not rate or rate <= 0:
        raise RefuseSample("no-frame-rate", f"{name} does not say how many frames a second it shows")
    tally = PacketTally(container.demux(stream), limits.max_frames, name)
    frames = frames_of_size(tally, stream.height, stream.width)
    first = next(frames, None)
    if first is None:
        raise RefuseSample("no-frames", f"{name} has no frame that decodes")
    height, width = turn_of(first, name).size(stream.height, stream.width)
    return VideoSize(
        num_frames=number_of_frames(stream, tally, frames, num_bytes),
        frames_per_second=float(rate),
        height=height,
        width=width,
        num_bytes=num_bytes,
    )


def picture_stream(container: InputContainer, name: str, max_pixels: int) -> VideoStream:
    """The stream that transformers reads, the first of pictures, ready to be decoded.

    Args:
        container: Just opened.
        name: What a person calls it.
        max_pixels: Of a frame; the decoder makes none that is much larger, whatever the header says.

    Raises:
        RefuseSample: There is none, it is the cover of a sound, or its frames are too large.
    """
    from av.stream import Disposition

    streams = container.streams.video
    if not streams:
        raise RefuseSample("no-video", f"{name} holds no pictures, only {kinds_in(container)}")
    if streams[0].disposition & Disposition.attached_pic:
        raise RefuseSample("no-video", f"the first pictures in {name} are a cover, no video")
    if streams[0].codec_context is None:
        raise RefuseSample("unread-codec", f"{name}: FFmpeg has no decoder for its pictures")
    stream = streams[0]
    if stream.height * stream.width > max_pixels:
        raise RefuseSample(
            "image-too-large",
            f"{name} claims frames of {stream.width} x {stream.height}, above --max-image-pixels {max_pixels}",
        )
    stream.thread_type = "SLICE"  # frames come out as early as they can
    options = {"max_pixels": str(min(max(MARGIN * max_pixels, LEAST_LIMIT), DECODERS_LIMIT))}
    if stream.codec_context.name in READS_PAST_DATA:
        options["err_detect"] = "explode"
    stream.codec_context.options = options
    return stream


def kinds_in(container: InputContainer) -> str:
    """What a container holds, for a message."""
    return " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def number_of_frames(stream: VideoStream, tally: PacketTally, rest: Iterator[VideoFrame], num_bytes: int) -> int:
    """Frames that decoding gives, by the cheapest way that is exact; the first was taken already."""
    container = stream.container
    sure = (
        container.format.name in INDEXED
        and stream.codec_context.codec.canonical_name in PACKET_IS_FRAME
        and tally.starts_clean
    )
    if not sure:
        return check_frames(1 + sum(1 for _ in rest), tally.most, tally.name)
    if container.format.name.startswith("mov") and 0 < stream.frames == len(stream.index_entries):
        return indexed_frames(stream, num_bytes, tally.name)
    for _ in tally:
        pass
    return tally.shown


def indexed_frames(stream: VideoStream, num_bytes: int, name: str) -> int:
    """Frames of an index, without those that an edit list hides.

    Raises:
        RefuseSample: The file ends before the index does.
    """
    end = max(entry.pos + entry.size for entry in stream.index_entries)
    if end > num_bytes:
        raise RefuseSample("truncated-media", f"{name} is cut off: {num_bytes} bytes of {end} at least")
    return sum(not entry.is_discard for entry in stream.index_entries)


def check_frames(count: int, most: int, name: str) -> int:
    """The same count.

    Raises:
        RefuseSample: It is above the limit.
    """
    if count > most:
        raise RefuseSample("clip-too-long", f"{name} has more frames than --max-clip-frames {most}")
    return count


def frames_of_size(tally: PacketTally, height: int, width: int) -> Iterator[VideoFrame]:
    """Decode packets as they are taken.

    Raises:
        RefuseSample: A frame is not as large as the header says.
    """
    for packet in tally:
        for frame in packet.decode():
            if (frame.height, frame.width) != (height, width):
                raise RefuseSample(
                    "lying-header",
                    f"{tally.name}: a frame is {frame.width} x {frame.height}, its header promised {width} x {height}",
                )
            yield frame


def turn_of(frame: VideoFrame, name: str) -> Turn:
    """How a frame is brought upright, by its display matrix.

    The matrix sends the point (x right, y down) to (a x + c y, b x + d y):

        a b u      0 1 0
        c d v     -1 0 0     a telephone held upright: x runs down, y runs left
        x y w      . . .

    Raises:
        RefuseSample: The matrix does more than turn by multiples of 90 degrees and mirror.
    """
    found = cast(Any, frame.side_data).get("DISPLAYMATRIX")
    if found is None:
        return Turn()
    a, b, _, c, d, *_ = struct.unpack_from("=9i", found)
    corners = (abs(a), abs(b), abs(c), abs(d))
    if corners == (ONE, 0, 0, ONE):
        return Turn(upside_down=d < 0, mirrored=a < 0)
    if corners == (0, ONE, ONE, 0):
        return Turn(transposed=True, upside_down=b < 0, mirrored=c < 0)
    raise RefuseSample(
        "unread-orientation",
        f"{name} is to be shown turned by {frame.rotation} degrees or scaled, and no loader does that; write it anew upright",
    )


def rgb(frame: Any) -> NDArray[np.uint8]:
    """A decoded frame as transformers' PyAV loader converts it: [height, width, 3] uint8."""
    levels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return levels
