"""Clips against transformers' own PyAV loader and video processors: the same frames, bit for bit, and the same words."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
from transformers.video_utils import VideoMetadata, load_video

from tests.clips import Recipe, clip, decoded_frames, moving_picture, remuxed, with_a_silent_packet
from tests.mediafiles.test_videos import of_two_sizes
from vlmprep.families.media import clips as clips_module
from vlmprep.families.media.clips import clip_metadata, load_clip, refuse_large_clip, sampled_frames
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import VideoSize
from vlmprep.sources.media import MediaReader

SAMPLING: dict[str, Callable[[], Any]] = {
    "qwen2, all frames": transformers.Qwen2VLVideoProcessor,
    "qwen2, 2 a second": lambda: transformers.Qwen2VLVideoProcessor(do_sample_frames=True, fps=2),
    "qwen2, 6 frames": lambda: transformers.Qwen2VLVideoProcessor(do_sample_frames=True, num_frames=6),
    "qwen3": transformers.Qwen3VLVideoProcessor,
    "smolvlm": transformers.SmolVLMVideoProcessor,
    "internvl, 5 frames": lambda: transformers.InternVLVideoProcessor(do_sample_frames=True, num_frames=5),
    "gemma4": Gemma4VideoProcessor,
    "llava-onevision": transformers.LlavaOnevisionVideoProcessor,
}
CLIPS = {
    "mp4": Recipe(num_frames=40, rate=12, b_frames=2),
    "mp4 of a broadcast": Recipe(num_frames=37, rate=Fraction(24_000, 1_001)),
    "avi": Recipe(container="avi", codec="mpeg4", num_frames=40),
    "mov with sound": Recipe(container="mov", num_frames=36, sound="aac"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("clips")
    for name, recipe in CLIPS.items():
        (folder / name).write_bytes(clip(recipe))
    return {name: str(folder / name) for name in CLIPS}


def size_of(medium: Media) -> VideoSize:
    return MediaReader().clip_size(medium)


def metadata_of(num_frames: int, rate: float | None = 25.0) -> VideoMetadata:
    return clip_metadata(VideoSize(num_frames=num_frames, frames_per_second=rate, height=48, width=64, num_bytes=0))


def refusal(call: Callable[..., Any], *arguments: Any) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        call(*arguments)
    return caught.value


def loaded_by_transformers(processor: Any, path: str) -> Any:
    """Its PyAV loader, sampling as the processor's own `preprocess` tells a loader to."""
    told: dict[str, Any] = {}

    def remember(videos: Any, sample_indices_fn: Any = None) -> tuple[Any, Any]:
        told["sample"] = sample_indices_fn
        raise StopIteration

    processor.fetch_videos = remember
    with pytest.raises(StopIteration):
        processor(videos=[path], return_metadata=True)
    del processor.fetch_videos
    load: Any = load_video
    return load(path, backend="pyav", sample_indices_fn=told["sample"])


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("sampling", SAMPLING)
def test_frames_and_metadata_are_those_of_transformers(sampling: str, name: str, files: dict[str, str]) -> None:
    processor = SAMPLING[sampling]()
    found = load_clip(processor, Media(kind="video", location=files[name]))
    frames, metadata = loaded_by_transformers(processor, files[name])
    metadata.frames_indices = [int(index) for index in metadata.frames_indices]
    assert found.frames.dtype == torch.uint8
    assert found.frames.is_contiguous()
    assert np.array_equal(found.frames.permute(0, 2, 3, 1).numpy(), frames)
    assert found.metadata == metadata
    assert len(frames) == len(metadata.frames_indices) > 0


def sampled_by(processor: Any, video: torch.Tensor, metadata: VideoMetadata) -> list[int]:
    """Which frames of a decoded video the processor's own call goes on with."""
    told: dict[str, list[int]] = {}

    def stop(videos: Any, **_: Any) -> None:
        indices = range(len(videos[0])) if metadata.frames_indices is None else metadata.frames_indices
        told["frames"] = [int(index) for index in indices]
        raise StopIteration

    processor._prepare_input_videos = stop
    try:
        processor(videos=[video], video_metadata=[metadata])
    except StopIteration:
        return told["frames"]
    finally:
        del processor._prepare_input_videos
    raise AssertionError("it was not called")


