"""Packs of sounds: they get a fake image like packs of text, and Phi-4's stop where one would change them."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlmprep
from tests.conftest import FamilyProcessorDir
from tests.every_family.corpus import write_corpus
from tests.runs import run
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.pipeline.verify.run import verify
from vlmprep.schema.errors import StopRun
from vlmprep.schema.progress import Silent

SOUNDS = frozenset({"audio"})


def test_packs_of_sounds_reach_the_vision_encoder(family_processor_dir: FamilyProcessorDir, tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "corpus", SOUNDS, num_rows=4)
    run(source, family_processor_dir("gemma4"), tmp_path / "set")
    packs = vlmprep.open(tmp_path / "set")
    infos = [packs.info(pack_id) for pack_id in range(len(packs))]
    assert sum(info.num_media("audio") for info in infos) == 2
    for pack_id, info in enumerate(infos):
        assert info.fake is not None
        assert "pixel_values" in packs[pack_id]
    assert list(verify(tmp_path / "set", LocalEngine(0), Silent()).problems) == []


def test_sounds_that_an_image_would_change_stop_the_plan(
    family_processor_dir: FamilyProcessorDir, tmp_path: Path
) -> None:
    phi = family_processor_dir("phi4_multimodal")
    sounds = write_corpus(tmp_path / "sounds", SOUNDS, num_rows=4)
    mixed = write_corpus(tmp_path / "mixed", SOUNDS | {"image"}, num_rows=4)
    with pytest.raises(StopRun, match="beside fake images"):
        run(sounds, phi, tmp_path / "with-fakes")
    without = PlanSettings(pack_size=4096, fake_image="none")
    with pytest.raises(StopRun, match="beside 2 samples with images"):
        run(mixed, phi, tmp_path / "mixed-set", planning=without)
    run(sounds, phi, tmp_path / "alone", planning=without)
    assert len(vlmprep.open(tmp_path / "alone")) == 1
