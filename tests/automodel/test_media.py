from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import video_processing_utils, video_utils
from transformers.audio_utils import load_audio

from tests.automodel.examples import (
    END_OF_TURN,
    a_clip,
    a_picture,
    a_sound,
    assert_batch_is,
    conversations,
    learned,
    plain,
    processor,
)
from tests.families.processors import FamilyName
from vlmprep.automodel.collate_fns import (
    COLLATE_FNS,
    _count_media_per_sample,
    _ensure_rgb,
    _extract_assistant_text,
    _extract_media_from_conversations,
    default_collate_fn,
    qwen2_5_collate_fn,
    qwen3_omni_collate_fn,
)
from vlmprep.families.media.clips import load_clip
from vlmprep.mediafiles.sounds import resampled
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample

WITH_VIDEO: tuple[FamilyName, ...] = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_omni",
    "kimi_k25",
    "gemma4",
    "llava_onevision",
    "internvl",
    "smolvlm",
)
QUESTION = {"type": "text", "text": "What?"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return a_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="module")
def sounding_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return a_clip(tmp_path_factory.mktemp("clips") / "clip.avi", num_frames=20, sound_rate=22_050)


@pytest.fixture
def pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers decode clips by its own PyAV loader, which nothing but a missing decoder would make it take."""

    def fetch(self: Any, urls: Any, sample_indices_fn: Any = None) -> Any:
        if isinstance(urls, list):
            return list(zip(*[fetch(self, url, sample_indices_fn) for url in urls], strict=True))
        return video_utils.load_video(urls, backend="pyav", sample_indices_fn=sample_indices_fn)

    monkeypatch.setattr(video_processing_utils.BaseVideoProcessor, "fetch_videos", fetch)


def own_run(name: FamilyName, rows: list[dict[str, Any]], **arguments: Any) -> Any:
    return processor(name).apply_chat_template(
        conversations(rows),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **arguments},
    )


def video_rows(*clips: Any) -> list[dict[str, Any]]:
    return [
        {"conversation": plain(("user", [{"type": "video", "video": clip}, QUESTION]), ("assistant", "A cat."))}
        for clip in clips
    ]


@pytest.mark.usefixtures("pyav")
@pytest.mark.parametrize("name", WITH_VIDEO)
def test_clips_by_path_are_sampled_and_processed_as_the_processor_does(name: FamilyName, clip: str):
    image = {"type": "image", "image": a_picture()}
    rows = [
        *video_rows(clip),
        {"conversation": plain(("user", [{"type": "video", "video": clip}, image, QUESTION]), ("assistant", "Two."))},
        {"conversation": plain(("user", "no media"), ("assistant", "No."))},
    ]
    if name == "smolvlm":  # another template stands in for batches with clips there, for all of their conversations
        rows = rows[:2]
    batch = default_collate_fn(rows, processor(name))
    assert_batch_is(batch, own_run(name, rows))
    assert batch["n_videos_per_sample"].tolist() == [1, 1, 0][: len(rows)]
    assert batch["n_images_per_sample"].tolist() == [0, 1, 0][: len(rows)]
    answers = [answer + END_OF_TURN[name] for answer in ("A cat.", "Two.", "No.")]
    assert [run.strip() for (run,) in learned(batch, processor(name).tokenizer)] == answers[: len(rows)]


@pytest.mark.usefixtures("pyav")
def test_qwen2_5s_own_function_samples_by_the_processors_settings(clip: str):
    made_by = processor("qwen2_5_vl")
    batch = qwen2_5_collate_fn(video_rows(clip), made_by)
    truth = own_run("qwen2_5_vl", video_rows(clip))
    assert_batch_is(batch, truth)
    assert "second_per_grid_ts" in truth


def test_nemotron_omni_takes_one_clip_a_call_with_its_times(clip: str):
    made_by: Any = processor("nemotron_omni")
    batch = default_collate_fn(video_rows(clip), made_by)
    loaded = load_clip(made_by.video_processor, Media(kind="video", location=clip))
    truth = made_by(
        text=["<|im_start|>user\n<video>What?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"],
        videos=[loaded.frames],
        video_metadata=loaded.metadata,
        do_sample_frames=False,
        return_tensors="pt",
    )
    assert_batch_is(batch, truth)
    assert "sampled at 0.00 seconds" in made_by.tokenizer.decode(batch["input_ids"][0])
    assert learned(batch, made_by.tokenizer) == [["A cat.<|im_end|>"]]
    with pytest.raises(RefuseSample, match="one conversation with one clip a call"):
        default_collate_fn(video_rows(clip, clip), made_by)


def test_decoded_frames_are_taken_as_they_are():
    frames = [a_picture(56, 84, seed) for seed in range(4)]
    stacked = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).permute(0, 3, 1, 2)
    truth = own_run("qwen2_vl", video_rows(stacked))
    for form in (frames, stacked, stacked.numpy(), [frame.convert("RGBA") for frame in frames]):
        assert_batch_is(default_collate_fn(video_rows(form), processor("qwen2_vl")), truth)


def test_frames_by_path_make_a_clip(tmp_path: Path):
    paths = []
    for seed in range(4):
        a_picture(56, 84, seed).save(tmp_path / f"{seed}.png")
        paths.append(str(tmp_path / f"{seed}.png"))
    truth = own_run("qwen2_vl", video_rows(paths))
    assert_batch_is(default_collate_fn(video_rows(paths), processor("qwen2_vl")), truth)


def test_frames_keep_the_rate_that_their_item_says():
    frames = [a_picture(56, 84, seed) for seed in range(8)]
    rows = video_rows(frames)
    rows[0]["conversation"][0]["content"][0]["fps"] = 4.0
    batch = default_collate_fn(rows, processor("qwen3_vl"))
    text = processor("qwen3_vl").tokenizer.decode(batch["input_ids"][0])
    assert "<0.1 seconds>" in text
    assert "<1.6 seconds>" in text


@pytest.mark.parametrize(
    ("medium", "says"),
    [
        ({"type": "video", "video": [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))]}, "differ in size"),
        ({"type": "video", "video": np.zeros((8, 8, 3), np.uint8)}, "frames, channels"),
        ({"type": "video", "video": 3}, "no path and no frames"),
        ({"type": "video", "video": "/nowhere/clip.mp4"}, "/nowhere/clip.mp4"),
        ({"type": "video"}, "holds none"),
        ({"type": "image", "image": None}, "holds none"),
        ({"type": "video", "video": "a.mp4", "nframes": 4}, "nframes of a single video"),
        ({"type": "image", "image": a_picture(), "max_pixels": 99}, "max_pixels of a single image"),
    ],
)
def test_media_that_cannot_be_used_are_refused(medium: dict[str, Any], says: str):
    rows = [{"conversation": plain(("user", [medium, QUESTION]), ("assistant", "A"))}]
    with pytest.raises(RefuseSample, match=says):
        default_collate_fn(rows, processor("qwen2_vl"))


def test_images_come_by_path_and_under_other_keys(tmp_path: Path):
    picture = a_picture()
    picture.save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    truth = own_run("qwen2_vl", image_rows({"type": "image", "image": picture}))
    for item in (
        {"type": "image", "image": str(path)},
        {"type": "image", "path": str(path)},
        {"type": "image", "image": path},
        {"image": picture},
        {"type": "image_url", "image_url": {"url": str(path)}},
    ):
        assert_batch_is(default_collate_fn(image_rows(item), processor("qwen2_vl")), truth)


def image_rows(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"conversation": plain(("user", [item, QUESTION]), ("assistant", "A"))}]


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "CMYK", "1"])
def test_images_of_every_mode_become_rgb(mode: str):
    image = a_picture().convert(mode)
    rows = [row["conversation"] for row in image_rows({"type": "image", "image": image})]
    found = _ensure_rgb(rows)[0][0]["content"][0]["image"]
    assert found.mode == "RGB"
    assert found == image.convert("RGB")
    assert rows[0][0]["content"][0]["image"].mode == mode
    batch = default_collate_fn(image_rows({"type": "image", "image": image}), processor("qwen2_vl"))
    assert_batch_is(batch, own_run("qwen2_vl", image_rows({"type": "image", "image": image.convert("RGB")})))


@pytest.mark.parametrize("name", ["qwen3_omni", "gemma4"])
@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_sounds_are_the_processors_own(name: FamilyName, rate: int, tmp_path: Path):
    sound = a_sound(0.7, rate)
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype="FLOAT")
    path = str(tmp_path / "a.wav")
    truth = own_run(name, sound_rows(load_audio(path, sampling_rate=16_000, backend="soundfile")))
    collate = COLLATE_FNS.get(type(processor(name)).__name__, default_collate_fn)
    for value in (path, (sound, rate), {"array": sound, "sampling_rate": rate}):
        batch = collate(sound_rows(value), processor(name))
        assert_batch_is(batch, truth)
        assert [run.strip() for (run,) in learned(batch, processor(name).tokenizer)] == ["A tone." + END_OF_TURN[name]]


def sound_rows(value: Any) -> list[dict[str, Any]]:
    return [{"conversation": plain(("user", [{"type": "audio", "audio": value}, QUESTION]), ("assistant", "A tone."))}]


def test_the_sound_of_a_clip_is_interleaved_where_it_is_asked_for(sounding_clip: str, clip: str):
    made_by: Any = processor("qwen3_omni")
    sound = a_sound(0.3)
    items = [{"type": "video", "video": path} for path in (clip, sounding_clip)]
    rows = [
        {"conversation": plain(("user", [items[0], {"type": "audio", "audio": sound}, items[1]]), ("assistant", "A"))}
    ]
    silent = qwen3_omni_collate_fn(rows, made_by)
    batch = qwen3_omni_collate_fn(rows, made_by, use_audio_in_video=True)
    load: Any = video_utils.load_video
    videos = [load(path, backend="pyav", sample_indices_fn=all_frames)[0] for path in (clip, sounding_clip)]
    samples = (a_sound(2, 22_050) * 32_767).astype(np.int16).astype(np.float32)
    track = resampled(samples / np.float32(32_768), 22_050, 16_000)
    vision, audio = "<|vision_start|><|video_pad|><|vision_end|>", "<|audio_start|><|audio_pad|><|audio_end|>"
    truth = made_by(
        text=[f"<|im_start|>user\n{vision}{audio}{vision}<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"],
        videos=videos,
        audio=[sound, track],
        audio_from_video_indices=[None, 1],
        load_audio_from_video=True,
        return_tensors="pt",
        sampling_rate=16_000,
        do_sample_frames=False,
    )
    assert_batch_is(batch, truth)
    pad = made_by.audio_token_id
    assert (batch["input_ids"] == pad).sum() > (silent["input_ids"] == pad).sum() > 0
    assert learned(batch, made_by.tokenizer) == learned(silent, made_by.tokenizer) == [["A<|im_end|>"]]


def all_frames(metadata: Any, **_: Any) -> Any:
    return np.arange(metadata.total_num_frames)


def test_media_are_extracted_and_counted_as_they_stand():
    image = a_picture()
    rows: list[Any] = [
        plain(
            ("user", [{"type": "image", "image": image}, QUESTION, {"type": "video", "video": "a.mp4"}]),
            ("assistant", "A"),
        ),
        [{"role": "user", "content": "no media"}, {"role": "assistant", "content": None}],
        plain(("user", [{"type": "image", "image": "b.png"}])),
    ]
    assert _extract_media_from_conversations(rows) == ([image, "b.png"], ["a.mp4"])
    assert _extract_media_from_conversations(rows[1:2]) == (None, None)
    assert _count_media_per_sample(rows) == ([1, 0, 1], [1, 0, 0])


def test_what_an_assistant_says_is_all_of_its_texts():
    assert _extract_assistant_text({"content": "A"}) == "A"
    assert _extract_assistant_text({"content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}) == "AB"
    assert _extract_assistant_text({"content": [{"type": "image", "image": 1}]}) == ""
    assert _extract_assistant_text({"content": None}) == ""
