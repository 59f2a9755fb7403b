"""Damage that FFmpeg decodes to other levels at every reading is refused, as it is in a still JPEG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from torchvision.io import decode_image
from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from tests.fuzz.seeds import seed_bytes
from vlmprep.families.media.clips import load_clip
from vlmprep.families.media.images import load_image
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample

END_OF_IMAGE = b"\xff\xd9"
NUM_FRAMES = 6


def test_motion_jpeg_that_ends_in_the_middle_of_a_frame_is_refused() -> None:
    whole = seed_bytes("video", "mkv")
    start = whole.rindex(b"\xff\xda") + 60  # behind the last frame's header
    damaged = whole[:start] + END_OF_IMAGE + whole[start + 2 :]
    with av.open(io.BytesIO(damaged), "r") as container:
        assert len(list(container.decode(video=0))) == NUM_FRAMES, "FFmpeg says nothing of it"
    processor = Qwen2VLVideoProcessor(do_sample_frames=False)
    assert len(load_clip(processor, Media(kind="video", content=whole)).frames) == NUM_FRAMES
    with pytest.raises(RefuseSample, match="does not decode") as refusal:
        load_clip(processor, Media(kind="video", content=damaged, name="a.mkv"))
    assert refusal.value.code == "undecodable-media"


def with_one_byte_changed(whole: bytes) -> Iterator[bytes]:
    """One byte of the picture's data after another."""
    with Image.open(io.BytesIO(whole)) as image:
        start = image.tile[0].offset
    for at in range(start + 100, len(whole)):
        yield whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]


def torchvision_reads(data: bytes) -> bool:
    try:
        return bool(decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).shape[0] == 3)
    except RuntimeError:
        return False


def pillow_reads(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("inside", [True, False])
def test_a_gif_whose_data_break_off_is_refused(inside: bool, tmp_path: Path) -> None:
    processor = Qwen2VLImageProcessor()
    whole = seed_bytes("image", "gif")
    damaged = next(data for data in with_one_byte_changed(whole) if torchvision_reads(data) and not pillow_reads(data))

    def medium(name: str, data: bytes) -> Media:
        (tmp_path / name).write_bytes(data)
        return Media(kind="image", content=data) if inside else Media(kind="image", location=str(tmp_path / name))

    assert torch.equal(
        load_image(processor, medium("whole.gif", whole)), processor.fetch_images(str(tmp_path / "whole.gif"))
    )
    broken = medium("broken.gif", damaged)
    assert processor.fetch_images(str(tmp_path / "broken.gif")).shape[0] == 3, "torchvision says nothing of it"
    with pytest.raises(RefuseSample, match="does not decode") as refusal:
        load_image(processor, broken)
    assert refusal.value.code == "undecodable-media"
