"""Idefics3 against its own processor."""

from __future__ import annotations

import pytest

from tests.conftest import FamilyProcessorDir
from tests.families.tiled import EDGE_SIZES, check_images, check_joint_media, make_tiled, random_sizes
from vlmprep.schema.media import Loader


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_images_are_the_processors_own(family_processor_dir: FamilyProcessorDir, backend: Loader) -> None:
    family = make_tiled(family_processor_dir, "idefics3", backend)
    check_images(family, [*EDGE_SIZES, *random_sizes(60 if backend == "torchvision" else 20)])


def test_images_of_the_published_size(family_processor_dir: FamilyProcessorDir) -> None:
    family = make_tiled(family_processor_dir, "idefics3", small_tiles=False)
    check_images(family, [*random_sizes(2, seed=1, most=1500), (1, 2000)])


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_tiles_of_several_samples_are_those_of_one_with_all_images(
    family_processor_dir: FamilyProcessorDir, backend: Loader
) -> None:
    family = make_tiled(family_processor_dir, "idefics3", backend)
    found = check_joint_media(family, [[(56, 56), (300, 100), (20, 30), (80, 400)]])
    assert found["pixel_values"].shape[:2] == (1, 17 + 9 + 13 + 5)
