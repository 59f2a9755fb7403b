from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.automodel.examples import a_clip, a_picture, a_sound, examples, plain, processor
from tests.families.processors import FAMILY_NAMES, FamilyName
from vlmprep.automodel.collate_fns import build_labels, pad_collate_fn
from vlmprep.automodel.fake_image import inject_fake_image_into_conversation, mask_fake_vision_tokens_single
from vlmprep.automodel.samples import sample_of_example
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper, RobustDatasetWrapper
from vlmprep.schema.errors import RefuseSample

TEXT_ONLY = 1
"""Which of the examples has no picture."""


def as_the_processor_gives(conversation: Any, made_by: Any) -> dict[str, torch.Tensor]:
    made = made_by.apply_chat_template([conversation], tokenize=True, return_dict=True, return_tensors="pt")
    labels = build_labels(made["input_ids"], [conversation], made_by)[0]
    own = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {name: value[0] if name in own else value for name, value in made.items()} | {"labels": labels}


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_samples_are_what_the_processor_gives(name: FamilyName):
    made_by = processor(name)
    tokenized = PreTokenizedDatasetWrapper(examples(), made_by, fake_image="none")
    assert len(tokenized) == 3
    for number, example in enumerate(examples()):
        # Idefics3's and SmolVLM's processors give samples without images an empty one, which their models drop.
        truth = as_the_processor_gives(example["conversation"], made_by)
        if number == TEXT_ONLY:
            truth = {
                field: value for field, value in truth.items() if field in ("input_ids", "labels", "attention_mask")
            }
        found = tokenized[number]
        assert {"input_ids", "labels", "attention_mask", "mm_token_type_ids"} <= set(found)
        for field, value in truth.items():
            assert torch.equal(found[field], value), field
            assert found[field].dtype == value.dtype, field


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "internvl"])
def test_samples_without_pictures_get_a_fake_image_that_nobody_sees(name: FamilyName):
    made_by = processor(name)
    found = PreTokenizedDatasetWrapper(examples(), made_by)[TEXT_ONLY]
    truth = as_the_processor_gives(inject_fake_image_into_conversation(examples()[TEXT_ONLY]["conversation"]), made_by)
    mask_fake_vision_tokens_single(truth, made_by)
    assert torch.equal(found["input_ids"], truth["input_ids"])
    assert torch.equal(found["labels"], truth["labels"])
    assert torch.equal(found["attention_mask"], truth["attention_mask"])
    assert torch.equal(found["pixel_values"], truth["pixel_values"])
    assert 0 < int((found["attention_mask"] == 0).sum()) < len(found["attention_mask"])
    with_pictures = PreTokenizedDatasetWrapper(examples(), made_by)[0]
    assert bool(with_pictures["attention_mask"].all())


def test_media_come_in_every_form(tmp_path: Path):
    made_by = processor("qwen2_5_vl")
    picture = a_picture()
    path = tmp_path / "a.png"
    picture.save(path)
    text = {"type": "text", "text": "Q"}
    forms: list[Any] = [
        picture,
        str(path),
        path,
        path.read_bytes(),
        {"bytes": path.read_bytes(), "path": "a.png"},
        f"file://{path}",
    ]
    rows = [
        {"conversation": plain(("user", [{"type": "image", "image": form}, text]), ("assistant", "A"))}
        for form in forms
    ]
    tokenized = PreTokenizedDatasetWrapper(rows, made_by)
    truth = as_the_processor_gives(rows[0]["conversation"], made_by)
    for number in range(len(forms)):
        assert torch.equal(tokenized[number]["pixel_values"], truth["pixel_values"])


