"""One ledger row per source row: exact counts from headers and text, or the reason why there are none."""

from __future__ import annotations

from typing import Any, Protocol

import xxhash

from vlmprep.schema.conversation import Media, Sample
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.family import Family
from vlmprep.schema.ledger import OK, REFUSED
from vlmprep.schema.media import Loader, MediaSize

__all__ = ["HeaderReader", "SampleReader", "count_row", "media_state"]


class SampleReader(Protocol):
    """Turns a row's bytes into a sample."""

    def sample(self, row: int, data: bytes) -> Sample:
        """Raises RefuseSample for a row that makes no conversation."""
        ...


class HeaderReader(Protocol):
    """Looks at media without decoding them."""

    def image_size(self, medium: Media, loader: Loader) -> MediaSize:
        """Raises RefuseSample for an image that cannot be used."""
        ...

    def state(self, medium: Media) -> int:
        """Digest that changes when the file does."""
        ...


def count_row(
    source: str, row: int, offset: int, data: bytes, *, rows: SampleReader, media: HeaderReader, family: Family
) -> dict[str, Any]:
    """Count one source row.

    Args:
        source: Name of the source.
        row: 0-based row number.
        offset: Byte offset of the row in its file.
        data: The row's bytes.
        rows: Converts the row.
        media: Reads media headers.
        family: Counts media and encodes text.

    Returns:
        A record of schema.ledger.LEDGER.
    """
    record: dict[str, Any] = {
        "source": source,
        "row": row,
        "sample_id": str(row),
        "row_offset": offset,
        "row_bytes": len(data),
        "row_xxh3": xxhash.xxh3_64_intdigest(data),
        "media_state": 0,
    }
    try:
        sample = rows.sample(row, data)
        record["sample_id"] = sample.sample_id
        record["media_state"] = media_state(sample, media)
        record |= _counts(sample, media, family)
        record["status"] = OK
    except RefuseSample as refusal:
        record |= {"status": REFUSED, "reason": refusal.reason, "reason_code": refusal.code}
        record["sample_id"] = refusal.sample_id or record["sample_id"]
    return record


def media_state(sample: Sample, media: HeaderReader) -> int:
    """Digest of the state of all media files of a sample; 0 without media."""
    if not (all_media := sample.media()):
        return 0
    digest = xxhash.xxh3_64()
    for medium in all_media:
        digest.update(media.state(medium).to_bytes(8, "little"))
    return digest.intdigest()


def _counts(sample: Sample, media: HeaderReader, family: Family) -> dict[str, int]:
    sizes: list[MediaSize] = []
    for medium in sample.media():
        if medium.kind not in family.kinds:
            raise RefuseSample("unsupported-media", f"{family.name} samples with {medium.kind} are not packed yet")
        sizes.append(media.image_size(medium, family.loader))
    counts = [family.measure(size) for size in sizes]
    encoded = family.encode(sample, counts)
    return {
        "num_tokens": encoded.num_tokens,
        "num_visual_tokens": sum(count.num_visual_tokens for count in counts),
        "num_label_tokens": encoded.num_label_tokens,
        "num_images": len(sample.media("image")),
        "num_videos": len(sample.media("video")),
        "num_audios": len(sample.media("audio")),
        "num_patches": sum(count.num_patches for count in counts),
        "media_bytes": sum(size.num_bytes for size in sizes),
    }
