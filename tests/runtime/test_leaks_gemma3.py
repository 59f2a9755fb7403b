"""Gemma 3, packed the general way: its images see themselves whole in every layer, so its documents are rows of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.leaks import TOLERANCE
from tests.tiny_configs import siglip, text
from vlmprep.runtime.collate import Pack, documents, hf
from vlmprep.runtime.forms import ModelForm, form_of

IMAGE = 120


def tiny_gemma3() -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.set_num_threads(1)
    torch.manual_seed(0)
    language = text(128, head_dim=16, layer_types=["sliding_attention", "full_attention"], sliding_window=8)
    del language["rope_parameters"]
    config = Gemma3Config(
        text_config=language, vision_config=siglip(14), mm_tokens_per_image=4, image_token_index=IMAGE
    )
    model: Any = Gemma3ForConditionalGeneration
    made = model._from_config(config, attn_implementation="sdpa")
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return made.train()


def made_documents() -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(0)
    made = []
    for before in (3, 9):
        ids = np.concatenate([rng.integers(1, 100, before), [IMAGE] * 4, rng.integers(1, 100, 6)])
        types = (ids == IMAGE).astype(np.int64)
        made.append({"ids": ids, "types": types, "pixels": rng.standard_normal((1, 3, 28, 28), dtype=np.float32)})
    return made


def as_pack(made: list[dict[str, NDArray[Any]]]) -> Pack:
    lengths = [len(document["ids"]) for document in made]
    joined = {name: torch.from_numpy(np.concatenate([document[name] for document in made])) for name in made[0]}
    return {
        "input_ids": joined["ids"],
        "labels": joined["ids"],
        "attention_mask": torch.from_numpy(np.repeat([1, 2], lengths)),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]),
        "mm_token_type_ids": joined["types"],
        "pixel_values": joined["pixels"],
    }


def test_documents_as_rows_are_what_they_are_alone_and_packs_are_not() -> None:
    model, made = tiny_gemma3(), made_documents()
    pack, start = as_pack(made), 0
    with torch.no_grad():
        rows = model(**documents([pack], form=form_of("gemma3", model.config))).logits
        packed = model(**hf([pack], form=ModelForm(token_types_name="token_type_ids"))).logits[0]
        differences = []
        for row, document in enumerate(made):
            ids, length = torch.from_numpy(document["ids"])[None], len(document["ids"])
            types, pixels = torch.from_numpy(document["types"])[None], torch.from_numpy(document["pixels"])
            alone = model(
                input_ids=ids,
                token_type_ids=types,
                pixel_values=pixels,
                attention_mask=torch.ones_like(ids),
                use_cache=False,
            ).logits[0]
            assert (rows[row, :length] - alone).abs().max() <= TOLERANCE
            differences.append(float((packed[start : start + length] - alone).abs().max()))
            start += length
    assert max(differences) > 0.1, "transformers takes the places of images from the first document"
