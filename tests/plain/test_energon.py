"""Megatron-Energon opens a pack set as `vlmprep pack` leaves it, by the code on docs/format.md, and changes nothing in it."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import vlmprep
from tests.packed import PackedDemo
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.verify import verify
from vlmprep.schema.progress import Silent

FIXTURES = Path(__file__).parents[1] / "fixtures" / "format_1"
PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def energon() -> Any:
    return pytest.importorskip(
        "megatron.energon", reason="megatron-energon is not installed: pip install 'vlmprep[energon]'"
    )


def read_by_energon(energon: Any, packset: Path) -> dict[int, Any]:
    """Every pack that one epoch gives, by number."""
    [block] = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "energon.Cooker" in code]
    block = block.replace("batch_size=None,", "batch_size=None, repeat=False,")
    assert "repeat=False" in block
    scope: dict[str, Any] = {"__name__": __name__, "packset": str(packset)}
    exec(block, scope)
    samples = list(energon.get_loader(scope["packs"]))
    assert len({sample.__key__ for sample in samples}) == len(samples)
    assert all(int(sample.__key__.split("/")[-1]) == sample.info["pack_id"] for sample in samples)
    return {sample.info["pack_id"]: sample.fields for sample in samples}


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_energon_opens_an_uncompressed_set(energon: Any, tmp_path: Path) -> None:
    root = Path(shutil.copytree(FIXTURES / "none", tmp_path / "set"))
    found, packs = read_by_energon(energon, root), vlmprep.open(root)
    assert sorted(found) == list(range(len(packs))) == [0, 1, 2]
    for pack_id, fields in found.items():
        expected = packs[pack_id]
        assert list(fields) == list(expected)
        for name, tensor in expected.items():
            assert torch.equal(torch.from_numpy(fields[name].astype(tensor.numpy().dtype)), tensor)
    assert verify(root, LocalEngine(0), Silent()).problems == ()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_energon_opens_a_compressed_set_of_many_shards(energon: Any, packed_demo: PackedDemo) -> None:
    found, packs = read_by_energon(energon, packed_demo.packset), vlmprep.open(packed_demo.packset)
    assert sorted(found) == list(range(len(packs)))
    assert len(packs.manifest.shards) > 2
    for pack_id, fields in found.items():
        npy = pa.input_stream(pa.BufferReader(fields["input_ids"]), compression="zstd").read()
        assert torch.equal(torch.from_numpy(np.load(io.BytesIO(npy))), packs[pack_id]["input_ids"])
