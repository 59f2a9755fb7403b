"""Names, columns and version of a pack set: what writer, reader, verifier and other people's programs agree on.

    PACKSET/
      manifest.json        written last: its presence means complete
      packs.arrow          PACKS: one row per pack, in pack_id order
      samples.parquet      SAMPLES: one row per source row
      shards/000000.tar    the packs
      receipts/000000.json one per committed shard

docs/format.md is the specification.
"""

from __future__ import annotations

import pyarrow as pa

__all__ = [
    "FORMAT_VERSION",
    "IGNORE_INDEX",
    "KEPT",
    "MANIFEST",
    "MEDIA_FIELDS",
    "PACKS",
    "PACKS_FILE",
    "SAMPLES",
    "SAMPLES_FILE",
    "SEQUENCE_FIELDS",
    "SETTINGS_FILE",
    "pack_key",
    "receipt_name",
    "shard_name",
]

FORMAT_VERSION = 1
IGNORE_INDEX = -100
"""Label of a token that the loss does not count."""

MANIFEST = "manifest.json"
PACKS_FILE = "packs.arrow"
SAMPLES_FILE = "samples.parquet"
SETTINGS_FILE = "settings.json"

SEQUENCE_FIELDS = ("input_ids", "labels", "attention_mask", "position_ids", "mm_token_type_ids")
"""Fields with one entry per token (position_ids may lead with its axes)."""
MEDIA_FIELDS = (
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
    "second_per_grid_ts",
    "image_position_ids",
)
"""Fields with one entry per patch or medium, concatenated in document order."""

PACKS = pa.schema(
    [
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("xxh3", pa.uint64()),
        ("num_tokens", pa.int32()),
        ("num_visual_tokens", pa.int32()),
        ("num_label_tokens", pa.int32()),
        ("num_samples", pa.int32()),
        ("num_images", pa.int32()),
        ("num_videos", pa.int32()),
        ("cost", pa.float64()),
    ]
)
"""packs.arrow: `offset` is where the pack's first tar header starts, `size` its bytes up to the next pack's header or
the end-of-archive blocks, `xxh3` the 64-bit XXH3 of exactly those bytes."""

SAMPLES = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("status", pa.string()),
        ("pack_id", pa.int64()),
        ("document", pa.int32()),
        ("num_uses", pa.int32()),
        ("more_places", pa.list_(pa.struct([("pack_id", pa.int64()), ("document", pa.int32())]))),
        ("num_cut_tokens", pa.int32()),
        ("reason", pa.string()),
        ("reason_code", pa.string()),
    ]
)
"""samples.parquet: status is packed, refused or unused. The rest but reasons is null unless packed: the first pack that holds
the row and its document there (1..n); num_uses, in how many documents it stands, and where it stands again; num_cut_tokens,
how many of its last tokens were cut off."""


KEPT = pa.field("kept", pa.string())
"""The last column of samples.parquet where columns of the rows were asked to be kept: these as a JSON object."""


def pack_key(pack_id: int) -> str:
    """The key that all tar members of a pack share; no dots."""
    return f"{pack_id:09d}"


def shard_name(shard: int) -> str:
    """Path of a shard inside the pack set."""
    return f"shards/{shard:06d}.tar"


def receipt_name(shard: int) -> str:
    """Path of a shard's receipt inside the pack set."""
    return f"receipts/{shard:06d}.json"
