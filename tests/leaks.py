"""What the tests of leaks and scripts/measure_leaks.py share: packs through a collate into a tiny model, held against each
document alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import vlmprep
from tests.documents import Document, Recipe, alone_inputs, lay_pack, make_document, rules_of
from tests.models import AnyFamily, tiny_model
from tests.packsets import write_pack_set
from tests.tiny_media import Clip, Sound

__all__ = [
    "IMAGES",
    "MEDIA",
    "RECURRENT",
    "TOLERANCE",
    "Alone",
    "Placed",
    "Setup",
    "alone",
    "kernels",
    "manifest_name",
    "run",
    "run_alone",
    "take_gradients",
    "worst_difference",
]

TOLERANCE = 5e-5
"""Of float32 logits of about unit size; a leak is more than 0.01."""
RECURRENT: tuple[AnyFamily, ...] = ("qwen3_5", "nemotron_h_omni")
"""Families with layers that carry a state."""

IMAGES: tuple[Recipe, ...] = ([6, (4, 6), 9], [11], [3, (2, 2), 2, (6, 4), 5], [2, (8, 2), 20])
"""An image, none, two, and one in a long document."""
_CLIPS: tuple[Recipe, ...] = (
    [4, Clip(frames=2, rows=4, columns=2), 5],
    [7],
    [3, (2, 4), 2, Clip(frames=3, rows=2, columns=4), 6],
)
_SOUNDS: tuple[Recipe, ...] = ([4, Sound(frames=210), 5], [7], [3, Sound(frames=150), 2, (2, 4), 5])
_SOUNDS_ALONE: tuple[Recipe, ...] = ([4, Sound(frames=70), 6], [7], [3, Sound(frames=70), 2, Sound(frames=70), 5])
MEDIA: dict[str, tuple[AnyFamily, ...]] = {
    "clips": ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_omni_moe", "gemma4", "gemma4_bidirectional"),
    "sounds": ("qwen3_omni_moe", "gemma4", "phi4_multimodal", "nemotron_h_omni"),
}
"""Families by what their tiny models are shown beside images."""


def recipes_of(family: str, media: str) -> tuple[Recipe, ...]:
    """Documents with images, clips or sounds for a family."""
    if media == "sounds" and family == "phi4_multimodal":
        return _SOUNDS_ALONE
    return {"images": IMAGES, "clips": _CLIPS, "sounds": _SOUNDS}[media]


def manifest_name(family: str) -> str:
    """What a manifest calls a tiny model's family."""
    return family.removesuffix("_bidirectional")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a document's tokens are in a batch."""

    row: int
    place: slice
    document: Document


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alone:
    """A tiny model, and what it makes of documents one at a time."""

    model: Any
    documents: list[Document]
    logits: list[Tensor]
    """[S, V] of each document."""
    loss: float
    """Mean over all labels."""
    gradients: dict[str, Tensor]
    """Of that loss, by weight."""


@functools.cache
@torch.enable_grad()
def alone(family: AnyFamily, backend: str, media: str) -> Alone:
    """Make model and documents and run each by itself, once a session."""
    model = tiny_model(family, attn_implementation=backend)
    if media == "sounds" and family == "nemotron_h_omni":
        model.audio_tower.eval()  # its batch normalization would mix the sounds of a batch
    documents = [make_document(model, recipe, seed=seed) for seed, recipe in enumerate(recipes_of(family, media))]
    num_labels = sum(int((document.fields["labels"] != -100).sum()) for document in documents)
    logits, losses = zip(*(run_alone(model, document) for document in documents), strict=True)
    loss = torch.stack(losses).sum() / num_labels
    loss.backward()
    return Alone(
        model=model,
        documents=documents,
        logits=[each.detach() for each in logits],
        loss=loss.item(),
        gradients=take_gradients(model),
    )


def take_gradients(model: Any) -> dict[str, Tensor]:
    """Gradients by weight, which are cleared."""
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A tiny model and documents for it, in one way of packing."""

    family: AnyFamily
    collate: str
    backend: str
    media: str = "images"

    @property
    def alone(self) -> Alone:
        """The model, and what it makes of every document alone."""
        return alone(self.family, self.backend, self.media)

    @property
    def model(self) -> Any:
        return self.alone.model

    @property
    def documents(self) -> list[Document]:
        return self.alone.documents

    @property
    def split(self) -> list[list[Document]]:
        """Packs: two of unequal length, or one where packs cannot be rows of one batch."""
        one = self.collate == "hf" and self.family in RECURRENT
        return [self.documents] if one else [self.documents[:2], self.documents[2:]]

    def places(self, split: Sequence[Sequence[Document]]) -> list[Placed]:
        """Where every document is."""
        if self.collate == "documents":
            flat = [document for documents in split for document in documents]
            return [Placed(row=row, place=slice(0, len(each)), document=each) for row, each in enumerate(flat)]
        placed = []
        if self.collate == "flat":
            split = [[document for documents in split for document in documents]]
        for row, documents in enumerate(split):
            start = 0
            for document in documents:
                placed.append(Placed(row=row, place=slice(start, start + len(document)), document=document))
                start += len(document)
        return placed

    def batch(
        self,
        root: Path,
        split: Sequence[Sequence[Document]],
        fake: Document | None = None,
        *,
        changes: dict[str, Any] | None = None,
        **loader: Any,
    ) -> vlmprep.runtime.Batch:
        """Packs as one batch, through a pack set on disk and the loader."""
        packs = [lay_pack(documents, fake) for documents in split]
        name = {"family": manifest_name(self.family), **(changes or {})}
        written = write_pack_set(root, packs, compression="none", pixels=rules_of(self.model), changes=name)
        [batch] = vlmprep.Loader(
            vlmprep.open(written),
            packs_per_rank=len(packs),
            shuffle=False,
            collate=self.collate,  # type: ignore[arg-type]
            **{"attn_implementation": self.backend, "model_config": self.model.config, **loader},
        )
        return batch


def run(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits [B, S, V] and the mean loss, as the users of each form get them."""
    if "shift_labels" in batch:
        output = model(**batch)
        return output.logits, output.loss
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "_packed_seq_ids")}
    inputs = {name: value for name, value in inputs.items() if not name.endswith("_per_sample")}
    logits = model(**{"use_cache": False, **inputs}).logits
    return logits, cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def run_alone(model: Any, document: Document) -> tuple[Tensor, Tensor]:
    """Logits [S, V] and the summed loss of one document: no packing, the model makes its own positions."""
    logits = model(**alone_inputs(model, document), use_cache=False).logits[0]
    labels = torch.from_numpy(document.fields["labels"]).long()
    return logits, cross_entropy(logits, labels, reduction="sum")


