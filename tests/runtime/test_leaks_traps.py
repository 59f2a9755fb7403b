"""The tests of leaks can fail: every trap makes documents of a pack see each other. And what no batch can mend is pinned."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.documents import Document, Recipe, alone_inputs, lay_pack, make_document, rules_of
from tests.leaks import RECURRENT, TOLERANCE, Setup, run
from tests.models import FAMILIES, AnyFamily, tiny_model
from tests.tiny_media import Sound
from tests.traps import TRAPS, Trap, spring
from vlmprep.runtime.collate import Pack, documents, hf, neat
from vlmprep.runtime.forms import ModelForm, form_of
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.pixels import PixelRule

LEAK = 0.1
SPRUNG = [(trap, family) for trap in TRAPS for family in trap.families]


@pytest.mark.parametrize(("trap", "family"), SPRUNG, ids=lambda value: getattr(value, "name", value))
def test_a_trap_makes_documents_see_each_other(trap: Trap, family: AnyFamily, tmp_path: Path) -> None:
    right, wrong = spring(trap, family, trap.backends[0], tmp_path / "set")
    assert right <= TOLERANCE
    assert wrong > LEAK


def test_every_family_has_traps() -> None:
    assert {family for _, family in SPRUNG} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_not_shifted_twice(family: AnyFamily, tmp_path: Path) -> None:
    setup = Setup(family=family, collate="documents", backend="sdpa")
    batch = setup.batch(tmp_path / "set", setup.split)
    with torch.no_grad():
        _, right = run(setup.model, dict(batch))
        wrong = setup.model(**{name: value for name, value in batch.items() if name != "shift_labels"}).loss
    assert right.item() == pytest.approx(setup.alone.loss, abs=1e-5)
    assert abs(wrong.item() - right.item()) > 1e-3


@pytest.mark.parametrize("family", RECURRENT)
def test_layers_with_a_state_refuse_packs_where_no_kernel_keeps_them_apart(family: AnyFamily, tmp_path: Path) -> None:
    setup = Setup(family=family, collate="hf", backend="sdpa")
    batch = setup.batch(tmp_path / "set", [setup.documents])
    with pytest.raises(ValueError, match="can't keep packed sequences apart"):
        setup.model(**batch)
    with pytest.raises(ValueError, match="one pack per rank and step"):
        setup.batch(tmp_path / "two", [setup.documents[:2], setup.documents[2:]])
    with pytest.raises(ValueError, match="carry a state"):
        Setup(family=family, collate="neat", backend="sdpa").batch(tmp_path / "neat", [setup.documents])


def test_sliding_and_bidirectional_layers_are_not_guessed(tmp_path: Path) -> None:
    for collate, family in (("hf", "gemma4"), ("neat", "gemma4"), ("neat", "step3p7")):
        setup = Setup(family=family, collate=collate, backend="sdpa")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="model_config"):
            setup.batch(tmp_path / f"{collate}-{family}", [setup.documents], model_config=None)
    setup = Setup(family="gemma4_bidirectional", collate="hf", backend="sdpa")
    with pytest.raises(ValueError, match="sdpa and eager"):
        setup.batch(tmp_path / "flash", [setup.documents], attn_implementation="flash_attention_2")


def test_documents_as_rows_need_no_config(tmp_path: Path) -> None:
    setup = Setup(family="gemma4_bidirectional", collate="documents", backend="sdpa")
    batch = setup.batch(tmp_path / "set", setup.split, model_config=None)
    assert len(batch["input_ids"]) == len(setup.documents) == 4
    assert "attention_mask" not in batch


def batch_of(model: Any, groups: list[list[Document]], form: ModelForm) -> dict[str, Any]:
    """One document a row, as the model takes it."""
    packs = [as_pack(documents) for documents in groups]
    rules = {name: PixelRule.from_json(rule) for name, rule in rules_of(model).items()}
    return restore_all(documents(packs, form=form), rules)


def as_pack(laid: list[Document]) -> Pack:
    fields = lay_pack(laid).fields
    return {
        name: torch.from_numpy(value.astype(np.int32) if value.dtype == np.uint16 else value)
        for name, value in fields.items()
    }


def difference_beside(model: Any, document: Document, other: Document, form: ModelForm) -> float:
    """How much a document's logits change when another stands in the same batch, each in its own row."""
    with torch.no_grad():
        alone = model(**alone_inputs(model, document), use_cache=False).logits[0]
        beside = model(**batch_of(model, [[document], [other]], form)).logits[0, : len(document)]
    return float((beside - alone).abs().max())


@pytest.mark.parametrize(
    ("family", "sound", "longer"),
    [("gemma4", 70, 150), ("qwen3_omni_moe", 110, 250), ("phi4_multimodal", 70, 70), ("nemotron_h_omni", 70, 150)],
)
def test_sounds_are_themselves_beside_others(family: AnyFamily, sound: int, longer: int) -> None:
    model = tiny_model(family).eval()
    first, second = (make_document(model, [3, Sound(frames=frames), 4], seed=frames) for frames in (sound, longer))
    assert difference_beside(model, first, second, ModelForm()) <= TOLERANCE


