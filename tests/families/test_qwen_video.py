"""Clips of the Qwen families against their processors: counts from headers alone, pixels and positions to the bit."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLProcessor

from tests.families.qwen_truth import a_video_of, clip_size, decoded_video, run_processor, write_clip
from tests.families.truth import FAMILIES, make_family, sample_of
from vlmprep.families.fingerprint import fingerprint
from vlmprep.families.qwen import video as qwen_video
from vlmprep.families.qwen.vl import Qwen2VL
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import VideoSize

CLIP = Media(kind="video", content=b"-")
SMALL = 100_000
BOUNDS = {"shortest_edge": 64 * 64, "longest_edge": 96 * 96}
VIDEO_SETTINGS: dict[str, dict[str, Any]] = {
    "as built": {},
    "two frames a second": {"do_sample_frames": True, "fps": 2, "size": BOUNDS},
    "a fraction of a frame a second": {
        "do_sample_frames": True, "fps": 0.7, "min_frames": 2, "max_frames": 9, "size": BOUNDS
    },
    "capped": {"cap_pixels_per_frame": True, "do_sample_frames": True, "fps": 3, "max_video_tokens": 9, "size": BOUNDS},
    "all frames": {"do_sample_frames": False, "size": BOUNDS},
    "a number of frames": {"do_sample_frames": True, "fps": None, "num_frames": 6, "size": BOUNDS},
}  # fmt: skip


def family_with(processor_dir: Any, name: Any, settings: dict[str, Any]) -> Any:
    """A family of its own whose video processor has these settings."""
    shared = make_family(processor_dir, name, "torchvision", SMALL)
    processor = type(shared.processor).from_pretrained(processor_dir(name, max_pixels=SMALL), **settings)
    for setting, value in settings.items():
        found = getattr(processor.video_processor, setting)
        assert (dict(found) if setting == "size" else found) == value
    return type(shared)(processor)


def clips_to_try() -> list[VideoSize]:
    rng = random.Random(1)
    rates = [24.0, 25.0, 30000 / 1001, 24000 / 1001, 29.97, 12.5, 60.0, 15.0, 1.0, 0.5]
    drawn = [
        clip_size(rng.randint(1, 60), rng.choice(rates), int(2 ** rng.uniform(3, 9)), int(2 ** rng.uniform(3, 9)))
        for _ in range(16)
    ]
    return [
        *drawn,
        clip_size(1, 24.0, 64, 64),
        clip_size(2, 24.0, 64, 64),
        clip_size(3, 24.0, 30, 6_000),
        clip_size(7, 24.0, 8, 2_000),
        clip_size(200, 25.0, 28, 28),
        clip_size(61, 30.0, 13, 17),
    ]


def full_run(family: Any, sizes: list[VideoSize]) -> tuple[Any, dict[str, Any]]:
    sample = sample_of(("user", [*[CLIP] * len(sizes), "Look"]), ("assistant", "Yes."))
    return sample, run_processor(family.processor, sample, [a_video_of(size) for size in sizes])


def assert_counted(family: Any, sizes: list[VideoSize], sample: Any, truth: dict[str, Any]) -> None:
    counts = family.measure(sizes)
    tokens = family.encode(sample, counts).expand()
    assert tokens.input_ids.tolist() == truth["input_ids"].tolist()
    assert tokens.mm_token_type_ids.tolist() == truth["mm_token_type_ids"].tolist()
    for name in counts[0].inputs:
        joined = np.concatenate([count.inputs[name] for count in counts])
        assert joined.dtype == truth[name].dtype
        assert joined.tobytes() == truth[name].tobytes()
    assert set(counts[0].inputs) == {"video_grid_thw", "second_per_grid_ts"} & set(truth)
    assert sum(count.num_patches for count in counts) == len(truth["pixel_values_videos"])
    assert sum(count.num_visual_tokens for count in counts) == (truth["mm_token_type_ids"] == 2).sum()


@pytest.mark.parametrize("settings", VIDEO_SETTINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_clips_count_as_the_processor_counts_them(name, settings, processor_dir):
    family = family_with(processor_dir, name, VIDEO_SETTINGS[settings])
    counted = refused = 0
    sizes = clips_to_try() if settings != "as built" else [clip_size(1, 24.0, 64, 64), clip_size(5, 24.0, 333, 500)]
    for size in sizes:
        try:
            sample, truth = full_run(family, [size])
        except (ValueError, RuntimeError, ZeroDivisionError):
            with pytest.raises(RefuseSample):
                family.measure([size])
            refused += 1
            continue
        assert_counted(family, [size], sample, truth)
        counted += 1
    assert counted + refused == len(sizes)
    assert counted > len(sizes) // 3
    assert refused > 0 or settings in ("as built", "all frames")


@pytest.mark.parametrize("name", FAMILIES)
def test_clips_side_by_side_count_as_the_processor_counts_them(name, processor_dir):
    family = family_with(processor_dir, name, VIDEO_SETTINGS["two frames a second"])
    sizes = [clip_size(50, 25.0, 60, 90), clip_size(9, 24.0, 64, 64), clip_size(31, 12.5, 90, 60)]
    sample, truth = full_run(family, sizes)
    assert_counted(family, sizes, sample, truth)


@pytest.mark.parametrize(
    ("settings", "chunk_bytes"), [("as built", 1 << 20), ("two frames a second", 1), ("capped", 1 << 14)]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_pixels_of_clips_are_the_processors_to_the_bit(
    name, settings, chunk_bytes, processor_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(qwen_video, "CHUNK_BYTES", chunk_bytes)
    family = family_with(processor_dir, name, VIDEO_SETTINGS[settings])
    shapes = [(9, Fraction(24000, 1001), 48, 80), (12, Fraction(8), 150, 112), (5, Fraction(25), 320, 64)]
    media = [write_clip(tmp_path / f"{at}.mp4", *shape) for at, shape in enumerate(shapes)]
    sample = sample_of(("user", [*media, "Look"]), ("assistant", "Yes."))
    counts = family.measure([clip_size(n, float(rate), h, w) for n, rate, h, w in shapes])
    truth = run_processor(family.processor, sample, [decoded_video(medium) for medium in media])
    made = [family.tensors(family.load(medium), count) for medium, count in zip(media, counts, strict=True)]
    for tensors, count in zip(made, counts, strict=True):
        assert tensors["pixel_values_videos"].dtype == np.uint8
        assert tensors["pixel_values_videos"].nbytes == count.stored_bytes
        assert all(tensors[name].tobytes() == value.tobytes() for name, value in count.inputs.items())
    stored = {name: torch.from_numpy(np.concatenate([tensors[name] for tensors in made])) for name in made[0]}
    restored = restore_all(dict(stored), family.pixel_rules())
    for name, value in restored.items():
        assert value.numpy().dtype == truth[name].dtype
        assert value.shape == truth[name].shape
        assert value.numpy().tobytes() == truth[name].tobytes(), name
    assert set(restored) == set(truth) - {"input_ids", "attention_mask", "mm_token_type_ids"}
    assert len(np.unique(stored["pixel_values_videos"])) > 200
    assert family._clips._resizes_alone


def test_a_clip_goes_the_long_way_where_the_short_one_differs(processor_dir, tmp_path, monkeypatch):
    family = family_with(processor_dir, "qwen2_5_vl", {})
    clip = family.load(write_clip(tmp_path / "clip.mp4", 5, 25, 64, 96))
    short = family._clips.tensors(clip.frames)
    monkeypatch.setattr(type(family._clips), "_resized", lambda self, frames: {})
    family._clips.__dict__["_resizes_alone"] = False
    whole = family._clips.tensors(clip.frames)
    assert all(np.array_equal(short[name], whole[name]) for name in whole)
    assert set(whole) == {"pixel_values_videos", "video_grid_thw"}


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_list_of_images_has_no_times_to_read(name, processor_dir):
    family = make_family(processor_dir, name, "torchvision", SMALL)
    with pytest.raises(RefuseSample, match="24"):
        family.measure([clip_size(8, None, 64, 64)])


def test_a_list_of_images_is_a_clip_where_no_time_is_read(processor_dir, tmp_path):
    from PIL import Image

    family = make_family(processor_dir, "qwen2_vl", "torchvision", SMALL)
    rng = np.random.default_rng(0)
    images = []
    for at in range(3):
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / f"{at}.png")
        images.append(Media(kind="image", location=str(tmp_path / f"{at}.png")))
    medium = Media(kind="video", frames=tuple(images))
    sample = sample_of(("user", [medium]), ("assistant", "Yes."))
    (count,) = family.measure([clip_size(3, None, 50, 70)])
    truth = run_processor(family.processor, sample, [([[image.location for image in images]], None)])
    tensors = family.tensors(family.load(medium), count)
    assert family.encode(sample, [count]).expand().input_ids.tolist() == truth["input_ids"].tolist()
    restored = restore_all({name: torch.from_numpy(value) for name, value in tensors.items()}, family.pixel_rules())
    assert restored["pixel_values_videos"].numpy().tobytes() == truth["pixel_values_videos"].tobytes()
    assert (
        restored["video_grid_thw"].tolist()
        == truth["video_grid_thw"].tolist()
        == [[2, *truth["video_grid_thw"][0, 1:]]]
    )


@pytest.mark.parametrize("height", [1, 3])
def test_frames_whose_rows_would_be_taken_for_channels_are_refused(height, processor_dir):
    family = make_family(processor_dir, "qwen2_vl", "torchvision", SMALL)
    with pytest.raises(RefuseSample, match="rows for channels"):
        family.measure([clip_size(8, 24.0, height, 64)])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cap_pixels_per_frame", True),
        ("fps", 3),
        ("num_frames", 8),
        ("min_frames", 6),
        ("max_frames", 60),
        ("do_sample_frames", True),
        ("max_video_tokens", 9),
        ("size", BOUNDS),
    ],
)
def test_every_setting_that_samples_or_resizes_is_in_the_fingerprint(setting, value, processor_dir):
    settings = FamilySettings(processor="-")
    processor = Qwen2VLProcessor.from_pretrained(processor_dir("qwen2_vl", max_pixels=SMALL))
    before = fingerprint(Qwen2VL(processor), settings)
    setattr(processor.video_processor, setting, value)
    after = fingerprint(Qwen2VL(processor), settings)
    assert {part for part in before if before[part] != after[part]} == {"video_processor"}


def test_a_video_processor_without_normalizing_stops_the_run(processor_dir):
    processor = Qwen2VLProcessor.from_pretrained(processor_dir("qwen2_vl", max_pixels=SMALL))
    processor.video_processor.do_normalize = False
    with pytest.raises(StopRun, match="video processor has do_normalize off"):
        Qwen2VL(processor)
