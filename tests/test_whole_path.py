"""From raw conversations to a model's loss: nothing lost on the way, for every family and both attention backends.

The truth is the model's own processor called on each conversation alone, labels found by scanning for turn markers, and
the loss of the real model class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

import vlmprep
from tests.conftest import ProcessorDir
from tests.models import Family, tiny_model
from tests.runs import run
from vlmprep.demo.corpus import make_corpus
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.runtime import pixels
from vlmprep.schema.packset import IGNORE_INDEX

TOLERANCE = 1e-5
PATCH_SIZE = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}
MAX_PIXELS = {"qwen2_vl": 12_544, "qwen2_5_vl": 12_544, "qwen3_vl": 66_560}
"""At most 16 visual tokens an image, and 65 for Qwen3-VL, whose least is 64."""


@dataclass(frozen=True)
class Made:
    """A pack set and what made it."""

    family: Family
    processor: Any
    packs: Any
    rows: list[dict[str, Any]]
    media_dir: Path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole-path")
    make_corpus(root, num_samples=40, damaged=False)
    return root


@pytest.fixture(scope="module", params=get_args(Family))
def made(
    request: pytest.FixtureRequest, corpus: Path, processor_dir: ProcessorDir, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    from transformers import AutoProcessor

    folder = processor_dir(request.param, max_pixels=MAX_PIXELS[request.param])
    root = tmp_path_factory.mktemp("set")
    run(corpus / "sharegpt.jsonl", folder, root, planning=PlanSettings(pack_size=640))
    rows = [json.loads(line) for line in (corpus / "sharegpt.jsonl").read_text().splitlines()]
    auto: Any = AutoProcessor
    return Made(request.param, auto.from_pretrained(folder), vlmprep.open(root), rows, corpus)


def processed(made: Made, row: dict[str, Any]) -> Any:
    """The processor's own run on one conversation, images by path."""
    images = iter(row["images"])
    conversation = []
    for message in row["messages"]:
        pieces = message["content"].split("<image>")
        content: list[dict[str, str]] = [{"type": "text", "text": pieces[0]}] if pieces[0] else []
        for text in pieces[1:]:
            content.append({"type": "image", "path": str(made.media_dir / next(images))})
            content += [{"type": "text", "text": text}] if text else []
        conversation.append({"role": message["role"], "content": content})
    return made.processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")


def scanned_labels(made: Made, ids: Tensor) -> Tensor:
    """Labels by scanning for `<|im_start|>assistant\\n ... <|im_end|>`: right on ordinary samples."""
    start = made.processor.tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    end = made.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    labels = torch.full_like(ids, IGNORE_INDEX)
    at = 0
    while at < len(ids):
        if ids[at : at + len(start)].tolist() == start:
            at += len(start)
            while at < len(ids):
                labels[at] = ids[at]
                at += 1
                if ids[at - 1] == end:
                    break
        else:
            at += 1
    return labels


def documents(made: Made) -> Iterator[tuple[int, slice, slice, slice, dict[str, Any]]]:
    """(pack, its tokens, its images, its patches, source row) of every document."""
    for pack_id in range(len(made.packs)):
        info, pack = made.packs.info(pack_id), made.packs[pack_id]
        token = image = patch = 0
        for ref, length in zip(info.samples, info.document_lengths, strict=True):
            row = made.rows[ref.row]
            images = slice(image, image + len(row["images"]))
            num_patches = int(pack["image_grid_thw"][images].prod(1).sum()) if row["images"] else 0
            yield pack_id, slice(token, token + length), images, slice(patch, patch + num_patches), row
            token, image, patch = token + length, images.stop, patch + num_patches


def test_documents_are_bit_for_bit_what_the_processor_makes(made: Made) -> None:
    rule = made.packs.manifest.pixels["pixel_values"]
    seen = with_images = 0
    for pack_id, tokens, images, patches, row in documents(made):
        pack, truth = made.packs[pack_id], processed(made, row)
        ids = truth["input_ids"][0]
        assert torch.equal(pack["input_ids"][tokens].long(), ids[:-1])
        assert torch.equal(pack["labels"][tokens].long(), scanned_labels(made, ids)[1:])
        assert torch.equal(pack["mm_token_type_ids"][tokens].long(), truth["mm_token_type_ids"][0][:-1].long())
        if row["images"]:
            assert torch.equal(pack["image_grid_thw"][images], truth["image_grid_thw"])
            assert torch.equal(pixels.restore(pack["pixel_values"][patches], rule), truth["pixel_values"])
            with_images += 1
        seen += 1
    assert seen == len(made.rows) == 30
    assert 15 < with_images < 30


def test_positions_are_the_models_own(made: Made) -> None:
    model = model_of(made, "sdpa").model
    seen = 0
    for pack_id, tokens, _, _, row in documents(made):
        truth = processed(made, row)
        inputs = {name: truth[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw") if name in truth}
        positions, _ = model.get_rope_index(**inputs)
        assert torch.equal(made.packs[pack_id]["position_ids"][:, tokens].long(), positions[:, 0, :-1])
        seen += 1
    assert seen == 30


def model_of(made: Made, backend: str) -> Any:
    """A tiny random model over the processor's own tokens."""
    token = made.processor.tokenizer.convert_tokens_to_ids
    return tiny_model(
        made.family,
        vocab_size=len(made.processor.tokenizer),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        patch_size=PATCH_SIZE[made.family],
        attn_implementation=backend,
    )


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@torch.no_grad()
def test_the_packed_loss_is_the_token_weighted_mean_of_the_samples_alone(made: Made, backend: str) -> None:
    model = model_of(made, backend).eval()
    alone: dict[int, list[tuple[float, int]]] = {}
    logits_alone: dict[int, list[tuple[slice, Tensor]]] = {}
    for pack_id, tokens, _, _, row in documents(made):
        truth = processed(made, row)
        labels = scanned_labels(made, truth["input_ids"][0])[None]
        output = model(**truth, labels=labels, use_cache=False)
        count = int((labels[:, 1:] != IGNORE_INDEX).sum())
        alone.setdefault(pack_id, []).append((float(output.loss), count))
        logits_alone.setdefault(pack_id, []).append((tokens, output.logits[0, :-1]))
    loader = vlmprep.Loader(made.packs, shuffle=False, collate="hf", attn_implementation=backend)
    packs = 0
    for pack_id, batch in enumerate(loader):
        output = model(**batch)
        for tokens, logits in logits_alone[pack_id]:
            torch.testing.assert_close(output.logits[0, tokens], logits, atol=TOLERANCE, rtol=1e-4)
        expected = sum(loss * count for loss, count in alone[pack_id])
        num_labels = sum(count for _, count in alone[pack_id])
        assert float(output.loss) == pytest.approx(expected / num_labels, abs=TOLERANCE)
        assert batch.num_label_tokens_in_step == num_labels
        packs += 1
    assert packs == len(made.packs) >= 3
