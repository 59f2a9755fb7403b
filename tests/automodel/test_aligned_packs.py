"""Lazy packs whose documents are padded to multiples, as context parallelism has them: the same as on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vlmprep
from tests.automodel.lazy import PACK_SIZE, qwen
from tests.conftest import ProcessorDir
from tests.runs import run
from vlmprep.automodel.datasets import make_meta_dataset
from vlmprep.automodel.neat_packing_vlm import neat_pack_dataset_vlm
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.demo.corpus import make_corpus
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.schema.errors import StopRun

ALIGNMENT = 64


def test_aligned_packs_equal_those_on_disk_and_fit_when_they_are_padded(tmp_path: Path, processor_dir: ProcessorDir):
    processor = processor_dir(max_pixels=50_176)
    make_corpus(tmp_path, num_samples=24, damaged=False)
    planning = PlanSettings(pack_size=PACK_SIZE, document_alignment=ALIGNMENT)
    made = run(tmp_path / "meta.json", processor, tmp_path / "packset", planning=planning)
    disk = vlmprep.open(tmp_path / "packset")
    tokenized = PreTokenizedDatasetWrapper(
        make_meta_dataset(str(tmp_path / "meta.json")), qwen(processor), fake_image="pack"
    )
    packed = neat_pack_dataset_vlm(tokenized, PACK_SIZE, document_alignment=ALIGNMENT)
    assert packed.bins == [made.plan.bin(pack_id).tolist() for pack_id in range(made.plan.num_packs)]
    assert packed.bins != neat_pack_dataset_vlm(tokenized, PACK_SIZE).bins, "the alignment changes the plan"
    assert packed.packs.manifest.settings["document_alignment"] == ALIGNMENT
    assert len(packed) == len(disk) > 2
    for pack_id in range(len(disk)):
        written, found = disk[pack_id], packed.packs[pack_id]
        assert list(found) == list(written)
        assert all(torch.equal(found[field], values) for field, values in written.items())
    rows = 0
    for step in vlmprep.Loader(packed.packs, shuffle=False, collate="thd", tail="pad"):
        padded = step["seq_lens_padded"]
        rows += len(padded)
        assert bool((padded[padded > 0] % ALIGNMENT == 0).all())
        assert step["input_ids"].shape[1] <= PACK_SIZE
    assert rows == len(disk)


def test_an_alignment_that_cannot_hold_is_told(tmp_path: Path, processor_dir: ProcessorDir):
    make_corpus(tmp_path, num_samples=4, damaged=False)
    tokenized = PreTokenizedDatasetWrapper(make_meta_dataset(str(tmp_path / "meta.json")), qwen(processor_dir()))
    with pytest.raises(StopRun, match="which does not divide --pack-size"):
        neat_pack_dataset_vlm(tokenized, PACK_SIZE, document_alignment=7)
    with pytest.raises(ValueError, match="list is not packed with"):
        neat_pack_dataset_vlm([{"input_ids": [1, 2]}], PACK_SIZE, document_alignment=8)
