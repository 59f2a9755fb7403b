"""Qwen3-Omni against its processor: images, clips, sounds and clips that are heard, to the bit."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from tests.clips import Recipe, clip
from tests.families.qwen_truth import a_video_of, clip_size, decoded_video, run_processor, write_clip
from tests.families.truth import sample_of
from vlmprep.families.loading import load_family
from vlmprep.families.media.clips import Clip, clip_metadata
from vlmprep.families.qwen.omni import HeardClip, Qwen3Omni
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import AudioSize, ImageSize, MediaSize, VideoSize
from vlmprep.sources.media import MediaReader

IMAGE, CLIP, SOUND = (Media(kind=kind, content=b"-") for kind in ("image", "video", "audio"))
RATE = 16_000
SEQUENCES = {"input_ids", "attention_mask"}


@pytest.fixture(scope="module")
def folder(family_processor_dir):
    return family_processor_dir("qwen3_omni")


@pytest.fixture(scope="module", params=["deaf", "hearing"])
def family(request, folder):
    return family_of(folder, hears=request.param == "hearing")


def family_of(folder: Any, *, hears: bool, **options: Any) -> Any:
    """Small clips, with or without their sound."""
    processor = AutoProcessor.from_pretrained(folder, **options)
    processor.videos_kwargs = {"size": {"shortest_edge": 4_096, "longest_edge": 16_384}}
    processor.load_audio_from_video = hears
    made = Qwen3Omni(processor)
    assert made.hears_clips == hears
    return made


def sound_size(num_samples: int) -> AudioSize:
    return AudioSize(num_samples=num_samples, sampling_rate=RATE, num_bytes=1)


def a_sound(num_samples: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Noise that swells and fades."""
    rng = np.random.default_rng(seed + num_samples)
    envelope = np.sin(np.linspace(0, 3, num_samples)) * 10 ** rng.uniform(-3, 0)
    return (rng.standard_normal(num_samples) * envelope).astype(np.float32)


def clip_frames(size: VideoSize) -> torch.Tensor:
    rng = np.random.default_rng(size.num_frames)
    shape = (size.num_frames, 3, size.height, size.width)
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


def decoded_of(size: MediaSize, hears: bool) -> Any:
    """What the family's loader would give for a medium of this size."""
    if isinstance(size, AudioSize):
        return a_sound(size.num_samples)
    if isinstance(size, ImageSize):
        return torch.from_numpy(
            np.random.default_rng(size.height).integers(0, 256, (3, size.height, size.width), np.uint8)
        )
    metadata = clip_metadata(size)
    metadata.frames_indices = list(range(size.num_frames))
    clip = Clip(frames=clip_frames(size), metadata=metadata)
    return HeardClip(clip=clip, samples=a_sound(size.audio.num_samples, 1)) if hears and size.audio else clip


def truth_of(family: Any, sample: Any, sizes: Sequence[MediaSize]) -> dict[str, Any]:
    """The processor's own run; it takes the sounds of clips among the others, each with the number of its clip."""
    sounds: list[Any] = []
    owners: list[int | None] = []
    clips = 0
    for size in sizes:
        if isinstance(size, AudioSize):
            sounds.append(a_sound(size.num_samples))
            owners.append(None)
        if isinstance(size, VideoSize):
            if family.hears_clips and size.audio:
                sounds.append(a_sound(size.audio.num_samples, 1))
                owners.append(clips)
            clips += 1
    videos = [(clip_frames(size), a_video_of(size)[1]) for size in sizes if isinstance(size, VideoSize)]
    media: dict[str, Any] = {}
    if sounds or family.hears_clips:
        media = {"audio": sounds or None, "audio_from_video_indices": owners}
    if images := [decoded_of(size, hears=False) for size in sizes if isinstance(size, ImageSize)]:
        media["images"] = images
    return run_processor(family.processor, sample, videos, **media)


def sample_with(sizes: Sequence[MediaSize]) -> Any:
    media = {"image": IMAGE, "video": CLIP, "audio": SOUND}
    parts = [part for size in sizes for part in (media[size.kind], "and ")]
    return sample_of(("user", ["Look ", *parts, "here"]), ("assistant", "Yes."), ("user", "?"), ("assistant", "No."))


