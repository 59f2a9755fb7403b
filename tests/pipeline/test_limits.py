"""Limits on clips and sounds hold from the option to the refusal, and a ledger keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clips import Recipe, clip
from tests.conftest import ProcessorDir
from tests.runs import count, count_settings, write_jsonl
from vlmprep.counting.ledger import Ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.estimate import estimate
from vlmprep.pipeline.run import count_settings_of
from vlmprep.pipeline.settings import CountSettings
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.progress import Silent

NUM_FRAMES, HEIGHT, WIDTH = 12, 48, 64
CLIP_BYTES = NUM_FRAMES * HEIGHT * WIDTH * 3
"""Qwen2.5-VL's video processor takes all frames as it comes."""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").write_bytes(clip(Recipe(num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH)))
    messages = [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A gradient."}]
    return write_jsonl(tmp_path / "rows.jsonl", [{"messages": messages, "videos": ["a.mp4"]}])


def counted(rows: Path, out: Path, settings: CountSettings) -> Ledger:
    return estimate([str(rows)], settings, out, LocalEngine(0), Silent())


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_clip_frames": NUM_FRAMES - 1}, "clip-too-long"),
        ({"max_image_pixels": HEIGHT * WIDTH - 1}, "image-too-large"),
        ({"max_clip_bytes": CLIP_BYTES - 1}, "clip-too-large"),
        ({"max_clip_frames": NUM_FRAMES, "max_image_pixels": HEIGHT * WIDTH, "max_clip_bytes": CLIP_BYTES}, None),
    ],
)
def test_a_clip_above_a_limit_is_refused(
    limits: dict[str, Any], code: str | None, rows: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    of_family: dict[str, Any] = {name: limits.pop(name) for name in ("max_clip_bytes",) if name in limits}
    family = FamilySettings(processor=str(processor_dir()), **of_family)
    ledger = counted(rows, tmp_path / "ledger", CountSettings(family=family, **limits))
    if code is None:
        assert ledger.summary["rows"]["ok"] == 1
    else:
        assert code in str(ledger.summary)
        assert ledger.summary["rows"]["ok"] == 0


def test_a_ledger_keeps_its_limits(rows: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    family = FamilySettings(processor=str(processor_dir()), max_clip_bytes=1 << 20)
    settings = CountSettings(family=family, max_clip_frames=99, max_audio_seconds=7.5)
    ledger = counted(rows, tmp_path / "ledger", settings)
    assert count_settings_of(ledger) == settings
    with pytest.raises(StopRun, match="max_clip_bytes was 1048576"):
        count(rows, processor_dir(), tmp_path / "ledger")


@pytest.mark.parametrize(
    "wrong", [{"max_clip_frames": 0}, {"max_audio_seconds": 0}, {"max_audio_seconds": -1.0}, {"max_image_pixels": 0}]
)
def test_limits_of_nothing_stop_the_run(wrong: dict[str, Any]) -> None:
    with pytest.raises(StopRun, match="--max-"):
        CountSettings(family=count_settings(Path("p")).family, **wrong)
