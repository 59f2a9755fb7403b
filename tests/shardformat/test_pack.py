from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import numpy as np
import pytest
import xxhash

from vlmprep.schema.errors import StopRun
from vlmprep.shardformat.errors import BrokenPack
from vlmprep.shardformat.members import COMPRESSIONS, Compression
from vlmprep.shardformat.pack import check_digest, decode_info, decode_pack, encode_pack
from vlmprep.shardformat.packinfo import FakeImage, MediumInfo, PackInfo, SampleRef

INFO = PackInfo(
    pack_id=17,
    samples=(SampleRef(source="chat", row=3, sample_id="ä/3"), SampleRef(source="chat", row=9, sample_id="9")),
    document_lengths=(5, 3),
    fake=FakeImage(kind="pack", length=2, height=56, width=56),
    media=(
        MediumInfo(
            document=1, kind="image", shape=(480, 640), num_tokens=2, rows={"image_grid_thw": 1, "pixel_values": 8}
        ),
    ),
)
WHERE: dict[str, Any] = {"shard": "set/shards/000001.tar", "pack_id": 17}


def fields() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "z_extra": np.array([1.5], np.float32),
        "image_grid_thw": np.array([[1, 2, 4]]),
        "pixel_values": rng.integers(0, 256, (8, 3, 14, 14), dtype=np.uint8),
        "attention_mask": np.array([1] * 5 + [2] * 3, np.uint16),
        "position_ids": rng.integers(0, 9, (3, 8), dtype=np.int32),
        "labels": np.arange(8, dtype=np.int32),
        "input_ids": np.arange(8, dtype=np.int32),
    }


def archived(members: list[tuple[str, bytes | memoryview]], pack_id: int = 17) -> memoryview:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for suffix, content in members:
            member = tarfile.TarInfo(f"{pack_id:09d}.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        end = tar.offset
    return memoryview(file.getvalue())[:end]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_pack_comes_back(compression: Compression) -> None:
    raw = archived(encode_pack(INFO, fields(), compression=compression))
    info, decoded = decode_pack(raw, **WHERE)
    assert set(decoded) == set(fields())
    for name, array in fields().items():
        assert decoded[name].dtype == array.dtype
        np.testing.assert_array_equal(decoded[name], array)
    assert (info.samples, info.document_lengths, info.fake, info.media) == (
        (INFO.samples, INFO.document_lengths, INFO.fake, INFO.media)
    )
    assert info.members["pixel_values"].shape == (8, 3, 14, 14)
    assert decode_info(raw, **WHERE) == info


def test_members_stand_in_the_order_of_the_format() -> None:
    members = encode_pack(INFO, fields(), compression="none")
    assert [suffix.removesuffix(".npy") for suffix, _ in members] == [
        "json",
        "input_ids",
        "labels",
        "attention_mask",
        "position_ids",
        "pixel_values",
        "image_grid_thw",
        "z_extra",
    ]


def test_key_json_is_canonical() -> None:
    shuffled = dict(sorted(fields().items()))
    first = encode_pack(INFO, fields(), compression="zstd")
    assert encode_pack(INFO, shuffled, compression="zstd") == first
    text = bytes(first[0][1]).decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_a_wrong_digest_names_shard_and_pack() -> None:
    raw = archived(encode_pack(INFO, fields(), compression="zstd"))
    right = xxhash.xxh3_64_intdigest(raw)
    check_digest(raw, right, **WHERE)
    with pytest.raises(BrokenPack, match=r"set/shards/000001.tar, pack 000000017: .*digest"):
        check_digest(raw, right ^ 1, **WHERE)


def broken(case: str) -> memoryview:
    members = dict(encode_pack(INFO, fields(), compression="zstd"))
    if case == "no key.json":
        del members["json"]
    elif case == "missing member":
        del members["labels.npy.zst"]
    elif case == "member that nobody named":
        members["more.npy.zst"] = members["labels.npy.zst"]
    elif case == "member of no known kind":
        members["labels.pyd"] = b"cos\nsystem\n"
    elif case == "members swapped":
        members["labels.npy.zst"] = members["position_ids.npy.zst"]
    elif case == "another pack's key.json":
        members["json"] = bytes(members["json"]).replace(b'"pack_id":17', b'"pack_id":18')
    elif case == "no JSON":
        members["json"] = b"{"
    elif case == "JSON of something else":
        members["json"] = b'{"pack_id":17}'
    return archived([*members.items()])


@pytest.mark.parametrize(
    "case",
    [
        "no key.json",
        "missing member",
        "member that nobody named",
        "member of no known kind",
        "members swapped",
        "another pack's key.json",
        "no JSON",
        "JSON of something else",
    ],
)
def test_a_pack_that_contradicts_itself_is_refused_by_name(case: str) -> None:
    with pytest.raises(BrokenPack, match=r"set/shards/000001\.tar, pack 000000017: "):
        decode_pack(broken(case), **WHERE)


@pytest.mark.parametrize("entry", ["npy_bytes", "shape", "transform", "dtype"])
@pytest.mark.parametrize("value", ["null", "[]", "{}", '"x"', "-1", "1e300", "Infinity", str(1 << 62), str(1 << 80)])
def test_no_value_of_a_described_member_leads_to_another_error(entry: str, value: str) -> None:
    members = dict(encode_pack(INFO, fields(), compression="zstd"))
    said = json.loads(bytes(members["json"]))
    said["members"]["pixel_values"][entry] = "THIS"
    members["json"] = json.dumps(said).replace('"THIS"', value).encode()
    raw = archived([*members.items()])
    with pytest.raises(BrokenPack, match=r"set/shards/000001\.tar, pack 000000017: "):
        decode_pack(raw, **WHERE)


def test_a_broken_pack_stops_the_run_and_says_what_to_do() -> None:
    with pytest.raises(StopRun, match="vlmprep verify"):
        decode_pack(memoryview(b"nothing"), **WHERE)