def test_clips_and_sounds_come_in_every_form(tmp_path: Path):
    made_by = processor("qwen3_omni")
    clip, sound = a_clip(tmp_path / "a.mp4"), a_sound()
    frames = [a_picture(56, 56, seed) for seed in range(4)]
    text = {"type": "text", "text": "Q"}
    given: list[tuple[str, Any]] = [
        ("video", clip),
        ("video", frames),
        ("audio", (sound, 16_000)),
        ("audio", {"array": sound, "sampling_rate": 16_000}),
    ]
    rows = [
        {"conversation": plain(("user", [{"type": kind, kind: value}, text]), ("assistant", "A"))}
        for kind, value in given
    ]
    made = PreTokenizedDatasetWrapper(rows, made_by, fake_image="none")
    by_path, by_frames, pair, mapping = (made[number] for number in range(4))
    assert len(by_path["video_grid_thw"]) == len(by_frames["video_grid_thw"]) == 1
    assert int(by_frames["video_grid_thw"][0, 0]) == 2
    features = made_by.feature_extractor(sound, sampling_rate=16_000, return_tensors="pt", padding=True)[
        "input_features"
    ]
    assert torch.equal(pair["input_features"], mapping["input_features"])
    assert np.array_equal(
        pair["input_features"][..., : features.shape[-1]], features[..., : pair["input_features"].shape[-1]]
    )


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        ({}, "no 'conversation'"),
        (3, "no 'conversation'"),
        ({"conversation": plain(("user", [{"type": "image"}]), ("assistant", "A"))}, "holds none"),
        ({"conversation": plain(("user", [{"type": "image", "image": "https://a.org/a.png"}]))}, "is remote"),
        ({"conversation": plain(("user", [{"type": "image", "image": "a.png", "max_pixels": 9}]))}, "max_pixels"),
        ({"conversation": plain(("user", [{"type": "video", "video": ["a.png"], "fps": 2}]))}, "fps"),
        ({"conversation": plain(("user", [{"type": "audio", "audio": np.zeros(9)}]))}, "samples, rate"),
        ({"conversation": plain(("user", "Q")), "audio": (np.zeros(9), 16_000)}, "names the sounds"),
    ],
)
def test_what_cannot_be_read_is_refused(example: Any, reason: str):
    with pytest.raises(RefuseSample, match=reason):
        sample_of_example(example, 0)


def test_orientation_tags_of_decoded_images_are_not_applied_twice():
    picture = a_picture(60, 90)
    tagged = picture.copy()
    tagged.getexif()[0x0112] = 6
    rows = [
        {"conversation": plain(("user", [{"type": "image", "image": image}]), ("assistant", "A"))}
        for image in (picture, tagged)
    ]
    made = PreTokenizedDatasetWrapper(rows, processor("qwen2_5_vl"))
    assert torch.equal(made[0]["pixel_values"], made[1]["pixel_values"])


def test_samples_are_padded_together():
    made_by = processor("qwen2_5_vl")
    tokenized = PreTokenizedDatasetWrapper(examples(), made_by)
    batch = pad_collate_fn([tokenized[number] for number in range(3)], made_by)
    assert batch["n_images_per_sample"].tolist() == [1, 1, 2]
    assert batch["labels"].shape == batch["input_ids"].shape


class Breaks:
    """A data set of which some samples fail."""

    def __init__(self, rows: list[Any], *bad: int) -> None:
        self.rows, self.bad = rows, bad

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        if number in self.bad:
            raise OSError(f"row {number} is gone")
        return self.rows[number]


def test_by_default_errors_are_raised_with_their_cause():
    tokenized = PreTokenizedDatasetWrapper(Breaks(examples(), 1), processor("qwen2_5_vl"))
    with pytest.raises(RefuseSample, match="sample 1: OSError: row 1 is gone"):
        tokenized[1]
    assert len(tokenized[0]["input_ids"])