@pytest.mark.parametrize("sampling", SAMPLING)
def test_the_same_frames_are_sampled_from_a_header_and_from_decoded_frames(sampling: str) -> None:
    processor = SAMPLING[sampling]()
    compared = 0
    for num_frames in (32, 33, 61, 150):
        for rate in (6.0, 23.976023976023978, 29.97002997002997, 60.0):
            metadata = metadata_of(num_frames, rate)
            video = torch.empty((num_frames, 3, 48, 64), dtype=torch.uint8)
            try:
                sampled = sampled_by(processor, video, metadata_of(num_frames, rate))
            except (IndexError, ValueError):
                assert refusal(sampled_frames, processor, metadata).code == "unsampled-clip"
                continue
            assert sampled_frames(processor, metadata) == sampled
            compared += 1
    assert compared >= 8


def test_clips_that_a_processor_does_not_sample_are_refused_with_its_reason() -> None:
    short = refusal(sampled_frames, Gemma4VideoProcessor(), metadata_of(31))
    assert short.code == "unsampled-clip"
    assert "31 frames at 25 a second" in short.reason
    assert "num_frames=32" in short.reason
    one = transformers.Qwen2VLVideoProcessor(do_sample_frames=True, fps=2)
    assert "1 frames at 25 a second" in refusal(sampled_frames, one, metadata_of(1)).reason


def test_a_frame_that_is_not_there_is_not_sampled() -> None:
    processor: Any = transformers.Qwen2VLVideoProcessor(do_sample_frames=True)
    processor.sample_frames = lambda metadata, **_: [0, metadata.total_num_frames]
    found = refusal(sampled_frames, processor, metadata_of(9))
    assert "asks for frame 9" in found.reason


def test_a_frame_sampled_twice_stands_twice() -> None:
    processor = transformers.Qwen3VLVideoProcessor(fps=None, min_frames=8)
    found = load_clip(processor, Media(kind="video", content=clip(Recipe(num_frames=4))))
    assert found.metadata.frames_indices == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(found.frames[0::2], found.frames[1::2])
    assert not torch.equal(found.frames[0], found.frames[2])


def test_containers_without_an_index_are_sampled_too() -> None:
    processor = transformers.Qwen3VLVideoProcessor()
    for container in ("webm", "matroska"):
        data = clip(Recipe(container=container, codec="libvpx-vp9", num_frames=30))
        found = load_clip(processor, Media(kind="video", content=data))
        frames = decoded_frames(data)
        assert found.metadata.total_num_frames == len(frames) == 30
        assert found.metadata.frames_indices is not None
        for frame, index in zip(found.frames, found.metadata.frames_indices, strict=True):
            assert np.array_equal(frame.permute(1, 2, 0).numpy(), frames[index])


def test_hidden_frames_are_neither_counted_nor_sampled() -> None:
    data = remuxed(clip(Recipe(num_frames=30, b_frames=2, key_every=8)), "mp4", earlier=0.9)
    found = load_clip(transformers.Qwen2VLVideoProcessor(), Media(kind="video", content=data))
    frames = decoded_frames(data)
    assert 0 < len(frames) < 30
    assert np.array_equal(found.frames.permute(0, 2, 3, 1).numpy(), np.stack(frames))


@pytest.mark.parametrize(
    ("rotation", "upright"),
    [
        (90, lambda frame: np.rot90(frame, 1)),
        (180, lambda frame: np.rot90(frame, 2)),
        (270, lambda frame: np.rot90(frame, 3)),
    ],
)
def test_a_turned_clip_is_brought_upright(rotation: int, upright: Callable[[Any], Any]) -> None:
    data = clip(Recipe(rotation=rotation, num_frames=5))
    medium = Media(kind="video", content=data)
    found = load_clip(transformers.Qwen2VLVideoProcessor(), medium)
    expected = np.stack([upright(frame) for frame in decoded_frames(data)])
    assert np.array_equal(found.frames.permute(0, 2, 3, 1).numpy(), expected)
    size = size_of(medium)
    assert found.frames.shape == (5, 3, size.height, size.width)
    assert (found.metadata.height, found.metadata.width) == (size.height, size.width)


def test_a_clip_that_decodes_to_fewer_frames_than_promised_is_refused() -> None:
    data = with_a_silent_packet(Recipe(container="matroska", num_frames=12), packet=7)
    medium = Media(kind="video", content=data)
    assert (size_of(medium).num_frames, len(decoded_frames(data))) == (12, 11)
    found = refusal(load_clip, transformers.Qwen2VLVideoProcessor(), medium)
    assert found.code == "lying-header"
    assert "frame 11 is not there" in found.reason


def test_a_clip_that_changes_its_size_is_refused() -> None:
    medium = Media(kind="video", content=of_two_sizes("mjpeg"))
    assert size_of(medium).num_frames == 8
    found = refusal(load_clip, transformers.Qwen2VLVideoProcessor(), medium)
    assert found.code in ("lying-header", "undecodable-media")


