"""What a clip is, its bytes say: a name that contradicts them is not believed, as transformers reads what comes from a URL."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import torch
from transformers import Qwen2VLVideoProcessor
from transformers.video_utils import load_video, read_video_pyav

from tests.clips import Recipe, clip
from tests.fuzz.seeds import SEEDS, seed_bytes
from tests.fuzz.truth import open_clip, upright
from vlmprep.families.media.clips import load_clip
from vlmprep.schema.conversation import Media

DOCTYPE = b"webm"
"""In front of a WebM; without it FFmpeg is as sure of the bytes as of a name that ends in .jpg, and then of neither."""
NUM_FRAMES = 6


def every_frame(**_: Any) -> list[int]:
    return list(range(NUM_FRAMES))


def test_a_clip_that_its_name_keeps_transformers_from_reading_is_what_its_bytes_are_without_one(tmp_path: Path) -> None:
    data = seed_bytes("video", "webm").replace(DOCTYPE, b"\xa2ebm", 1)
    assert DOCTYPE not in data
    named, nameless = tmp_path / "clip.jpg", tmp_path / "clip"
    for path in (named, nameless):
        path.write_bytes(data)
    with pytest.raises(av.error.InvalidDataError):
        cast(Any, load_video)(str(named), backend="pyav", sample_indices_fn=every_frame)
    wanted, _ = cast(Any, load_video)(str(nameless), backend="pyav", sample_indices_fn=every_frame)
    fetched, _ = read_video_pyav(cast(Any, io.BytesIO(data)), every_frame)  # what load_video does with a URL's bytes
    assert wanted.shape[0] == NUM_FRAMES
    assert (wanted == fetched).all()
    processor = Qwen2VLVideoProcessor(do_sample_frames=False)
    media = Media(kind="video", location=str(named)), Media(kind="video", content=data, name="clip.jpg")
    for medium in media:
        assert torch.equal(load_clip(processor, medium).frames, torch.from_numpy(wanted).permute(0, 3, 1, 2))


MORE = {
    "mpegts": Recipe(container="mpegts", num_frames=NUM_FRAMES),
    "mpeg": Recipe(container="mpeg", codec="mpeg2video", rate=25, num_frames=NUM_FRAMES),
    "flv": Recipe(container="flv", num_frames=NUM_FRAMES),
}


@pytest.mark.parametrize("suffix", [".jpg", ".gif", ".txt", ".wav", ".mp4", ".mpg", ".ts"])
def test_under_no_name_are_a_clips_frames_others_than_those_of_its_bytes(suffix: str, tmp_path: Path) -> None:
    processor = Qwen2VLVideoProcessor(do_sample_frames=False)
    clips = {name: seed_bytes("video", name) for name in SEEDS["video"]}
    clips |= {name: clip(recipe) for name, recipe in MORE.items()}
    for name, data in clips.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        frames = load_clip(processor, Media(kind="video", location=str(path))).frames
        with open_clip(path) as container:
            wanted = [upright(frame) for frame in container.decode(video=0)]
        assert len(wanted) > 2
        assert torch.equal(frames, torch.from_numpy(np.stack(wanted)).permute(0, 3, 1, 2)), name
