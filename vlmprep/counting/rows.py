"""One ledger row per source row: exact counts from headers and text, or the reason why there are none."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import xxhash

from vlmprep.schema.at_work import at_work
from vlmprep.schema.conversation import Media, Sample
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.fake_image import FAKE_IMAGE, has_pictures, with_fake_image
from vlmprep.schema.family import Encoded, Family
from vlmprep.schema.ledger import CUTTABLE_TOKENS, ENCODER_WORK, OK, REFUSED
from vlmprep.schema.media import ImageSize, Loader, MediaCount, MediaSize

__all__ = ["HeaderReader", "RawRow", "SampleReader", "count_rows", "media_state"]

COUNTS = (
    *("num_visual_tokens", "num_images", "num_videos", "num_audios", "num_patches", "stored_bytes", "media_bytes"),
    *ENCODER_WORK,
)
"""What a record holds of its media, which a refused row has none of."""

OF_A_MEDIUM = ("kind", "num_visual_tokens", "num_patches", "stored_bytes")
MEDIUM_FIELDS = ("start", "end", *OF_A_MEDIUM, *ENCODER_WORK)
"""As in `schema.ledger.MEDIUM`."""
counts_of = operator.attrgetter(*OF_A_MEDIUM, *(f"work.{name}" for name in ENCODER_WORK))


class RawRow(Protocol):
    """One row as it stands in its file."""

    @property
    def row(self) -> int:
        """0-based row number."""
        ...

    @property
    def offset(self) -> int:
        """Byte offset in the file."""
        ...

    @property
    def data(self) -> Any:
        """What a SampleReader takes; its length is the number of the row's bytes."""
        ...

    @property
    def xxh3(self) -> int:
        """64-bit digest of these bytes."""
        ...


class SampleReader(Protocol):
    """Turns a row into a sample."""

    def sample(self, row: int, data: Any) -> Sample:
        """Raises RefuseSample for a row that makes no conversation."""
        ...


class HeaderReader(Protocol):
    """Looks at media without decoding them."""

    def size(self, medium: Media, loader: Loader, *, with_sound: bool = False) -> MediaSize:
        """Raises RefuseSample for a medium that cannot be used."""
        ...

    def state(self, medium: Media) -> int:
        """Digest that changes when the file does."""
        ...


def count_rows(
    source: str,
    raws: Sequence[RawRow],
    *,
    rows: SampleReader,
    media: HeaderReader,
    family: Family,
    count_with_fake: bool = False,
    check_media: Callable[[Sample, Sequence[MediaCount], Family], None] | None = None,
) -> list[dict[str, Any]]:
    """Count some rows of one source.

    Args:
        source: Name of the source.
        raws: The rows as they stand in their file; a few dozen, since they are tokenized at one call.
        rows: Converts a row.
        media: Reads media headers.
        family: Counts media and encodes text.
        count_with_fake: Count samples without pictures once more, with a fake image in them.
        check_media: Raises RefuseSample where media that were counted do not decode; None believes their headers.

    Returns:
        A record of schema.ledger.LEDGER for each row, in order.
    """
    records = [_bare_record(source, raw) for raw in raws]
    measured: list[tuple[dict[str, Any], Sample, list[MediaCount]]] = []
    without_pictures: list[tuple[dict[str, Any], Sample, list[MediaSize]]] = []
    for raw, record in zip(raws, records, strict=True):
        at_work(f"row {raw.row} of source {source!r}")
        try:
            sample = rows.sample(raw.row, raw.data)
            record["sample_id"], record["kept"] = sample.sample_id, sample.kept
            record["media_state"] = media_state(sample, media)
            sizes, counts = _measure(record, sample, media, family)
            measured.append((record, sample, counts))
            if count_with_fake and not has_pictures(sample):
                without_pictures.append((record, sample, sizes))
        except RefuseSample as refusal:
            _refuse(record, refusal)
    if measured:
        at_work(f"the text of rows {measured[0][0]['row']} to {measured[-1][0]['row']} of source {source!r}")
    encoded = family.encode_all([(sample, counts) for _, sample, counts in measured])
    for (record, sample, counts), found in zip(measured, encoded, strict=True):
        try:
            if isinstance(found, RefuseSample):
                raise found
            if check_media is not None:
                at_work(f"row {record['row']} of source {source!r}")
                check_media(sample, counts, family)
            record |= _counted(found, counts)
        except RefuseSample as refusal:
            _refuse(record, refusal)
    _count_with_fake([entry for entry in without_pictures if entry[0]["status"] == OK], family)
    return records