def test_a_clip_whose_header_was_read_is_not_counted_twice(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    medium = Media(kind="video", location=files["avi"])
    found = load_clip(transformers.Qwen2VLVideoProcessor(), medium)
    size_of(medium)
    monkeypatch.setattr(clips_module, "whole_size", lambda *_: pytest.fail("counted again"))
    again = load_clip(transformers.Qwen2VLVideoProcessor(), medium)
    assert torch.equal(again.frames, found.frames)
    assert again.metadata == found.metadata


def test_what_is_not_there_or_no_video_is_refused(tmp_path: Path) -> None:
    processor = transformers.Qwen2VLVideoProcessor()
    gone = Media(kind="video", location=str(tmp_path / "gone.mp4"))
    assert refusal(load_clip, processor, gone).code == "unreadable-media"
    assert refusal(load_clip, processor, Media(kind="video", content=b"text")).code == "not-a-video"


def test_the_memory_of_sampled_frames_is_held_against_its_limit() -> None:
    size = VideoSize(num_frames=1_800, frames_per_second=30.0, height=720, width=1_280, num_bytes=0)
    processor = transformers.Qwen2VLVideoProcessor(do_sample_frames=True, num_frames=2)
    exact = 2 * 720 * 1_280 * 3
    refuse_large_clip(processor, size, exact)
    found = refusal(refuse_large_clip, processor, size, exact - 1)
    assert found.code == "clip-too-large"
    assert f"2 sampled frames of 1280 x 720 take {exact} bytes" in found.reason
    assert "--max-clip-bytes" in found.reason
    all_frames = transformers.Qwen2VLVideoProcessor()
    assert "1800 sampled frames" in refusal(refuse_large_clip, all_frames, size, 2 << 30).reason


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Frames of every kind that loaders differ in."""
    kinds: dict[str, dict[str, Any]] = {
        "a.jpg": {"mode": "RGB"},
        "b.png": {"mode": "RGBA"},
        "c.png": {"mode": "L"},
        "d.png": {"mode": "P"},
        "e.webp": {"mode": "RGB", "lossless": True},
    }
    for number, (name, how) in enumerate(kinds.items()):
        mode = how.pop("mode")
        Image.fromarray(moving_picture(number)).convert(mode).save(tmp_path / name, **how)
    return [str(tmp_path / name) for name in kinds]


@pytest.mark.parametrize(
    "make", [transformers.Qwen2VLVideoProcessor, transformers.InternVLVideoProcessor, Gemma4VideoProcessor]
)
def test_a_list_of_images_is_the_clip_that_the_processor_makes_of_it(make: Any, images: list[str]) -> None:
    processor = make(do_sample_frames=False)
    medium = Media(kind="video", frames=tuple(Media(kind="image", location=path) for path in images))
    found = load_clip(processor, medium)
    (expected,), _ = processor._decode_and_sample_videos([[images]], None, False, None)
    assert torch.equal(found.frames, expected)
    assert found.metadata.fps is None
    assert found.metadata.frames_indices == [0, 1, 2, 3, 4]
    assert size_of(medium) == VideoSize(
        num_frames=5,
        frames_per_second=None,
        height=48,
        width=64,
        num_bytes=sum(Path(path).stat().st_size for path in images),
    )


def test_a_list_of_images_is_taken_whole(images: list[str]) -> None:
    medium = Media(kind="video", frames=tuple(Media(kind="image", location=path) for path in images))
    processor = transformers.Qwen3VLVideoProcessor(max_frames=2)
    assert processor.do_sample_frames
    assert len(load_clip(processor, medium).frames) == 5
    assert sampled_frames(processor, clip_metadata(size_of(medium))) == [0, 1, 2, 3, 4]


def test_images_of_several_sizes_are_no_clip(images: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (64, 49)).save(tmp_path / "other.png")
    paths = (*images, str(tmp_path / "other.png"))
    medium = Media(kind="video", frames=tuple(Media(kind="image", location=path) for path in paths))
    found = refusal(size_of, medium)
    assert found.code == "changing-size"
    assert "other.png is 64 x 49" in found.reason
    assert refusal(load_clip, transformers.Qwen2VLVideoProcessor(), medium).code == "changing-size"


def test_real_clips_are_those_of_transformers(shared_data: Path) -> None:
    processor = transformers.Qwen3VLVideoProcessor()
    paths = sorted((shared_data / "video").iterdir())
    assert paths
    for path in paths:
        found = load_clip(processor, Media(kind="video", location=str(path)))
        frames, metadata = loaded_by_transformers(processor, str(path))
        assert np.array_equal(found.frames.permute(0, 2, 3, 1).numpy(), frames)
        assert found.metadata.total_num_frames == metadata.total_num_frames
