"""Sounds: their length from the header, and their samples as transformers' soundfile backend decodes them.

That backend (`transformers.audio_utils.load_audio(backend="soundfile")`) averages the channels, then resamples with
`soxr_hq`, then pads or trims to ceil(samples * rate / own rate). The sound of a video, which it does not read, is
decoded by FFmpeg and goes the same way from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.mediafiles.mp3 import length_note
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import AudioSize

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["container_sound", "container_sound_size", "decoded_sound", "resampled", "samples_at", "sound_size"]

BLOCK_SAMPLES = 1 << 16
LEVELS_PER_SECOND = 2 * 48_000
SAMPLES_PER_MP3_FRAME = 1_152
MP3_FRAMES_OFF = 3
"""Encoders and decoders differ in what they count at a sound's ends."""
MP3_SHARE = 0.99
"""Of the bytes that an MP3 speaks of; libmpg123 warns below."""
UNKNOWN_LENGTH = (1 << 63) - 1
"""What libsndfile says of a file whose length it does not know."""


def sound_size(file: IO[bytes], num_bytes: int, name: str, max_seconds: float = math.inf) -> AudioSize:
    """Read a sound's length from its header.

    Args:
        file: The encoded sound, seekable.
        num_bytes: Its size.
        name: What a person calls it.
        max_seconds: How long it may be.

    Raises:
        RefuseSample: No sound that libsndfile reads, of unknown length, or above the limit.
    """
    note = length_note(file)
    if note is not None and note.end is not None and num_bytes < MP3_SHARE * note.end:
        raise RefuseSample("truncated-media", f"{name} is cut off: {num_bytes} bytes of {note.end}")
    with opened_sound(file, name) as sound:
        guessed = sound.format == "MP3" and note is None
        num_samples, rate = decoded_length(sound, name) if guessed else sound.frames, sound.samplerate
        num_channels = sound.channels
    if guessed:
        file.seek(0)
        check_whole_mp3(file, num_samples, name)
    if num_samples >= UNKNOWN_LENGTH:
        raise RefuseSample("unknown-length", f"{name} does not say how long it is")
    if num_samples == 0:
        raise RefuseSample("no-samples", f"{name} holds no sound: 0 samples")
    check_length(num_samples, rate, num_channels, max_seconds, name)
    return AudioSize(num_samples=num_samples, sampling_rate=rate, num_bytes=num_bytes)


def check_length(num_samples: int, rate: int, num_channels: int, max_seconds: float, name: str) -> None:
    """Hold a sound against the time, and against the memory of so much time in stereo at 48 kHz.

    Raises:
        RefuseSample: It is longer, or its rate and channels make more of it.
    """
    if num_samples > max_seconds * rate:
        raise RefuseSample(
            "sound-too-long",
            f"{name} is {num_samples / rate:.0f} s long, above --max-audio-seconds {max_seconds:g}",
        )
    if num_samples * num_channels > max_seconds * LEVELS_PER_SECOND:
        raise RefuseSample(
            "sound-too-large",
            f"{name} decodes to {num_samples} samples of {num_channels} channels, more than --max-audio-seconds "
            f"{max_seconds:g} of stereo at 48 kHz",
        )


def decoded_length(sound: Any, name: str) -> int:
    """Samples that decoding gives; libsndfile stops where it guessed the end.

    Raises:
        RefuseSample: It does not decode.
    """
    num_samples = 0
    try:
        while length := len(sound.read(BLOCK_SAMPLES, dtype="float32")):
            num_samples += length
    except RuntimeError as error:
        raise RefuseSample("undecodable-media", f"{name} does not decode: {error}") from error
    return num_samples


def check_whole_mp3(file: IO[bytes], num_samples: int, name: str) -> None:
    """Hold the length that libsndfile finds against the frames that are there.

    Raises:
        RefuseSample: It guessed the end of the sound too early, and transformers would leave out the rest.
    """
    import av

    with av.open(file, "r", format="mp3") as container:
        stream = container.streams.audio[0]
        there = sum(packet.duration or 0 for packet in container.demux(stream)) * (stream.time_base or 0) * stream.rate
    if there - num_samples > MP3_FRAMES_OFF * SAMPLES_PER_MP3_FRAME:
        raise RefuseSample(
            "unknown-length",
            f"{name} does not say how long it is, and transformers would read {num_samples} of {int(there)} samples; "
            "convert it to wav or flac, or write it anew with a Xing header",
        )


def opened_sound(file: IO[bytes], name: str) -> Any:
    """A soundfile.SoundFile.

    Raises:
        RefuseSample: libsndfile does not read it.
    """
    import soundfile  # only sounds need it

    try:
        return soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        reason = getattr(error, "error_string", None) or error
        raise RefuseSample(
            "not-a-sound", f"{name} is no sound that can be read (wav, flac, mp3, ogg and a few more): {reason}"
        ) from error


