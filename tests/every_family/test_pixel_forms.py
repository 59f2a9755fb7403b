"""Every family in every form that packs hold pixels in: restored, a document's media are what the processor makes of its row."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlmprep
from tests.conftest import FamilyProcessorDir
from tests.every_family.alone import run_alone
from tests.every_family.corpus import write_corpus
from tests.every_family.packed import documents_of, rows_of
from tests.families.processors import FAMILY_NAMES, FamilyName
from tests.runs import run
from vlmprep.engines.local import LocalEngine
from vlmprep.families.loading import load_family
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.pipeline.verify import Against, verify
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.pixels import PixelForm
from vlmprep.schema.progress import Silent
from vlmprep.shardformat.members import ENCODED, PIXEL_FIELDS

TEXT = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
OTHER_FORMS: tuple[PixelForm, ...] = ("bfloat16", "float32", "encoded")
"""Beside uint8, in which test_packed_as_alone packs every family."""
NO_LEVELS: tuple[FamilyName, ...] = ("nemotron_omni",)
"""Families whose processors make pixels that no 8-bit levels stand for."""


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def name(request: pytest.FixtureRequest) -> FamilyName:
    chosen: FamilyName = request.param
    return chosen


@pytest.fixture(scope="module")
def processor(name: FamilyName, family_processor_dir: FamilyProcessorDir) -> Path:
    return family_processor_dir(name, small_tiles=name == "smolvlm")  # Idefics3's are as published


@pytest.fixture(scope="module")
def family(processor: Path) -> Any:
    return load_family(FamilySettings(processor=str(processor)))


@pytest.fixture(scope="module")
def source(name: FamilyName, family: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(name)
    return write_corpus(root / "corpus", family.kinds, num_rows=6, sounds_beside_images=name == "phi4_multimodal")


@pytest.fixture(scope="module")
def truths(family: Any, source: Path) -> list[dict[str, Any]]:
    """What the processor makes of the media of each row alone."""
    made = [run_alone(family.processor, row, source.parent) for row in rows_of(source)]
    return [
        {n: torch.as_tensor(v) for n, v in each.items() if n not in TEXT and v is not None and len(v)} for each in made
    ]


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_media_are_the_processors_to_the_bit(
    form: PixelForm,
    name: FamilyName,
    source: Path,
    truths: list[dict[str, Any]],
    processor: Path,
    tmp_path: Path,
) -> None:
    run(
        source,
        processor,
        tmp_path / "set",
        planning=PlanSettings(pack_size=16_384),
        writing=PackSettings(pixels=form, compression="none"),
        max_refused=0.0,
    )
    packs, seen, compared = vlmprep.open(tmp_path / "set"), set(), 0
    assert packs.manifest.settings["pixels"] == form
    assert_held(tmp_path / "set", form)
    for document in documents_of(packs):
        if document.row is None:
            continue
        wanted = truths[document.row]
        assert document.media.keys() == wanted.keys()
        for field, expected in wanted.items():
            is_cast = form == "bfloat16" and field in PIXEL_FIELDS
            expected = expected.to(torch.bfloat16).to(torch.float32) if is_cast else expected
            assert document.media[field].dtype == expected.dtype, field
            assert torch.equal(document.media[field], expected), field
            compared += field in PIXEL_FIELDS
        seen.add(document.row)
    assert seen == set(range(len(truths)))
    assert compared >= 3
    if form == "encoded" or name == "qwen2_5_vl":
        against = Against(processor=str(processor), num_samples=len(truths))
        assert verify(tmp_path / "set", LocalEngine(0), Silent(), against).problems == ()


@pytest.mark.parametrize("name", ["qwen2_5_vl", *NO_LEVELS])
def test_levels_are_held_where_there_are_any(
    name: FamilyName, family_processor_dir: FamilyProcessorDir, tmp_path: Path
) -> None:
    """Where there are none, the manifest says that the field is what the processor returned."""
    source = write_corpus(tmp_path / "corpus", frozenset({"image"}), num_rows=4)
    run(source, family_processor_dir(name), tmp_path / "set", writing=PackSettings(compression="none"))
    rule = vlmprep.open(tmp_path / "set").manifest.pixels["pixel_values"]
    held = members_of(tmp_path / "set")["pixel_values"]
    assert (held, rule.arithmetic) == (("float32", "stored") if name in NO_LEVELS else ("uint8", "fused"))


def assert_held(packset: Path, form: PixelForm) -> None:
    """Plain readers find the form that was asked for."""
    held, rules = members_of(packset), vlmprep.open(packset).manifest.pixels
    pixels = {field for field in held if field in PIXEL_FIELDS}
    assert (ENCODED in held) is (form == "encoded")
    assert bool(pixels) is (form != "encoded")
    assert {held[field] for field in pixels} <= {"uint16" if form == "bfloat16" else "float32"}
    assert all(rules[field].arithmetic == "stored" for field in pixels if field in rules)


def members_of(packset: Path) -> dict[str, str]:
    """NumPy's names of the types of all fields, read with tarfile and NumPy alone."""
    found: dict[str, str] = {}
    for shard in sorted((packset / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                _, _, suffix = member.name.partition(".")
                if suffix.endswith(".npy"):
                    file = tar.extractfile(member)
                    assert file is not None
                    array = np.load(io.BytesIO(file.read()), allow_pickle=False)
                    found[suffix.removesuffix(".npy")] = array.dtype.name
    assert found
    return found
