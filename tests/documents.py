"""Hand-built documents with images, clips, sounds and text for the tiny models, and packs of them; NumPy and a model's own
positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tests.packsets import PIXEL_RULE, WrittenPack
from tests.tiny_media import Clip, Placed, Sound, make_clip, make_image, make_sound

__all__ = ["Document", "Recipe", "alone_inputs", "fake_document", "lay_pack", "make_document", "rules_of"]

Recipe: TypeAlias = Sequence[int | tuple[int, int] | Clip | Sound]
"""Runs of text by their number of tokens, and images by their grid of patches (rows, columns), clips, sounds, in order."""

_STORED = {"arithmetic": "stored", "layout": "stored"}
_CROPS = {**_STORED, "per_medium": "num_crops", "drops": ["num_crops"]}
_FRAMES = {**_STORED, "per_medium": "num_sound_frames", "drops": ["num_sound_frames"]}
_LEADING = {**_STORED, "lead": True}
_RULES: dict[str, dict[str, dict[str, Any]]] = {
    **{
        family: {"pixel_values": PIXEL_RULE}
        for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_omni_moe_thinker")
    },
    "gemma4": {"input_features": _FRAMES, "input_features_mask": _FRAMES},
    "nemotron_h_omni": {"input_features": _FRAMES, "input_features_mask": _FRAMES},
    "phi4_multimodal": {
        "image_pixel_values": _CROPS,
        "image_attention_mask": _CROPS,
        "audio_input_features": _FRAMES,
        "audio_attention_mask": _FRAMES,
    },
    "llava_onevision": {"pixel_values": _CROPS},
    "idefics3": {"pixel_values": _LEADING, "pixel_attention_mask": _LEADING},
    "smolvlm": {"pixel_values": _LEADING, "pixel_attention_mask": _LEADING},
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Document:
    """A document after the shift, as one sample gives it."""

    fields: dict[str, NDArray[Any]]
    """Like a pack's, without attention_mask."""
    media: tuple[Mapping[str, NDArray[Any]], ...] = field(default=())
    """The stored fields of each medium."""

    def __len__(self) -> int:
        return len(self.fields["input_ids"])

    def changed(self, token: int, value: int) -> Document:
        """The same document with another token at one place."""
        ids = self.fields["input_ids"].copy()
        assert ids[token] != value
        ids[token] = value
        return Document(fields={**self.fields, "input_ids": ids}, media=self.media)


def rules_of(model: Any) -> dict[str, dict[str, Any]]:
    """The manifest's rules for the stored fields of a tiny model's documents."""
    return _RULES.get(model.config.model_type, {})


def make_document(model: Any, recipe: Recipe, *, seed: int, labelled: bool = True) -> Document:
    """Random text and media with the model's own positions.

    Args:
        model: A tiny model.
        recipe: What the document is made of; it must not end with a medium.
        seed: Of tokens and pixels.
        labelled: Whether every second text token is learned.
    """
    rng = np.random.default_rng(seed)
    placed = _place(model, recipe, rng)
    ids = np.array([token for part in placed for token in part.ids])
    kinds = np.array([kind for part in placed for kind in part.kinds])
    media = tuple(part.fields for part in placed if part.fields)
    joined = _joined(media)
    if "batch_num_images" in _model_only(model):
        joined |= _images_per_sample(media)
    labels = np.where((kinds[1:] == 0) & (np.arange(len(ids) - 1) % 2 == 0) & labelled, ids[1:], -100)
    fields: dict[str, NDArray[Any]] = {
        "input_ids": ids[:-1].astype(np.int32),
        "labels": labels.astype(np.int32),
        "position_ids": _positions(model, ids, kinds, joined)[..., :-1],
        "mm_token_type_ids": kinds[:-1].astype(np.uint8),
        **joined,
    }
    return Document(fields=fields, media=media)


def fake_document(model: Any) -> Document:
    """One white image of 4 x 4 patches between two tokens of text, without labels."""
    document = make_document(model, [1, (4, 4), 2], seed=0, labelled=False)
    for name in ("pixel_values", "image_pixel_values"):
        if name in document.fields:
            document.fields[name][:] = 255 if document.fields[name].dtype == np.uint8 else 1
    return document


def lay_pack(documents: Sequence[Document], fake: Document | None = None) -> WrittenPack:
    """Documents end to end, the fake image behind them with `attention_mask` 0."""
    laid = [*documents, *([fake] if fake else [])]
    numbers = [*range(1, len(documents) + 1), *([0] if fake else [])]
    sequence = ("input_ids", "labels", "position_ids", "mm_token_type_ids")
    fields: dict[str, NDArray[Any]] = {
        name: np.concatenate([document.fields[name] for document in laid], axis=-1) for name in sequence
    }
    fields["attention_mask"] = np.repeat(np.array(numbers, np.uint16), [len(document) for document in laid])
    fields |= _joined(
        [{name: value for name, value in document.fields.items() if name not in sequence} for document in laid]
    )
    return WrittenPack(
        fields=fields,
        document_lengths=[len(document) for document in documents],
        fake={"kind": "pack", "length": len(fake), "height": 56, "width": 56} if fake else None,
    )