def assert_as_the_processor(family: Any, sizes: Sequence[MediaSize]) -> tuple[Any, dict[str, Any]]:
    """Sequence, counts and every tensor; the tokens and the stored small inputs."""
    sample = sample_with(sizes)
    truth = truth_of(family, sample, sizes)
    counts = family.measure(sizes)
    tokens = family.encode(sample, counts).expand()
    assert tokens.input_ids.tolist() == truth["input_ids"].tolist()
    made = [
        family.tensors(decoded_of(size, family.hears_clips), count) for size, count in zip(sizes, counts, strict=True)
    ]
    large = set(family.pixel_rules())
    for tensors, count in zip(made, counts, strict=True):
        assert sum(value.nbytes for name, value in tensors.items() if name in large) == count.stored_bytes
        assert all(tensors[name].tobytes() == value.tobytes() for name, value in count.inputs.items())
        assert set(count.inputs) == set(tensors) - large
    names = {name for tensors in made for name in tensors}
    stored = {name: np.concatenate([tensors[name] for tensors in made if name in tensors]) for name in names}
    restored = restore_all({name: torch.from_numpy(value) for name, value in stored.items()}, family.pixel_rules())
    assert set(restored) == set(truth) - SEQUENCES
    for name, value in restored.items():
        assert (value.numpy().dtype, tuple(value.shape)) == (truth[name].dtype, truth[name].shape), name
        assert value.numpy().tobytes() == truth[name].tobytes(), name
    return tokens, stored


def heard(size: VideoSize, num_samples: int) -> VideoSize:
    return dataclasses.replace(size, audio=sound_size(num_samples))


SAMPLES: dict[str, list[MediaSize]] = {
    "an image": [ImageSize(height=64, width=96, num_bytes=1)],
    "a sound": [sound_size(16_000)],
    "a sound of an odd length": [sound_size(12_345)],
    "the shortest sound": [sound_size(201)],
    "sounds of many lengths": [sound_size(n) for n in (5_001, 33_333, 1, 159, 160, 161, 33_173, 33_299)],
    "sounds of one length": [sound_size(4_800), sound_size(4_800)],
    "a silent clip": [clip_size(9, 24.0, 64, 96)],
    "a clip with a sound": [heard(clip_size(8, 24.0, 64, 96), 40_001)],
    "a clip that outlasts its sound": [heard(clip_size(24, 24.0, 32, 32), 6_000)],
    "a sound that outlasts its clip": [heard(clip_size(2, 24.0, 64, 64), 90_000)],
    "all of it": [
        sound_size(7_000),
        heard(clip_size(7, 24.0, 64, 96), 24_000),
        ImageSize(height=80, width=60, num_bytes=1),
        sound_size(30_000),
        heard(clip_size(4, 24.0, 40, 40), 3_000),
    ],
}


@pytest.mark.parametrize("media", SAMPLES)
def test_a_sample_is_what_the_processor_makes_of_it(media, family):
    assert_as_the_processor(family, SAMPLES[media])


def test_sounds_of_many_lengths_are_what_the_processor_makes_of_them(family):
    rng = random.Random(0)
    lengths = {rng.randint(1, 3_000) for _ in range(14)} | {rng.randint(1, 30_000) for _ in range(7)}
    sizes = sorted(lengths, key=lambda _: rng.random())
    assert len(sizes) > 15
    for at in range(0, len(sizes), 4):
        assert_as_the_processor(family, [sound_size(n) for n in (*sizes[at : at + 4], 300)])


def test_a_sound_beside_a_longer_one_counts_otherwise_than_alone(family):
    (alone,) = family.measure([sound_size(1_601)])
    beside, _ = family.measure([sound_size(1_601), sound_size(8_000)])
    assert alone.inputs["audio_feature_lengths"].tolist() == [10]
    assert beside.inputs["audio_feature_lengths"].tolist() == [11]


def test_a_sound_at_another_rate_counts_as_resampled(family):
    size = AudioSize(num_samples=44_101, sampling_rate=44_100, num_bytes=1)
    counted, expected = family.measure([size])[0], family.measure([sound_size(16_001)])[0]
    assert (counted.run_lengths, counted.stored_bytes) == (expected.run_lengths, expected.stored_bytes)


def test_sounds_that_are_too_short_are_refused(family):
    for sizes in ([sound_size(200)], [sound_size(100), sound_size(150)]):
        with pytest.raises(RefuseSample, match="needs more than 200"):
            family.measure(sizes)
        with pytest.raises(RuntimeError):
            truth_of(family, sample_with(sizes), sizes)


def test_a_sound_longer_than_its_header_said_is_refused(family):
    (count,) = family.measure([sound_size(5_000)])
    with pytest.raises(RefuseSample) as caught:
        family.tensors(a_sound(5_001), count)
    assert caught.value.code == "lying-header"


def test_a_silent_clip_beside_one_that_is_heard_is_refused(folder):
    family = family_of(folder, hears=True)
    sizes = [clip_size(4, 24.0, 64, 64), heard(clip_size(4, 24.0, 64, 64), 9_000)]
    with pytest.raises(RefuseSample, match="silent"):
        family.measure(sizes)
    assert len(family.measure(sizes[:1] * 2)) == 2


def test_the_time_between_steps_follows_the_processors_fps(folder):
    family = family_of(folder, hears=False, fps=2.0)
    _, stored = assert_as_the_processor(family, [clip_size(8, 24.0, 64, 64)])
    assert stored["video_second_per_grid"].tolist() == [1.0]


