"""What was found out about a clip is known again as long as the file is the same, and no longer."""

from __future__ import annotations

import io
import os
from pathlib import Path

from vlmprep.mediafiles.remembered import CLIPS_KEPT, recall, remember
from vlmprep.schema.media import VideoSize


def size(num_frames: int) -> VideoSize:
    return VideoSize(num_frames=num_frames, frames_per_second=5.0, height=4, width=6, num_bytes=1)


def test_a_file_is_known_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    with path.open("rb") as file:
        assert recall(file) is None
        remember(file, size(3))
        assert recall(file) == size(3)
    (tmp_path / "b.mp4").write_bytes(b"one")
    with (tmp_path / "b.mp4").open("rb") as file:
        assert recall(file) is None
    os.utime(path, ns=(5, 5))
    with path.open("rb") as file:
        assert recall(file) is None


def test_what_is_no_file_is_not_remembered() -> None:
    remember(io.BytesIO(b"one"), size(3))
    assert recall(io.BytesIO(b"one")) is None


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    for number in range(CLIPS_KEPT + 1):
        path = tmp_path / str(number)
        path.write_bytes(b"x")
        with path.open("rb") as file:
            remember(file, size(number))
    with (tmp_path / "0").open("rb") as first, (tmp_path / str(CLIPS_KEPT)).open("rb") as last:
        assert recall(first) is None
        assert recall(last) == size(CLIPS_KEPT)