def alone_inputs(model: Any, document: Document) -> dict[str, torch.Tensor]:
    """A document as the model's own processor would hand it over alone: one row, no positions, a mask of ones."""
    fields = dict(document.fields)
    inputs = {"input_ids": torch.from_numpy(fields["input_ids"].astype(np.int64))[None]}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if hasattr(model, "model") and "mm_token_type_ids" in _parameters(model):
        inputs["mm_token_type_ids"] = torch.from_numpy(fields["mm_token_type_ids"].astype(np.int64))[None]
    rules = rules_of(model)
    for name in dict.fromkeys(name for medium in document.media for name in medium):
        if name in ("num_crops", "num_sound_frames"):
            continue
        parts = [medium[name] for medium in document.media if name in medium]
        inputs[name] = torch.from_numpy(_as_processed(parts, rules.get(name, _STORED)))
    if "batch_num_images" in fields:
        inputs["batch_num_images"] = torch.from_numpy(fields["batch_num_images"])
    return inputs


def _as_processed(parts: list[NDArray[Any]], rule: Mapping[str, Any]) -> NDArray[Any]:
    """One field of several media as a processor returns it, by plain arithmetic."""
    if "mean" in rule:
        mean, std = (np.array(rule[name]).reshape(3, 1, 1) for name in ("mean", "std"))
        pixels = np.repeat(((np.concatenate(parts) / 255 - mean) / std)[:, :, None], rule["repeat"], axis=2)
        return pixels.reshape(len(pixels), -1).astype(np.float32)
    if "per_medium" in rule:
        most = max(map(len, parts))
        grouped = np.zeros((len(parts), most, *parts[0].shape[1:]), parts[0].dtype)
        for medium, part in enumerate(parts):
            grouped[medium, : len(part)] = part
        return grouped
    joined = np.concatenate(parts)
    return joined[None] if rule.get("lead") else joined


def _place(model: Any, recipe: Recipe, rng: np.random.Generator) -> list[Placed]:
    num_images = sum(isinstance(part, tuple) for part in recipe)
    placed = []
    for part in recipe:
        if isinstance(part, int):
            placed.append(Placed(ids=rng.integers(1, 100, part).tolist(), kinds=[0] * part, fields={}))
        elif isinstance(part, Clip):
            placed.append(make_clip(model, rng, part))
        elif isinstance(part, Sound):
            placed.append(make_sound(model, rng, part.frames))
        else:
            placed.append(make_image(model, rng, *part, alone=num_images == 1))
    return placed


def _joined(media: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    names = dict.fromkeys(name for fields in media for name in fields)
    return {name: np.concatenate([fields[name] for fields in media if name in fields]) for name in names}


def _images_per_sample(media: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    num_images = sum("pixel_values" in fields for fields in media)
    return {"batch_num_images": np.array([num_images], np.int64)} if num_images else {}


def _model_only(model: Any) -> tuple[str, ...]:
    return ("batch_num_images",) if model.config.model_type == "llava_onevision" else ()


def _parameters(model: Any) -> set[str]:
    return set(type(model).forward.__wrapped__.__code__.co_varnames)


def _positions(model: Any, ids: Any, kinds: Any, fields: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """[3, S] or [S]: what the model's own `get_rope_index` gives for the document alone, where it has one."""
    if not hasattr(getattr(model, "model", None), "get_rope_index"):
        return np.arange(len(ids), dtype=np.int32)
    known = {name: torch.from_numpy(value) for name, value in fields.items()}
    mask = torch.ones(1, len(ids), dtype=torch.int64)
    sizes = {name: known.get(name) for name in ("image_grid_thw", "video_grid_thw")}
    if model.config.model_type == "qwen3_omni_moe_thinker":
        heard = known["feature_attention_mask"].sum(1) if "feature_attention_mask" in known else None
        more = {"audio_seqlens": heard, "second_per_grids": known.get("video_second_per_grid")}
    else:
        more = {"mm_token_type_ids": torch.from_numpy(kinds)[None].int()}
        if "second_per_grid_ts" in known:
            more["second_per_grid_ts"] = known["second_per_grid_ts"]
    positions, _ = model.model.get_rope_index(torch.from_numpy(ids)[None], **sizes, attention_mask=mask, **more)
    result: NDArray[Any] = positions[:, 0].numpy()
    whole = np.array_equal(result, result.astype(np.int32))
    return result.astype(np.int32) if whole else result.astype(np.float32)