def test_bounds_by_their_older_names_win_over_the_processors_size(folder):
    size = clip_size(8, 24.0, 300, 200)
    plain, bounded = (AutoProcessor.from_pretrained(folder, **options) for options in ({}, {"max_pixels": 20_000}))
    tokens, _ = assert_as_the_processor(Qwen3Omni(bounded), [size, ImageSize(height=300, width=200, num_bytes=1)])
    assert len(tokens.input_ids) < Qwen3Omni(plain).measure([size])[0].num_visual_tokens


def test_positions_that_are_no_whole_numbers_are_refused(folder):
    family = family_of(folder, hears=False, fps=3.0)
    size = clip_size(8, 24.0, 64, 64)
    tokens, stored = assert_as_the_processor(family, [size])
    with pytest.raises(RefuseSample, match="whole") as caught:
        family.positions(tokens, stored)
    assert caught.value.code == "fractional-positions"


def test_the_option_reaches_the_family(folder):
    family = load_family(FamilySettings(processor=str(folder), options=(("load_audio_from_video", True),)))
    assert family.hears_clips
    assert not load_family(FamilySettings(processor=str(folder))).hears_clips
    size = heard(clip_size(2, 24.0, 64, 64), 9_000)
    deaf = load_family(FamilySettings(processor=str(folder))).measure([size])[0]
    assert family.measure([size])[0].num_placeholders > deaf.num_placeholders


def test_another_models_config_stops_the_run(folder):
    from transformers import Qwen3OmniMoeConfig

    processor = AutoProcessor.from_pretrained(folder)
    config = Qwen3Omni(processor).config
    Qwen3Omni(processor, config)
    Qwen3Omni(processor, config.thinker_config)
    with pytest.raises(StopRun, match="_token_id"):
        Qwen3Omni(processor, Qwen3OmniMoeConfig())
    config.thinker_config.audio_config.n_window = 30
    with pytest.raises(StopRun, match="n_window 30, the processor 50"):
        Qwen3Omni(processor, config)


def test_a_feature_extractor_that_adds_noise_stops_the_run(folder):
    processor = AutoProcessor.from_pretrained(folder)
    processor.feature_extractor.dither = 1e-4
    with pytest.raises(StopRun, match="dither"):
        Qwen3Omni(processor)


def test_sounds_of_several_samples_join_in_a_pack(family):
    lengths = [(5_001, 9_000), (30_000,), (400, 300)]
    made, truths = [], []
    for of_sample in lengths:
        sizes = [sound_size(length) for length in of_sample]
        truths.append(truth_of(family, sample_with(sizes), sizes))
        counts = family.measure(sizes)
        made += [family.tensors(decoded_of(size, False), count) for size, count in zip(sizes, counts, strict=True)]
    stored = {name: torch.from_numpy(np.concatenate([tensors[name] for tensors in made])) for name in made[0]}
    restored = restore_all(stored, family.pixel_rules())
    assert restored["input_features"].shape == (5, 128, 30_000 // 160)
    heard = restored["feature_attention_mask"].bool()
    expected = [
        features[:, mask.astype(bool)]
        for truth in truths
        for features, mask in zip(truth["input_features"], truth["feature_attention_mask"], strict=True)
    ]
    assert len(expected) == 5
    for features, mask, wanted in zip(restored["input_features"], heard, expected, strict=True):
        assert torch.equal(features[:, mask], torch.from_numpy(wanted))
    assert heard.sum(1).tolist() == [wanted.shape[1] for wanted in expected]


def test_a_file_with_pictures_and_sound_is_seen_and_heard(folder, tmp_path):
    family = family_of(folder, hears=True)
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(Recipe(sound="aac")))
    medium = Media(kind="video", location=str(path))
    size = MediaReader().size(medium, family.loader, with_sound=family.hears_clips)
    assert isinstance(size, VideoSize)
    assert size.audio is not None
    sizes: list[MediaSize] = [size, sound_size(3_000)]
    counts = family.measure(sizes)
    decoded = family.load(medium)
    assert isinstance(decoded, HeardClip)
    tensors = family.tensors(decoded, counts[0])
    assert all(tensors[name].tobytes() == value.tobytes() for name, value in counts[0].inputs.items())
    truth = run_processor(
        family.processor,
        sample_with(sizes),
        [decoded_video(medium)],
        audio=[decoded.samples, a_sound(3_000)],
        audio_from_video_indices=[0, None],
    )
    tokens = family.encode(sample_with(sizes), counts).expand()
    assert tokens.input_ids.tolist() == truth["input_ids"].tolist()
    assert (tokens.input_ids == family._token_id("audio_token")).sum() > 5


def test_a_silent_file_is_seen(folder, tmp_path):
    family = family_of(folder, hears=True)
    medium = write_clip(tmp_path / "clip.mp4", 4, 24, 64, 64)
    assert isinstance(family.load(medium), Clip)