def decoded_sound(file: IO[bytes], name: str) -> tuple[NDArray[np.float32], int]:
    """Decode a sound.

    Args:
        file: The encoded sound, seekable.
        name: What a person calls it.

    Returns:
        Samples [n] float32, the mean of all channels, and how many make a second.

    Raises:
        RefuseSample: It does not decode, or not to the length that its header says.
    """
    note = length_note(file)
    with opened_sound(file, name) as sound:
        guessed = sound.format == "MP3" and note is None
        promised = sound.frames
        try:
            channels = sound.read(dtype="float32", always_2d=True).T
        except RuntimeError as error:
            raise RefuseSample("undecodable-media", f"{name} does not decode: {error}") from error
        if channels.shape[1] != promised and not guessed:
            raise lying_length(name, channels.shape[1], promised)
        return mono(channels), int(sound.samplerate)


def mono(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[channels, n] to [n], as transformers does."""
    mean: NDArray[np.float32] = channels.mean(axis=0) if channels.shape[0] > 1 else channels[0]
    return mean


def samples_at(size: AudioSize, sampling_rate: int) -> int:
    """Samples of a sound at another rate."""
    return math.ceil(size.num_samples * sampling_rate / size.sampling_rate)


def resampled(waveform: NDArray[np.float32], own_rate: int, sampling_rate: int) -> NDArray[np.float32]:
    """Bring samples [n] to another rate: [ceil(n * sampling_rate / own_rate)] float32."""
    if own_rate != sampling_rate:
        import soxr  # only sounds need it

        num_samples = math.ceil(len(waveform) * sampling_rate / own_rate)
        waveform = soxr.resample(waveform, own_rate, sampling_rate, quality="soxr_hq")
        waveform = np.pad(waveform, (0, max(0, num_samples - len(waveform))))[:num_samples]
    return np.ascontiguousarray(waveform, dtype=np.float32)


def container_sound_size(
    container: InputContainer, num_bytes: int, name: str, max_seconds: float = math.inf
) -> AudioSize | None:
    """How long the first sound of a video is, counted by decoding it: codecs begin and end within a packet.

    Args:
        container: Just opened; it is read to its end.
        num_bytes: Size of the encoded file.
        name: What a person calls it.
        max_seconds: How long it may be.

    Returns:
        None where the video is silent.

    Raises:
        RefuseSample: It does not decode, changes its rate or channels, or is above the limit.
    """
    if not container.streams.audio:
        return None
    num_samples, rate = 0, container.streams.audio[0].rate
    for block in sound_blocks(container, name):
        num_samples += block.samples
        check_length(num_samples, rate, block.layout.nb_channels, max_seconds, name)
    if num_samples == 0:
        raise RefuseSample("no-samples", f"the sound of {name} has 0 samples")
    return AudioSize(num_samples=num_samples, sampling_rate=rate, num_bytes=num_bytes)


def container_sound(container: InputContainer, name: str) -> tuple[NDArray[np.float32], int]:
    """Decode the first sound of a video.

    Args:
        container: Just opened.
        name: What a person calls it.

    Returns:
        Samples [n] float32, the mean of all channels, and how many make a second.

    Raises:
        RefuseSample: There is none, it does not decode, or it changes its rate or channels.
    """
    import av

    if not container.streams.audio:
        raise RefuseSample("no-sound", f"{name} is silent")
    to_float = av.AudioResampler(format="fltp")  # neither rate nor channels change: integers become n / 2**(bits - 1)
    blocks = [
        converted.to_ndarray() for block in sound_blocks(container, name) for converted in to_float.resample(block)
    ]
    blocks.extend(converted.to_ndarray() for converted in to_float.resample(None))
    if not blocks:
        raise RefuseSample("no-samples", f"the sound of {name} has 0 samples")
    return mono(np.concatenate(blocks, axis=1)), container.streams.audio[0].rate


def sound_blocks(container: InputContainer, name: str) -> Iterator[Any]:
    """The decoder's frames of the first sound.

    Raises:
        RefuseSample: Its rate or its channels change.
    """
    first: tuple[int, int] | None = None
    for block in container.decode(audio=0):
        form = (block.sample_rate, block.layout.nb_channels)
        first = first or form
        if form != first or form[0] != container.streams.audio[0].rate:
            raise RefuseSample("changing-sound", f"the sound of {name} changes its rate or its channels")
        yield block


def lying_length(name: str, got: int, promised: int) -> RefuseSample:
    """The refusal of a sound that is longer or shorter than its header says."""
    return RefuseSample("lying-header", f"{name}: {got} samples decode, its header promised {promised}")
