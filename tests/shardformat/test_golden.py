"""Version 1 as it was written once: a change of these bytes is a new format version."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from vlmprep.shardformat.pack import encode_pack
from vlmprep.shardformat.packinfo import MediumInfo, PackInfo, SampleRef

MEDIUM = MediumInfo(document=1, kind="image", shape=(56, 56), num_tokens=1, rows={"pixel_values": 2})
INFO = PackInfo(
    pack_id=1, samples=(SampleRef(source="s", row=2, sample_id="i"),), document_lengths=(4,), media=(MEDIUM,)
)
FIELDS: dict[str, np.ndarray] = {
    "input_ids": np.arange(4, dtype=np.int32),
    "labels": np.arange(1, 5, dtype=np.int32),
    "attention_mask": np.ones(4, np.uint16),
    "position_ids": np.arange(12, dtype=np.int32).reshape(3, 4),
    "pixel_values": (np.arange(2 * 588) % 251).astype(np.uint8).reshape(2, 3, 14, 14),
}


def test_the_bytes_of_an_uncompressed_pack_have_not_changed() -> None:
    members = encode_pack(INFO, FIELDS, compression="none")
    digest = hashlib.sha256(b"".join(suffix.encode() + bytes(content) for suffix, content in members)).hexdigest()
    assert digest == "e9401a72c19662325cf50a132d3939f7885abf0482f95da55ec073ece67fa525"


def test_the_arrays_inside_a_compressed_pack_have_not_changed() -> None:
    members = dict(encode_pack(INFO, FIELDS, compression="zstd"))
    digest = hashlib.sha256(bytes(members.pop("json")))
    for suffix, content in members.items():
        digest.update(suffix.encode() + pa.input_stream(pa.BufferReader(content), compression="zstd").read())
    assert digest.hexdigest() == "4e3f68ee31a4f70b9c220ab2aac75c73cc8f70dd4c11a78744b1547cd1e18ce2"
