"""docs/format.md in other people's hands: the code on the page, and readers that never heard of vlmprep."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import webdataset

from vlmprep.shardformat.members import Compression
from vlmprep.shardformat.pack import encode_pack
from vlmprep.shardformat.packinfo import PackInfo, SampleRef

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def fields(pack_id: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(pack_id)
    return {
        "input_ids": rng.integers(0, 1000, 50, dtype=np.int32),
        "pixel_values": rng.integers(0, 256, (8, 3, 14, 14), dtype=np.uint8),
    }


def write_shard(path: Path, compression: Compression) -> str:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for pack_id in range(3):
            sample = SampleRef(source="made", row=pack_id, sample_id="x")
            info = PackInfo(pack_id=pack_id, samples=(sample,), document_lengths=(50,))
            for suffix, content in encode_pack(info, fields(pack_id), compression=compression):
                member = tarfile.TarInfo(f"{pack_id:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(path)


def run(code: str, **names: Any) -> dict[str, Any]:
    scope = {"np": np, "io": io, "pa": pa, "webdataset": webdataset, **names}
    exec(code, scope)
    return scope


@pytest.mark.parametrize(("patches", "mark", "first"), [(8, "high, low", 2), (7, "red minus green", 14)])
def test_the_documented_inverses_give_the_pixels(patches: int, mark: str, first: int) -> None:
    info = PackInfo(pack_id=0, samples=(SampleRef(source="made", row=0, sample_id="x"),), document_lengths=(50,))
    pixels = fields(0)["pixel_values"][:patches]
    members = dict(encode_pack(info, {**fields(0), "pixel_values": pixels}, compression="zstd"))
    npy = pa.input_stream(pa.BufferReader(members["pixel_values.npy.zst"]), compression="zstd").read()
    assert len(np.load(io.BytesIO(npy))) == first
    [inverse] = [code for code in CODE if mark in code and "cumsum" in code and ("minus red" in code) == (first == 2)]
    np.testing.assert_array_equal(run(inverse, npy=npy)["pixels"], pixels)


def test_webdataset_reads_uncompressed_packs_as_they_are(tmp_path: Path) -> None:
    url = write_shard(tmp_path / "000000.tar", "none")
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["000000000", "000000001", "000000002"]
    for pack_id, sample in enumerate(samples):
        assert sample["json"]["pack_id"] == pack_id
        for name, array in fields(pack_id).items():
            np.testing.assert_array_equal(sample[f"{name}.npy"], array)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_webdataset_reads_compressed_packs_with_the_documented_handler(
    compression: Compression, tmp_path: Path
) -> None:
    ending = {"zstd": "zst", "lz4": "lz4"}[compression]
    url = write_shard(tmp_path / "000000.tar", compression)
    [handler] = [code for code in CODE if "def unpack" in code]
    handler = handler.replace(".npy.zst", f".npy.{ending}").replace(
        'compression="zstd"', f'compression="{compression}"'
    )
    unpack = run(handler, urls=url)["unpack"]
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode(unpack))
    assert len(samples) == 3
    for pack_id, sample in enumerate(samples):
        np.testing.assert_array_equal(sample[f"input_ids.npy.{ending}"], fields(pack_id)["input_ids"])
        assert sample[f"pixel_values.npy.{ending}"].shape == (2, 7, 3, 8, 14)
