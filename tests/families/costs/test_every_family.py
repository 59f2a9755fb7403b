"""No family forgets to say what its media cost."""

from __future__ import annotations

import pytest

from tests.families.processors import FAMILY_NAMES, FamilyName, build_processor
from vlmprep.families.costs.table import ENCODERS
from vlmprep.families.loading import FAMILIES
from vlmprep.schema.media import NO_WORK, AudioSize, ImageSize, MediaSize, VideoSize

MEDIA: dict[str, MediaSize] = {
    "image": ImageSize(height=120, width=300, num_bytes=1),
    "video": VideoSize(num_frames=90, frames_per_second=10.0, height=120, width=300, num_bytes=1),
    "audio": AudioSize(num_samples=50_000, sampling_rate=16_000, num_bytes=1),
}


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_medium_has_its_work(name: FamilyName) -> None:
    processor = build_processor(name)
    family = FAMILIES[type(processor).__name__](processor)
    assert family.kinds
    for kind in sorted(family.kinds):
        (count,) = family.measure([MEDIA[kind]])
        assert count.work != NO_WORK
        seen, heard = count.work.num_pictures + count.work.num_encoder_patches, count.work.num_sound_frames
        assert (seen > 0, heard > 0) == ((kind != "audio"), (kind == "audio"))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_family_has_a_cost_model(name: FamilyName) -> None:
    processor = build_processor(name)
    found = FAMILIES[type(processor).__name__](processor).name
    assert found in ENCODERS
