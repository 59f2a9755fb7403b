from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.packsets import signed
from vlmprep.schema.packset import FORMAT_VERSION
from vlmprep.schema.pixels import PixelRule
from vlmprep.shardformat.errors import BrokenPackSet, NewerFormat
from vlmprep.shardformat.manifest import FileRecord, Manifest, RowCounts, missing_manifest
from vlmprep.shardformat.shardrecords import ShardRecord, ShardRecords

MANIFEST = Manifest(
    vlmprep_version="0.1",
    family="qwen2_5_vl",
    pack_size=8192,
    num_packs=3,
    num_tokens=20_000,
    num_visual_tokens=9_000,
    num_label_tokens=5_000,
    num_samples=12,
    num_images=8,
    num_videos=0,
    rows=RowCounts(packed=12, refused=1, unused=0),
    pad_token_id=151643,
    position_axes=3,
    pixels={
        "pixel_values": PixelRule(arithmetic="fused", rescale=1 / 255, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    },
    compression="zstd",
    shards=ShardRecords(
        [
            ShardRecord(name="shards/000000.tar", size=100, sha256="a" * 64, num_packs=2),
            ShardRecord(name="shards/000001.tar", size=50, sha256="b" * 64, num_packs=1),
        ]
    ),
    files={"packs.arrow": FileRecord(size=10, sha256="c" * 64)},
    settings={"balance": "vt", "ünï": [1, 2.5, None]},
    fingerprint={"tokenizer": "abc"},
    plan={"digest": "d" * 64, "seed": 0},
)


def read(value: dict[str, Any]) -> Manifest:
    """Read a manifest that says its own digest rightly."""
    return Manifest.from_bytes(json.dumps(signed(value)).encode(), "s3://bucket/set")


def test_its_own_digest_is_that_of_everything_else() -> None:
    value = json.loads(MANIFEST.to_bytes())
    assert value["digest"] == MANIFEST.digest == signed(value)["digest"]
    for changed in ({**value, "pad_token_id": 1}, {**value, "digest": "0" * 64}, {**value, "digest": None}):
        with pytest.raises(
            BrokenPackSet, match=r"set: manifest\.json is not what was written: its content has SHA-256 "
        ):
            Manifest.from_bytes(json.dumps(changed).encode(), "set")
    del value["digest"]
    with pytest.raises(BrokenPackSet, match="its digest says None"):
        Manifest.from_bytes(json.dumps(value).encode(), "set")


def test_a_manifest_comes_back() -> None:
    again = Manifest.from_bytes(MANIFEST.to_bytes(), "set")
    assert again == MANIFEST
    assert again.digest == MANIFEST.digest
    assert replace(again, pad_token_id=1).digest == replace(MANIFEST, pad_token_id=1).digest != again.digest


def test_the_digest_does_not_depend_on_how_the_json_is_written() -> None:
    value = json.loads(MANIFEST.to_bytes())
    assert read(dict(reversed(value.items()))).digest == MANIFEST.digest


@pytest.mark.parametrize(
    "change",
    [{"pad_token_id": 1}, {"settings": {}}, {"shards": ShardRecords([replace(MANIFEST.shards[0], num_packs=3)])}],
)
def test_every_part_enters_the_digest(change: dict[str, Any]) -> None:
    assert replace(MANIFEST, **change).digest != MANIFEST.digest


def test_a_newer_format_is_refused_with_what_to_install() -> None:
    value = json.loads(MANIFEST.to_bytes())
    with pytest.raises(NewerFormat, match=r"(?s)s3://bucket/set has format version 2.*Install vlmprep 9\.9"):
        read({**value, "format_version": FORMAT_VERSION + 1, "vlmprep_version": "9.9", "something_new": 1})


@pytest.mark.parametrize("name", [field.name for field in fields(Manifest)])
def test_a_missing_entry_is_named(name: str) -> None:
    value = json.loads(MANIFEST.to_bytes())
    del value[name]
    with pytest.raises(BrokenPackSet, match=f"s3://bucket/set: manifest.json not understood: .*{name}"):
        read(value)


@pytest.mark.parametrize(
    "change",
    [
        {"num_packs": 4},
        {"position_axes": 2},
        {"unknown": 1},
        {"shards": [{"name": "x"}]},
        {"pixels": [1]},
        {"format_version": "new"},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BrokenPackSet, match=r"manifest\.json not understood"):
        read({**json.loads(MANIFEST.to_bytes()), **change})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenPackSet, match=r"manifest\.json not understood"):
        Manifest.from_bytes(data, "set")


def test_a_missing_manifest_says_how_to_finish() -> None:
    assert "gone on with by the same `vlmprep pack` command" in str(missing_manifest("set"))
