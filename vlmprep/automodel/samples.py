"""From an example to the sample that vlmprep's families read, media included: what the lazy way builds documents from."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from vlmprep.automodel.conversations import medium_in, sample_of
from vlmprep.automodel.examples import conversation_of
from vlmprep.automodel.given import given_medium, is_encoded
from vlmprep.automodel.phi4 import with_sounds
from vlmprep.schema.conversation import Media, MediaKind, Sample
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.tools import tools_of

__all__ = ["SOURCE", "example_bytes", "sample_of_example"]

SOURCE = "examples"
"""Name of the source of samples that come from a data set in memory."""
RATES = ("fps", "sample_fps")


def sample_of_example(example: Any, row: int) -> Sample:
    """Convert an example.

    Args:
        example: A mapping, `{"conversation": [...]}`; media as paths, `FOLDER.lmdb::KEY`, URLs of file systems, data URIs,
            encoded bytes, PIL images, arrays of sound with their rate. Beside the conversation may stand `tools`, and with
            `<|audio_1|>` in the text `audio`.
        row: Its place in the data set.

    Raises:
        RefuseSample: It makes no conversation.
    """
    placed = with_sounds(conversation_of(example), example)
    sample = sample_of(placed, row, media_of_item)
    return replace(sample, source=SOURCE, tools=tools_of(example, {}))


def media_of_item(kind: MediaKind, item: Mapping[str, Any]) -> Media:
    """The medium of an item of a message.

    Raises:
        RefuseSample: It is given in no way that is known.
    """
    value = medium_in(kind, item).value
    if kind == "video" and isinstance(value, list | tuple):
        if rates := [name for name in RATES if item.get(name) is not None]:
            raise RefuseSample(
                "media-options", f"{rates[0]} of a clip that is a list of images is not packed; leave it out"
            )
        value = [lossless_image(frame) if isinstance(frame, Image.Image) else frame for frame in value]
    elif isinstance(value, Image.Image):
        value = lossless_image(value)
    elif kind == "audio" and not is_encoded(value):
        value = lossless_sound(value)
    return given_medium(kind, value, from_web=False)


def lossless_image(image: Image.Image) -> bytes:
    """A decoded image as a PNG of its pixels in RGB, not deflated; its orientation is what it is, whatever tags it has."""
    pixels = Image.fromarray(np.asarray(image.convert("RGB")))
    file = io.BytesIO()
    pixels.save(file, format="PNG", compress_level=0)
    return file.getvalue()


def lossless_sound(value: Any) -> bytes:
    """Samples with their rate as a WAV of the same floats.

    Raises:
        RefuseSample: Samples without a rate, or none of these.
    """
    if isinstance(value, Mapping):
        samples, rate = np.asarray(value["array"]), int(value["sampling_rate"])
    elif isinstance(value, tuple | list) and len(value) == 2 and np.ndim(value[0]) == 1:
        samples, rate = np.asarray(value[0]), int(value[1])
    else:
        raise RefuseSample("audio-shape", f"a sound is {type(value).__name__}; give (samples, rate), a path or bytes")
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise RefuseSample(
            "audio-shape", f"a sound is {samples.dtype} {list(samples.shape)}; one channel of floats is expected"
        )
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.float32), rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def example_bytes(example: Any) -> bytes:
    """What an example says, as bytes to tell it from others by; decoded media by kind and size alone."""
    return json.dumps(example, default=_told, skipkeys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _told(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    size = getattr(value, "size", None) or getattr(value, "shape", None)
    return value.hex() if isinstance(value, bytes) else f"{type(value).__name__} {size}"