def worst_difference(setup: Setup, logits: Tensor) -> float:
    """The largest |dlogit| between the documents of `setup.split` in a batch and alone."""
    places = setup.places(setup.split)
    assert len(places) == len(setup.alone.logits) > 1
    return max(
        (logits[placed.row, placed.place] - expected).abs().max().item()
        for placed, expected in zip(places, setup.alone.logits, strict=True)
    )


@contextmanager
def kernels(*, installed: bool = True) -> Iterator[set[str]]:
    """Stand-ins for the CUDA kernels of layers with a state: transformers' own arithmetic, run sequence by sequence where
    `seq_idx` or `cu_seqlens` say so.

    Args:
        installed: False leaves everything as it is.

    Yields:
        Names of those that were told where sequences begin.
    """
    import transformers.models.nemotron_h.modeling_nemotron_h as nemotron
    import transformers.models.qwen3_5.modeling_qwen3_5 as qwen

    told: set[str] = set()
    replaced = [
        (qwen, "causal_conv1d_fn", _convolution(qwen.causal_conv1d_fn, told)),
        (qwen, "torch_chunk_gated_delta_rule", _delta_rule(qwen.torch_chunk_gated_delta_rule, told)),
        (nemotron, "causal_conv1d_fn", _convolution(nemotron.causal_conv1d_fn, told)),
        (nemotron, "mamba2_chunk_scan", _scan(nemotron.mamba2_chunk_scan, told)),
        (nemotron, "mamba2_split_conv1d_scan_combined", lambda *_, **__: None),
    ]
    with ExitStack() as stack:
        for module, name, stand_in in replaced if installed else []:
            stack.enter_context(mock.patch.object(module, name, stand_in))
        yield told


def _lengths(seq_idx: Tensor) -> list[int]:
    assert seq_idx.dtype == torch.int32
    assert len(seq_idx) == 1
    lengths: list[int] = torch.unique_consecutive(seq_idx[0], return_counts=True)[1].tolist()
    return lengths


def _convolution(plain: Callable[..., Any], told: set[str]) -> Callable[..., Any]:
    def convolve(states: Tensor, *weights: Any, seq_idx: Tensor | None = None, **rest: Any) -> Tensor:
        if seq_idx is None:
            return plain(states, *weights, activation=rest["activation"])  # type: ignore[no-any-return]
        told.add("convolution")
        parts = states.split(_lengths(seq_idx), dim=-1)
        return torch.cat([plain(part, *weights, activation=rest["activation"]) for part in parts], dim=-1)

    return convolve


def _delta_rule(plain: Callable[..., Any], told: set[str]) -> Callable[..., Any]:
    def scan(*states: Tensor, cu_seqlens: Tensor | None = None, **rest: Any) -> tuple[Tensor, None]:
        rest.pop("seq_idx", None)
        if cu_seqlens is None:
            return plain(*states, **rest)  # type: ignore[no-any-return]
        told.add("delta rule")
        each = [
            tensor.split(cu_seqlens.diff().tolist(), dim=1) for tensor in (*states, rest.pop("g"), rest.pop("beta"))
        ]
        made = [plain(*part[:3], g=part[3], beta=part[4], **rest)[0] for part in zip(*each, strict=True)]
        return torch.cat(made, dim=1), None

    return scan


def _scan(plain: Callable[..., Any], told: set[str]) -> Callable[..., Any]:
    def scan(
        states: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, *, seq_idx: Tensor | None = None, **rest: Any
    ) -> Tensor:
        if seq_idx is None:
            return plain(states, dt, a, b, c, **rest)  # type: ignore[no-any-return]
        told.add("scan")
        each = [tensor.split(_lengths(seq_idx), dim=1) for tensor in (states, dt, b, c)]
        return torch.cat([plain(x, d, a, y, z, **rest) for x, d, y, z in zip(*each, strict=True)], dim=1)

    return scan
