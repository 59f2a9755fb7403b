"""From files to logits: what the pipeline packs and the loader collates gives, in every family's model, what the model gives
for each row alone with the inputs of its own processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.every_family.corpus as corpus
import vlmprep
from tests.conftest import FamilyProcessorDir
from tests.every_family.alone import run_alone
from tests.every_family.packed import rows_of
from tests.families.processors import FamilyName
from tests.leaks import RECURRENT, TOLERANCE
from tests.models import AnyFamily, tiny_model
from tests.runs import count, run
from vlmprep.families.loading import load_family
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.packset import IGNORE_INDEX


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A family's processor, and a tiny model that fits it."""

    processor: FamilyName
    model: AnyFamily
    kinds: frozenset[str]
    patch_size: int = 14
    small_tiles: bool = False
    sounds: tuple[tuple[float, int], ...] = ((1.5, 16_000), (2.2, 22_050))
    """(seconds, samples per second)."""
    backend: str = "sdpa"
    fit: Callable[[Any], None] = lambda config: None
    """Changes the tiny config where the processor's sizes ask for it."""


def fit_gemma(config: Any) -> None:
    config.vision_config.pooling_kernel_size = 3
    config.vision_config.position_embedding_size = 2048


def fit_phi(config: Any) -> None:
    config.vision_config.image_size = config.vision_config.crop_size = 448
    config.audio_config.input_size, config.audio_config.nemo_final_size = 80, 10


def fit_nemotron(config: Any) -> None:
    config.vision_config.max_img_size = config.vision_config.image_size = 2048
    config.audio_config.num_mel_bins = 80


def fit_omni(config: Any) -> None:
    config.audio_config.num_mel_bins = 128
    config.position_id_per_seconds = 13


def fit_llava(config: Any) -> None:
    config.vision_config.image_size = 56
    config.image_grid_pinpoints = [[height, width] for height in (56, 112, 168, 224) for width in (56, 112, 168, 224)]
    config.vision_aspect_ratio = "anyres_max_4"


def fit_internvl(config: Any) -> None:
    config.vision_config.image_size = [56, 56]


def fit_idefics(config: Any) -> None:
    config.vision_config.image_size = 56


def fit_step(config: Any) -> None:
    config.vision_config.image_size = 112
    config.vision_config.max_position_embeddings = 64


IMAGE, CLIP, SOUND = frozenset({"image"}), frozenset({"image", "video"}), frozenset({"image", "audio"})
CASES = [
    Case(processor="qwen2_vl", model="qwen2_vl", kinds=CLIP),
    Case(processor="qwen2_5_vl", model="qwen2_5_vl", kinds=CLIP),
    Case(processor="qwen3_vl", model="qwen3_vl", kinds=CLIP, patch_size=16),
    Case(processor="qwen3_omni", model="qwen3_omni_moe", kinds=CLIP | SOUND, patch_size=16, fit=fit_omni),
    Case(processor="kimi_k25", model="kimi_k25", kinds=IMAGE),
    Case(processor="gemma4", model="gemma4", kinds=IMAGE | SOUND, patch_size=16, fit=fit_gemma),
    Case(processor="gemma4", model="gemma4_bidirectional", kinds=CLIP, patch_size=16, fit=fit_gemma),
    Case(
        processor="phi4_multimodal",
        model="phi4_multimodal",
        kinds=IMAGE,
        backend="eager",  # sdpa reads images causally where none is padded
        fit=fit_phi,
    ),
    Case(
        processor="phi4_multimodal",
        model="phi4_multimodal",
        kinds=frozenset({"audio"}),
        sounds=((1.0, 16_000),),
        fit=fit_phi,
    ),
    Case(processor="nemotron_omni", model="nemotron_h_omni", kinds=SOUND, patch_size=16, fit=fit_nemotron),
    Case(processor="llava_onevision", model="llava_onevision", kinds=CLIP, small_tiles=True, fit=fit_llava),
    Case(processor="internvl", model="internvl", kinds=CLIP, small_tiles=True, fit=fit_internvl),
    Case(processor="idefics3", model="idefics3", kinds=IMAGE, small_tiles=True, fit=fit_idefics),
    Case(processor="smolvlm", model="smolvlm", kinds=CLIP, small_tiles=True, fit=fit_idefics),
    Case(processor="step3p7", model="step3p7", kinds=IMAGE, small_tiles=True, fit=fit_step),
]


def fitting_model(case: Case, processor: Any) -> Any:
    """A tiny model for the processor's tokens and sizes."""
    tokenizer = processor.tokenizer
    tokens = {
        "image_token_id": processor.image_token_id,
        "video_token_id": getattr(processor, "video_token_id", None),
        "audio_token_id": getattr(processor, "audio_token_id", None),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "audio_start_token_id": tokenizer.convert_tokens_to_ids("<|audio_start|>"),
    }
    known = {name: token for name, token in tokens.items() if token is not None}
    settings: dict[str, Any] = {"attn_implementation": case.backend, "fit": case.fit, "patch_size": case.patch_size}
    model = tiny_model(case.model, vocab_size=len(tokenizer), **settings, **known)
    if case.model == "nemotron_h_omni":
        model.audio_tower.eval()  # its batch normalization would mix the sounds of a batch
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{'-'.join(sorted(case.kinds))}")
def test_packs_of_the_pipeline_give_what_the_processor_and_the_model_give_for_each_row(
    case: Case, family_processor_dir: FamilyProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "SOUNDS", case.sounds)
    folder = family_processor_dir(case.processor, small_tiles=case.small_tiles)
    source = corpus.write_corpus(tmp_path / "corpus", case.kinds, num_rows=7)
    lengths = count(source, folder, tmp_path / "ledger").read(["num_tokens"])["num_tokens"].to_pylist()
    assert None not in lengths
    planning = PlanSettings(
        pack_size=max(*lengths, sum(lengths) // 2), fake_image="pack" if "image" in case.kinds else "none"
    )
    run(source, folder, tmp_path / "set", planning=planning, max_refused=0.0)
    packs = vlmprep.open(tmp_path / "set")
    family: Any = load_family(FamilySettings(processor=str(folder)))
    processor = family.processor
    assert len(packs) > 1, "several packs are joined"
    model = fitting_model(case, processor)
    rows = rows_of(source)

    collate = "documents" if case.model in RECURRENT else "hf"
    num_rows = 0
    for logits, pack_row in batches(packs, model, collate):
        truth = run_alone(processor, rows[pack_row], tmp_path / "corpus")
        with torch.no_grad():
            alone = model(**truth, use_cache=False).logits[0, :-1]
        assert logits.shape == alone.shape
        assert (logits - alone).abs().max() <= TOLERANCE
        num_rows += 1
    assert num_rows == len(rows) == 7


def batches(packs: Any, model: Any, collate: Any, **how: Any) -> Any:
    """Logits of every real document with its row, all packs as one batch."""
    settings = {"packs_per_rank": len(packs), "shuffle": False, "model_config": model.config, **how}
    loader = vlmprep.Loader(packs, collate=collate, **settings)
    [batch] = loader
    labels = batch["labels" if collate == "neat" else "shift_labels"]
    assert (labels != IGNORE_INDEX).sum() == batch.num_label_tokens_in_step > 20
    with torch.no_grad():
        logits = model(**batch).logits
    row = 0
    for number, pack_id in enumerate(batch.pack_ids):
        info, start = packs.info(pack_id), 0
        for document, length in enumerate(info.document_lengths):
            at = row if collate == "documents" else number
            yield logits[at, start : start + length], info.samples[document].row
            start += 0 if collate == "documents" else length
            row += 1
        row += info.fake is not None
