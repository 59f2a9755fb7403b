from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.automodel.examples import a_picture, a_sound, assert_batch_is, learned, plain, processor
from tests.automodel.remote_processors import phi4_remote
from vlmprep.automodel.collate_fns import phi4_mm_collate_fn
from vlmprep.schema.errors import RefuseSample


def beside(seconds: float, answer: str) -> dict[str, Any]:
    """An example as the Common Voice data set makes them."""
    turns = [{"role": "user", "content": "<|audio_1|>Transcribe."}, {"role": "assistant", "content": answer}]
    return {"conversation": turns, "audio": {"array": a_sound(seconds), "sampling_rate": 16_000}}


def own_run(*rows: tuple[str, Any]) -> Any:
    made_by: Any = processor("phi4_multimodal")
    texts = [f"<|user|><|endoftext11|>Transcribe.<|end|>\n<|assistant|>{answer}<|end|>\n" for answer, _ in rows]
    sounds = [sound for _, sound in rows]
    return made_by(
        text=texts, audio=sounds, sampling_rate=16_000, padding=True, return_tensors="pt", padding_side="right"
    )


def test_sounds_beside_a_conversation_stand_where_their_tags_do():
    made_by = processor("phi4_multimodal")
    batch = phi4_mm_collate_fn([beside(0.5, "Hello"), beside(1.2, "Bye")], made_by)
    truth = own_run(("Hello", a_sound(0.5)), ("Bye", a_sound(1.2)))
    assert "audio_input_features" in truth
    assert_batch_is(batch, truth)
    assert learned(batch, made_by.tokenizer) == [["Hello<|end|>"], ["Bye<|end|>"]]


@pytest.mark.parametrize("form", ["pair", "array", "path", "inside", "other rate"])
def test_sounds_come_in_every_form(form: str, tmp_path):
    row, sound = beside(0.5, "Hello"), a_sound(0.5)
    if form == "path":
        soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    at_8000 = a_sound(0.5, 8_000)
    row["audio"] = {
        "pair": (sound, 16_000),
        "array": sound,
        "path": str(tmp_path / "a.wav"),
        "inside": None,
        "other rate": (at_8000, 8_000),
    }[form]
    if form == "inside":
        row["conversation"][0]["content"] = [{"type": "audio", "audio": sound}, {"type": "text", "text": "Transcribe."}]
    batch = phi4_mm_collate_fn([row], processor("phi4_multimodal"))
    truth = own_run(("Hello", sound))
    if form != "other rate":
        assert_batch_is(batch, truth)
    else:
        assert torch.equal(batch["input_ids"], truth["input_ids"][:, :-1])
        assert not torch.equal(batch["audio_input_features"], truth["audio_input_features"])
        from transformers.audio_utils import load_audio

        soundfile.write(tmp_path / "b.wav", at_8000, 8_000, subtype="FLOAT")
        resampled = load_audio(str(tmp_path / "b.wav"), sampling_rate=16_000, backend="soundfile")
        assert_batch_is(batch, own_run(("Hello", resampled)))


def test_images_are_kept():
    image = {"type": "image", "image": a_picture()}
    rows = [{"conversation": plain(("user", [image, {"type": "text", "text": "Q"}]), ("assistant", "A"))}]
    batch = phi4_mm_collate_fn(rows, processor("phi4_multimodal"))
    assert {"image_pixel_values", "image_sizes", "image_attention_mask"} <= set(batch)


@pytest.mark.parametrize(
    "text", ["Transcribe.", "<|audio_2|>Transcribe.", "<|audio_1|><|audio_1|>", "<|audio_1|><|audio_2|>"]
)
def test_tags_that_name_other_sounds_are_refused(text: str):
    row = beside(0.5, "Hello")
    row["conversation"][0]["content"] = text
    with pytest.raises(RefuseSample, match="the text names the sounds"):
        phi4_mm_collate_fn([row], processor("phi4_multimodal"))


def test_the_remote_code_gets_samples_with_their_rate():
    made_by = phi4_remote()
    batch = phi4_mm_collate_fn([beside(0.5, "Hello"), beside(1.0, "Bye")], made_by)
    assert learned(batch, made_by.tokenizer) == [["Hello<|end|>"], ["Bye<|end|>"]]
    assert batch["audio_embed_sizes"].tolist() == [5, 10]
    assert batch["input_mode"] == 2
    assert not {"input_image_embeds", "image_sizes"} & set(batch)
    text_only = [{"conversation": plain(("user", "Q"), ("assistant", "A"))}]
    assert phi4_mm_collate_fn(text_only, made_by)["input_mode"] == 0


@pytest.mark.parametrize("sound", [np.zeros((2, 100), np.float32), np.zeros(100, np.int16), 7])
def test_what_is_no_sound_is_refused(sound: Any):
    with pytest.raises(RefuseSample, match="a sound is"):
        phi4_mm_collate_fn([{**beside(0.5, "A"), "audio": sound}], processor("phi4_multimodal"))
