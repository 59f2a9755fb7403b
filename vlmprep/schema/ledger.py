"""The ledger's table: one row per source row, with exact counts or the reason for refusing it."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["CUTTABLE_TOKENS", "ENCODER_WORK", "LEDGER", "LEDGER_VERSION", "MEDIUM", "OK", "REFUSED"]

LEDGER_VERSION = 2
"""Of a ledger's files; one higher with every change that older or newer code cannot read."""
OK = "ok"
REFUSED = "refused"

ENCODER_WORK = (
    "num_pictures",
    "num_encoder_patches",
    "num_patch_pairs",
    "num_window_pairs",
    "num_sound_features",
    "num_sound_frames",
    "num_sound_pairs",
)
"""Sums of `schema.media.EncoderWork` over a sample's media."""

MEDIUM = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("kind", pa.string()),
        ("num_visual_tokens", pa.int32()),
        ("num_patches", pa.int32()),
        ("stored_bytes", pa.int64()),
        *((name, pa.int64()) for name in ENCODER_WORK),
    ]
)
"""One medium of a sample: where it lies in the sequence before the shift, from the first to behind the last token that
template and processor write for it, and its own part of the sample's counts. Spans overlap where no cut may part media."""

CUTTABLE_TOKENS = 1_024
"""The longest sample of which a ledger does not say where it may be cut: nobody's packs are smaller."""

LEDGER = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("sample_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("reason_code", pa.string()),
        ("num_tokens", pa.int32()),
        ("num_visual_tokens", pa.int32()),
        ("num_label_tokens", pa.int32()),
        ("num_left_out_characters", pa.int32()),
        ("num_tokens_with_fake", pa.int32()),
        ("num_images", pa.int32()),
        ("num_videos", pa.int32()),
        ("num_audios", pa.int32()),
        ("num_patches", pa.int32()),
        *((name, pa.int64()) for name in ENCODER_WORK),
        ("stored_bytes", pa.int64()),
        ("first_label", pa.int32()),
        ("media", pa.list_(MEDIUM)),
        ("first_label_with_fake", pa.int32()),
        ("media_with_fake", pa.list_(MEDIUM)),
        ("row_offset", pa.int64()),
        ("row_bytes", pa.int64()),
        ("row_xxh3", pa.uint64()),
        ("media_bytes", pa.int64()),
        ("media_state", pa.uint64()),
        ("kept", pa.string()),
    ]
)
"""num_tokens counts before the shift; num_left_out_characters are those of thoughts of earlier turns, which the chat template
leaves out as it does at inference; num_tokens_with_fake counts a sample without pictures as it is with a fake image in its
first user turn, null where there are pictures or where there is no place for one; stored_bytes are those of its media's
tensors in a pack, before compression.
first_label is the place of the first token that the loss counts, and media, in the conversation's order, says where the sample
may be cut; both are null for samples of at most CUTTABLE_TOKENS, media also where they cannot be told from the text. With a
fake image, which is one of the media then, these are first_label_with_fake and media_with_fake.
row_offset, row_bytes and row_xxh3 find a row again in its file and prove that it
is still the row that was counted; media_state is a digest of path, size and modification time of its media files.
kept holds the columns that were asked for with --keep, as a JSON object; null where the row has none of them. Ledgers of the
same version, from before there was --keep, lack it."""
