"""Progressive JPEGs that would take for ever: every scan of a few bytes costs a pass over all pixels."""

from __future__ import annotations

from vlmprep.schema.errors import RefuseSample

__all__ = ["MAX_SCANS", "check_scans"]

MAX_SCANS = 500
"""Encoders write 10, optimizers up to some dozens; the limit is that of libjpeg-turbo's own fuzzing."""
SIGNATURE = b"\xff\xd8"
START_OF_SCAN = b"\xff\xda"
"""Among coded pixels 0xff is followed by 0x00 or a restart marker, so that these two bytes are always a marker's."""


def check_scans(data: bytes, name: str) -> None:
    """Hold the number of a JPEG's scans against what anybody writes.

    Args:
        data: An encoded image of any format.
        name: What a person calls it.

    Raises:
        RefuseSample: It is a JPEG with more.
    """
    if data.startswith(SIGNATURE) and (num_scans := data.count(START_OF_SCAN)) > MAX_SCANS:
        raise RefuseSample(
            "too-many-scans",
            f"{name} is a JPEG of {num_scans} scans, each a pass over all pixels; {MAX_SCANS} are decoded",
        )
