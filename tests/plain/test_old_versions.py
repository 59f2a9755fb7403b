"""Pack sets of every format version that was ever written are read as they were, and newer ones are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlmprep
from tests.conftest import ProcessorDir
from tests.packsets import signed
from tests.plain.reader import PlainReader
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.inspect.pack import view_pack
from vlmprep.pipeline.inspect.packset import inspect_packset
from vlmprep.pipeline.verify import verify
from vlmprep.runtime.pixels import restore
from vlmprep.schema.packset import FORMAT_VERSION
from vlmprep.schema.progress import Silent
from vlmprep.shardformat.errors import NewerFormat

FIXTURES = Path(__file__).parents[1] / "fixtures"
SETS = sorted(path.parent for path in FIXTURES.glob("format_*/*/manifest.json"))


def described(array: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}


def expected_of(root: Path) -> Any:
    return json.loads((root.parent / "expected.json").read_bytes())


def test_there_is_a_fixture_of_every_version() -> None:
    assert [path.parent.name for path in SETS] == [f"format_{n + 1}" for n in range(FORMAT_VERSION) for _ in range(2)]
    assert {path.name for path in SETS} == {"none", "zstd"}


@pytest.mark.parametrize("root", SETS, ids=lambda root: f"{root.parent.name}-{root.name}")
class TestOldVersion:
    def test_it_is_read_as_it_was_written(self, root: Path) -> None:
        packs, expected = vlmprep.open(root), expected_of(root)[root.name]
        assert len(packs) == len(expected) == 3
        for pack_id, fields in enumerate(expected):
            assert {name: described(tensor.numpy()) for name, tensor in packs[pack_id].items()} == fields
            assert len(fields) == 7

    def test_its_pixels_become_the_processors(self, root: Path) -> None:
        packs = vlmprep.open(root)
        [pack_id] = [k for k in range(3) if packs.index.num_images[k]]
        pixels = restore(packs[pack_id]["pixel_values"], packs.manifest.pixels["pixel_values"])
        assert described(pixels.numpy()) == expected_of(root)["processor"]
        assert described(PlainReader(root).pixels(pack_id, "pixel_values")) == expected_of(root)["processor"]

    def test_a_reader_made_from_the_page_reads_it(self, root: Path) -> None:
        reader, expected = PlainReader(root), expected_of(root)[root.name]
        assert len(reader.rows) == len(expected)
        for pack_id, fields in enumerate(expected):
            found = reader.fields(pack_id)
            assert found["attention_mask"].dtype == np.uint16
            found["attention_mask"] = found["attention_mask"].astype(np.int32)
            assert {name: described(array) for name, array in found.items()} == fields

    def test_it_is_verified_and_inspected(self, root: Path, processor_dir: ProcessorDir) -> None:
        found = verify(root, LocalEngine(0), Silent())
        assert (found.problems, found.num_packs, found.num_samples) == ((), 3, 4)
        assert inspect_packset(root).manifest == vlmprep.open(root).manifest
        shown = view_pack(root, 0, str(processor_dir(max_pixels=50_176)))
        first, *_ = shown.documents
        assert first.sample is not None
        assert (shown.num_tokens, first.sample.sample_id) == (80, "gradient")
        assert "A gradient." in "".join(span.text for span in first.spans if span.trained)

    def test_a_newer_one_is_refused_by_all(self, root: Path, tmp_path: Path) -> None:
        newer = Path(shutil.copytree(root, tmp_path / "newer"))
        manifest = json.loads((newer / "manifest.json").read_bytes())
        manifest |= {"format_version": FORMAT_VERSION + 1, "vlmprep_version": "9.1", "something_new": {}}
        (newer / "manifest.json").write_text(json.dumps(signed(manifest)))
        says = rf"(?s)has format version {FORMAT_VERSION + 1}, .*reads up to {FORMAT_VERSION}.*Install vlmprep 9\.1 or newer"
        with pytest.raises(NewerFormat, match=says):
            vlmprep.open(newer)
        with pytest.raises(NewerFormat, match=says):
            verify(newer, LocalEngine(0), Silent())
        with pytest.raises(NewerFormat, match=says):
            inspect_packset(newer)