def test_long_samples_are_raised_or_replaced_as_the_reference_does(caplog):
    made_by = processor("qwen2_5_vl")
    whole = PreTokenizedDatasetWrapper(examples(), made_by, fake_image="none")
    lengths = [len(whole[number]["input_ids"]) for number in range(3)]
    limit = max(lengths) - 1
    longest = lengths.index(max(lengths))
    with pytest.raises(RefuseSample, match=f"sample {longest}: {max(lengths)} tokens, max_length is {limit}"):
        PreTokenizedDatasetWrapper(examples(), made_by, limit, fake_image="none")[longest]
    replaced = PreTokenizedDatasetWrapper(examples(), made_by, limit, 100, failures="substitute", fake_image="none")
    with caplog.at_level(logging.WARNING):
        assert len(replaced[longest]["input_ids"]) <= limit
        assert len(replaced[longest]["input_ids"]) <= limit
    assert caplog.text.count("takes its place") == 1, "told once"
    assert replaced.failures.samples == [longest]


def test_substitution_gives_up_with_the_last_error():
    tokenized = PreTokenizedDatasetWrapper(
        Breaks(examples(), 0, 1, 2), processor("qwen2_5_vl"), max_retries=3, failures="substitute"
    )
    with pytest.raises(RuntimeError, match=r"failed 3 times; last error: OSError: row \d is gone"):
        tokenized[0]


def test_loops_end_at_the_last_sample():
    robust: Any = RobustDatasetWrapper(list("ab"))
    assert list(robust) == ["a", "b"]
    tokenized: Any = PreTokenizedDatasetWrapper(examples()[:2], processor("qwen2_5_vl"), failures="substitute")
    assert len(list(tokenized)) == 2
    assert len(tokenized.failures) == 0
    nothing: Any = PreTokenizedDatasetWrapper([], processor("qwen2_5_vl"))
    assert list(nothing) == []


def test_unknown_settings_are_refused():
    for wrong in ({"failures": "ignore"}, {"fake_image": "all"}, {"max_retries": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PreTokenizedDatasetWrapper([], None, **wrong)


def test_robust_data_sets_replace_what_fails_and_tell(caplog):
    robust = RobustDatasetWrapper(Breaks(list("abcd"), 1, 2), max_retries=50)
    with caplog.at_level(logging.WARNING):
        assert robust[0] == "a"
        assert {robust[1] for _ in range(20)} == {"a", "d"}
    assert robust.failures.samples == [1, 2]
    assert robust.failures.codes == {"OSError": 2}
    assert sum("sample 1 fails (OSError: row 1 is gone)" in record.message for record in caplog.records) == 1
    with pytest.raises(RuntimeError, match=r"3 samples failed; last error: row 0 is gone"):
        RobustDatasetWrapper(Breaks(["a"], 0), max_retries=3)[0]


def test_robust_data_sets_load_images_ahead(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.new("L", (30, 20), 7).save(path)
    rows = [
        {"conversation": plain(("user", [{"type": "image", "image": str(path)}, {"type": "text", "text": "Q"}]))},
        {"conversation": plain(("user", "Q"))},
    ]
    robust = RobustDatasetWrapper(rows)
    robust.preload_media = True
    loaded = robust[0]["conversation"][0]["content"][0]["image"]
    assert (loaded.mode, loaded.size) == ("RGB", (30, 20))
    assert robust[1]["_injected_fake"]
    assert robust[1]["conversation"][0]["content"][0]["image"].size == (56, 56)
    assert rows[1] == {"conversation": plain(("user", "Q"))}, "the data set's own stays as it is"


def test_batches_are_drawn_anew_from_the_wrapper_itself():
    robust = RobustDatasetWrapper(list("abcd"))

    def collate(rows: list[str]) -> list[str]:
        if "a" in rows:
            raise ValueError("a")
        return rows

    retried = robust.robust_collate(collate)
    assert set(retried(["a", "a"])) <= set("bcd")
    tokenized = PreTokenizedDatasetWrapper(examples(), processor("qwen2_5_vl"))
    assert tokenized.robust_collate(len)([1, 2]) == 2
