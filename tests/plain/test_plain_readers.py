"""Real pack sets in other people's hands: tarfile and NumPy, a reader made from docs/format.md, webdataset."""

from __future__ import annotations

import io
import json
import re
import tarfile
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import webdataset

import vlmprep
from tests.packed import PackedDemo, pack_demo
from tests.plain.reader import PlainReader
from vlmprep.runtime.pixels import restore

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
ORDER = ["input_ids", "labels", "attention_mask", "position_ids", "mm_token_type_ids", "pixel_values", "image_grid_thw"]
"""Of the members behind key.json."""


@pytest.fixture(scope="module", params=["none", "zstd", "lz4"])
def packset(request: pytest.FixtureRequest, packed_demo: PackedDemo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of several shards, with and without pictures, and fake images."""
    if request.param == "zstd":
        return packed_demo.packset
    made = pack_demo(tmp_path_factory.mktemp(request.param), num_samples=24, compression=request.param)
    return made.packset


def tensors(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.int32) if array.dtype == np.uint16 else array))


def test_a_reader_made_from_the_page_reads_what_vlmprep_reads(packset: Path) -> None:
    reader, packs = PlainReader(packset), vlmprep.open(packset)
    assert len(reader.rows) == len(packs) > 5
    assert reader.identity() == packs.manifest.digest
    for pack_id in range(len(packs)):
        expected, found = packs[pack_id], reader.fields(pack_id)
        assert list(found) == list(expected)
        assert all(torch.equal(tensors(found[name]), tensor) for name, tensor in expected.items())
        if "pixel_values" in expected:
            pixels = restore(expected["pixel_values"], packs.manifest.pixels["pixel_values"])
            assert torch.equal(tensors(reader.pixels(pack_id, "pixel_values")), pixels)
        lengths = [*reader.info(pack_id)["document_lengths"], *fake_length(reader.info(pack_id))]
        assert sum(lengths) == reader.rows[pack_id]["num_tokens"] == len(found["input_ids"])


def fake_length(info: dict[str, Any]) -> list[int]:
    return [info["fake"]["length"]] if info["fake"] and info["fake"]["kind"] == "pack" else []


def test_keys_are_unique_and_dot_free_and_members_ordered_and_never_pickled(packset: Path) -> None:
    keys: list[str] = []
    for shard in sorted((packset / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            assert {(m.mtime, m.isreg(), m.uname, m.mode) for m in tar} == {(0, True, "vlmprep", 0o444)}
            for key, members in groupby(tar, key=lambda member: member.name.split(".")[0]):
                keys.append(key)
                names = [member.name.removeprefix(f"{key}.") for member in members]
                assert names[0] == "json"
                fields = [name.split(".")[0] for name in names[1:]]
                assert fields == [field for field in ORDER if field in fields]
                assert {name.partition(".")[2] for name in names[1:]} < {"npy", "npy.zst", "npy.lz4"}
    assert keys == [f"{k:09d}" for k in range(len(keys))]
    assert len(keys) > 5


def test_no_array_holds_objects(packset: Path) -> None:
    reader = PlainReader(packset)  # loads with allow_pickle=False
    kinds = {array.dtype.kind for k in range(len(reader.rows)) for array in reader.fields(k).values()}
    assert kinds == {"i", "u"}


def test_webdataset_reads_every_pack_as_the_page_says(packset: Path) -> None:
    packs = vlmprep.open(packset)
    [block] = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "def unpack" in code]
    if packs.manifest.compression == "lz4":
        block = block.replace(".npy.zst", ".npy.lz4").replace('compression="zstd"', 'compression="lz4"')
    urls = [str(packset / shard.name) for shard in packs.manifest.shards]
    scope: dict[str, Any] = {"np": np, "io": io, "pa": pa, "webdataset": webdataset, "urls": urls}
    exec(block, scope)
    handlers = () if packs.manifest.compression == "none" else (scope["unpack"],)
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode(*handlers))
    assert [sample["__key__"] for sample in samples] == [f"{k:09d}" for k in range(len(packs))]
    for pack_id, sample in enumerate(samples):
        info = sample["json"]
        assert info == json.loads(json.dumps(info))
        for name, tensor in packs[pack_id].items():
            [array] = [value for key, value in sample.items() if key.partition(".")[0] == name]
            if info["members"][name]["transform"] is None:
                assert torch.equal(tensors(array), tensor)
            else:
                assert array.size == tensor.numel()
