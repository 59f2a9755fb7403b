"""Damage that FFmpeg decodes to other levels at every reading is refused, as it is in a still JPEG."""

from __future__ import annotations

import io

import av
import pytest
from transformers import Qwen2VLVideoProcessor

from tests.fuzz.seeds import seed_bytes
from vlmprep.families.media.clips import load_clip
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