def test_batch_normalization_mixes_sounds_of_nemotron_in_training_mode() -> None:
    """transformers 5.23: the Parakeet encoder normalizes over the batch unless it is in eval mode."""
    model = tiny_model("nemotron_h_omni")
    first, second = (make_document(model, [3, Sound(frames=frames), 4], seed=frames) for frames in (70, 150))
    assert difference_beside(model, first, second, ModelForm(token_types=False)) > LEAK
    model.audio_tower.eval()
    assert difference_beside(model, first, second, ModelForm(token_types=False)) <= TOLERANCE


def test_the_forward_of_nemotron_takes_no_clip() -> None:
    """transformers 5.23: features of clips are a tensor, and are joined as a list; so its clips are not held against it."""
    model = tiny_model("nemotron_h_omni")
    frames = torch.zeros(2, 3, 56, 56)
    ids = torch.full((1, 4), model.config.image_token_id)
    with pytest.raises(TypeError, match="must be tuple of Tensors"):
        model(input_ids=ids, pixel_values_videos=frames, use_cache=False)


def test_the_forward_of_kimi_takes_no_clip_of_several_steps() -> None:
    """transformers 5.23: clips are pooled over time, and then split by sizes that are not."""
    model = tiny_model("kimi_k25")
    grid = torch.tensor([[2, 2, 4]])
    with pytest.raises(RuntimeError, match="split_sizes"):
        model.get_video_features(torch.zeros(16, 3, 14, 14), grid)


def test_short_sounds_of_qwen_omni_see_the_chunk_of_a_longer_one() -> None:
    """transformers 5.23: chunks are padded to the longest of the batch before convolutions that do not mask them."""
    model = tiny_model("qwen3_omni_moe")
    short, long = (make_document(model, [3, Sound(frames=frames), 4], seed=frames) for frames in (70, 150))
    assert difference_beside(model, short, long, ModelForm(token_types=False)) > 1e-3


def test_sounds_of_phi_see_the_padding_behind_them_and_the_loader_says_so() -> None:
    """transformers 5.23: a bool mask is added to the scores, which hides nothing."""
    model = tiny_model("phi4_multimodal")
    form = form_of("phi4_multimodal", model.config)
    short, long = (make_document(model, [3, Sound(frames=frames), 4], seed=frames) for frames in (70, 150))
    with pytest.warns(UserWarning, match="sounds of 9 to 19 tokens"):
        assert difference_beside(model, short, long, form) > LEAK
    same = make_document(model, [5, Sound(frames=70), 2], seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert difference_beside(model, short, same, form) <= TOLERANCE


def test_images_of_phi_that_fill_their_crops_are_read_causally_under_sdpa_unless_another_does_not() -> None:
    """transformers 5.23: the image encoder says `is_causal`, and sdpa believes it where no patch is masked."""
    for backend, leaks in (("sdpa", True), ("eager", False)):
        model = tiny_model("phi4_multimodal", attn_implementation=backend)
        full, padded = (make_document(model, [3, size, 4], seed=0) for size in ((4, 4), (2, 4)))
        difference = difference_beside(model, full, padded, ModelForm(token_types=False))
        assert (difference > LEAK) == leaks, backend
        assert leaks or difference <= TOLERANCE


def test_an_image_anywhere_in_a_batch_changes_the_sounds_of_phi_so_such_batches_are_refused() -> None:
    """transformers 5.23: sounds go through another projection as soon as the batch has an image."""
    model = tiny_model("phi4_multimodal")
    heard = make_document(model, [3, Sound(frames=70), 4], seed=0)
    seen = make_document(model, [3, (4, 4), 5], seed=0)
    both = make_document(model, [3, Sound(frames=70), 2, (4, 4), 5], seed=1)
    assert difference_beside(model, heard, seen, ModelForm(token_types=False)) > LEAK
    form = form_of("phi4_multimodal", model.config)
    for collate in (hf, neat, documents):
        with pytest.raises(ValueError, match="--fake-image none"):
            collate([as_pack([heard, seen])], form=form)
        collate([as_pack([both, seen])], form=form)
        collate([as_pack([heard, heard])], form=form)
    assert difference_beside(model, both, seen, form) <= TOLERANCE


def test_a_long_document_rotates_short_ones_by_long_factors_and_the_loader_says_so() -> None:
    """transformers 5.23: longrope takes the factors of the longest document for the whole batch."""
    model = tiny_longrope_model()
    form = form_of("phi4_multimodal", model.config)
    assert form.short_positions == 16
    short, long = (make_document(model, recipe, seed=0) for recipe in ([12], [30]))
    with pytest.warns(UserWarning, match="longer than the 16"):
        assert difference_beside(model, short, long, form) > LEAK
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert difference_beside(model, short, short, form) <= TOLERANCE


def tiny_longrope_model() -> Any:
    """Phi-4-multimodal with rotary factors for up to 16 positions, and others beyond."""
    config = tiny_model("phi4_multimodal").config
    config.original_max_position_embeddings = 16
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 1.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 16,
    }
    torch.manual_seed(0)
    model = type(tiny_model("phi4_multimodal"))._from_config(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return model.train()


def test_positions_between_whole_numbers_stay_what_they_are() -> None:
    recipe: Recipe = [9]
    document = make_document(tiny_model("qwen3_omni_moe"), recipe, seed=0)
    fields = {**as_pack([document])}
    fields["position_ids"] = fields["position_ids"].float() + 0.25
    for collate in (hf, neat, documents):
        positions = collate([fields])["position_ids"]
        assert positions.dtype == torch.float32
        assert positions[-1, 0, :3].tolist() == [0.25, 1.25, 2.25]
