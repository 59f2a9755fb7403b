"""From a sound to the samples that a feature extractor takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.families.wording import first_line
from vlmprep.mediafiles.containers import opened_container
from vlmprep.mediafiles.opening import open_medium
from vlmprep.mediafiles.sounds import container_sound, decoded_sound, resampled, samples_at
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun

__all__ = ["load_sound", "samples_at", "sampling_rate_of"]


def sampling_rate_of(processor: Any) -> int:
    """Samples per second that a processor's feature extractor takes."""
    extractor = getattr(processor, "feature_extractor", None) or processor.audio_processor
    return int(extractor.sampling_rate)


def load_sound(medium: Media, sampling_rate: int) -> NDArray[np.float32]:
    """Decode a sound, or the first sound of a video, as transformers' soundfile backend does.

    Args:
        medium: The sound or video; its header was read and accepted before.
        sampling_rate: Samples per second that the model hears.

    Returns:
        [samples_at(size, sampling_rate)] float32, one channel.

    Raises:
        RefuseSample: It does not decode, or not to the length that its header says.
    """
    try:
        with open_medium(medium) as file:
            if medium.kind == "video":
                with opened_container(file, medium.where) as container:
                    waveform, own_rate = container_sound(container, medium.where)
            else:
                waveform, own_rate = decoded_sound(file, medium.where)
    except (RefuseSample, StopRun):
        raise
    except Exception as error:  # each file system behind a URL has errors of its own
        raise RefuseSample("unreadable-media", f"{medium.where} cannot be read: {first_line(error)}") from error
    return resampled(waveform, own_rate, sampling_rate)