def _counted(encoded: Encoded, counts: Sequence[MediaCount]) -> dict[str, Any]:
    """What a record says of a sample that can be used."""
    return {
        "status": OK,
        "num_tokens": encoded.num_tokens,
        "num_label_tokens": encoded.num_label_tokens,
        "num_left_out_characters": encoded.num_left_out_characters,
        **_where_to_cut(encoded, counts),
    }


def _where_to_cut(encoded: Encoded, counts: Sequence[MediaCount]) -> dict[str, Any]:
    """What a record says of where its sample may be cut: nothing of short ones, which takes a fiftieth of counting's time."""
    if encoded.num_tokens <= CUTTABLE_TOKENS:
        return {}
    return {"first_label": encoded.first_label, "media": _media(encoded, counts)}


def _media(encoded: Encoded, counts: Sequence[MediaCount]) -> list[dict[str, Any]] | None:
    """Where a sample's media lie, and what was counted of each; None where they cannot be told from the text."""
    if (spans := encoded.media_spans) is None:
        return None
    places = spans.tolist()
    return [
        dict(zip(MEDIUM_FIELDS, (*place, *counts_of(count)), strict=True))
        for place, count in zip(places, counts, strict=True)
    ]


def _count_with_fake(rows: Sequence[tuple[dict[str, Any], Sample, list[MediaSize]]], family: Family) -> None:
    r"""Count samples without pictures once more, with a fake image in them.

    Tokenized as a whole: text around an image may merge otherwise than without it ("user\n" and "\nQ").

    Args:
        rows: Record, sample, and the sizes of its sounds.
        family: Counts the image and encodes the text.
    """
    height, width = family.fake_image_size
    white = ImageSize(height=height, width=width, num_bytes=0)
    injected: list[tuple[dict[str, Any], Sample, list[MediaCount]]] = []
    for record, bare, sounds in rows:
        sample = with_fake_image(bare)
        left = iter(sounds)
        sizes = [white if medium is FAKE_IMAGE else next(left) for medium in sample.media()]
        try:
            injected.append((record, sample, family.measure(sizes)))
        except RefuseSample:
            continue  # stays null: a plan that needs the image refuses the sample
    encoded = family.encode_all([(sample, counts) for _, sample, counts in injected])
    for (record, _, counts), found in zip(injected, encoded, strict=True):
        if not isinstance(found, RefuseSample):
            counted = {"num_tokens": found.num_tokens, **_where_to_cut(found, counts)}
            record |= {f"{name}_with_fake": value for name, value in counted.items()}


def _bare_record(source: str, raw: RawRow) -> dict[str, Any]:
    """What is known of a row before it is read."""
    return {
        "source": source,
        "row": raw.row,
        "sample_id": str(raw.row),
        "row_offset": raw.offset,
        "row_bytes": len(raw.data),
        "row_xxh3": raw.xxh3,
        "media_state": 0,
    }


def _refuse(record: dict[str, Any], refusal: RefuseSample) -> None:
    for count in COUNTS:
        record.pop(count, None)
    record |= {"status": REFUSED, "reason": refusal.reason, "reason_code": refusal.code}
    record["sample_id"] = refusal.sample_id or record["sample_id"]
    record["kept"] = refusal.kept or record.get("kept")


def media_state(sample: Sample, media: HeaderReader) -> int:
    """Digest of the state of all media files of a sample; 0 without media."""
    if not (all_media := sample.media()):
        return 0
    digest = xxhash.xxh3_64()
    for medium in all_media:
        digest.update(media.state(medium).to_bytes(8, "little"))
    return digest.intdigest()


def _measure(
    record: dict[str, Any], sample: Sample, media: HeaderReader, family: Family
) -> tuple[list[MediaSize], list[MediaCount]]:
    """Sizes and counts of a sample's media from their headers; the counts go into its record too."""
    all_media = sample.media()
    for medium in all_media:
        if medium.kind not in family.kinds:
            raise RefuseSample("unsupported-media", f"{family.name} samples with {medium.kind} are not packed")
    sizes = [media.size(medium, family.loader, with_sound=family.hears_clips) for medium in all_media]
    counts = family.measure(sizes)
    record |= {
        "num_visual_tokens": sum(count.num_visual_tokens for count in counts),
        "num_images": sum(medium.kind == "image" for medium in all_media),
        "num_videos": sum(medium.kind == "video" for medium in all_media),
        "num_audios": sum(medium.kind == "audio" for medium in all_media),
        "num_patches": sum(count.num_patches for count in counts),
        "stored_bytes": sum(count.stored_bytes for count in counts),
        "media_bytes": sum(size.num_bytes for size in sizes),
        **{name: sum(getattr(count.work, name) for count in counts) for name in ENCODER_WORK},
    }
    return sizes, counts
