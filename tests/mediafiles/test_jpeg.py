"""JPEGs of more scans than anybody writes are refused, whoever decodes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import Qwen2VLImageProcessor, Qwen2VLImageProcessorPil

from tests.fuzz.bombs import jpeg_of
from tests.fuzz.seeds import seed_bytes
from vlmprep.families.media.images import load_image
from vlmprep.mediafiles.jpeg import MAX_SCANS, check_scans
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("processor", [Qwen2VLImageProcessor, Qwen2VLImageProcessorPil])
def test_scans_are_counted_before_they_are_decoded(processor: type, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for content in (None, jpeg_of(120, 90, scans=MAX_SCANS)):
        path.write_bytes(jpeg_of(120, 90, scans=MAX_SCANS))
        medium = Media(kind="image", location=str(path)) if content is None else Media(kind="image", content=content)
        with pytest.raises(RefuseSample, match="scans") as caught:
            load_image(processor(), medium)
        assert caught.value.code == "too-many-scans"


def test_what_encoders_write_passes() -> None:
    for name in ("jpeg", "jpeg progressive", "mpo", "png"):
        check_scans(seed_bytes("image", name), name)
    assert seed_bytes("image", "jpeg progressive").count(b"\xff\xda") > 5
