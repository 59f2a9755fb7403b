"""Every family: packs made on demand from a meta file's examples are those that the pipeline wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmprep
from tests.conftest import FamilyProcessorDir
from tests.every_family.corpus import write_corpus
from tests.families.processors import FAMILY_NAMES, FamilyName
from tests.runs import run
from vlmprep.automodel.datasets import make_meta_dataset
from vlmprep.automodel.neat_packing_vlm import neat_pack_dataset_vlm
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.families.loading import load_family
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.family import FamilySettings

PACK_SIZE = 16_384


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_packs_equal_those_on_disk(name: FamilyName, family_processor_dir: FamilyProcessorDir, tmp_path: Path):
    folder = family_processor_dir(name, small_tiles=name in ("llava_onevision", "internvl", "idefics3", "smolvlm"))
    family: Any = load_family(FamilySettings(processor=str(folder)))
    source = write_corpus(tmp_path / "corpus", family.kinds, num_rows=6, sounds_beside_images=name == "phi4_multimodal")
    meta = tmp_path / "corpus" / "meta.json"
    meta.write_text(json.dumps({"rows": {"file_name": source.name, "media_dir": str(source.parent)}}))
    size = PACK_SIZE if name != "qwen3_omni" else 4096
    run(meta, folder, tmp_path / "set", planning=PlanSettings(pack_size=size), max_refused=0.0)
    disk: Any = vlmprep.open(tmp_path / "set")
    tokenized = PreTokenizedDatasetWrapper(make_meta_dataset(str(meta)), family.processor, fake_image="pack")
    packed = neat_pack_dataset_vlm(tokenized, size)
    assert len(packed) == len(disk) > 0
    kinds = set()
    for pack_id in range(len(disk)):
        written, found = disk[pack_id], packed.packs[pack_id]
        assert list(found) == list(written)
        for field, values in written.items():
            assert torch.equal(found[field], values), field
        restored = restore_all(dict(written), disk.manifest.pixels)
        pack = packed[pack_id]
        for field, values in restored.items():
            expected, given = (values, pack[field]) if isinstance(values, list) else ([values], [pack[field]])
            assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(expected, given, strict=True)), field
        kinds |= {medium.kind for medium in disk.info(pack_id).media}
    assert kinds == set(family.kinds)
    assert packed.packs.manifest.family == disk.manifest.family
    assert packed.packs.manifest.pixels == disk.manifest.pixels
