"""What collates cannot offer a model: forms that would not keep its documents apart, and batches that it mixes up."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from vlmprep.runtime.forms import SLIDING, ModelForm
from vlmprep.runtime.packs import PackFacts
from vlmprep.runtime.rows import Pack, split_documents
from vlmprep.shardformat.index import PackIndex

__all__ = ["BACKENDS", "alignment_of", "check_flat", "check_hf", "check_neat", "check_thd", "check_together"]

BACKENDS = ("flash_attention_2", "sdpa", "eager")
"""Attention implementations that `neat` has a mask for."""

IMAGE, SOUND = 1, 3
"""Token types."""


def check_neat(form: ModelForm, attn_implementation: str) -> None:
    """Refuse what `neat` cannot offer.

    Raises:
        ValueError: No mask keeps documents apart in such a model.
    """
    if attn_implementation not in BACKENDS:
        raise ValueError(
            f"collate='neat' has masks for {', '.join(BACKENDS)}, got attn_implementation={attn_implementation!r}"
        )
    _check_answered(form, "neat")
    if form.recurrent:
        raise ValueError(
            f"collate='neat' keeps documents apart by attention masks, and {form.family} has layers that carry a state "
            "past them. Use collate='documents', or 'hf' where the kernels for packed sequences are installed."
        )
    if SLIDING in form.layers and form.window is None:
        raise ValueError(f"{form.family} has layers that see a window only: give the model's config (model_config)")
    if form.image_blocks and attn_implementation == "flash_attention_2":
        raise ValueError("images that see themselves whole need a mask that flash attention does not take: use sdpa")


def check_hf(num_rows: int, attn_implementation: str, form: ModelForm) -> None:
    """Refuse what `hf` cannot offer.

    Raises:
        ValueError: A flash backend or a layer with a state would see several rows, or images that see themselves whole need
            a mask that the backend does not take.
    """
    _check_answered(form, "hf")
    if "flash" in attn_implementation and num_rows > 1:
        raise ValueError(
            f"collate='hf' with {attn_implementation} takes one pack per rank and step, got {num_rows}: transformers "
            "looks for documents only where the batch has one row, and would let them see each other. "
            "Use packs_per_rank=1, or sdpa."
        )
    if form.recurrent and num_rows > 1:
        raise ValueError(
            f"collate='hf' for {form.family} takes one pack per rank and step, got {num_rows}: the kernels of its layers "
            "with a state look for documents only where the batch has one row. Use packs_per_rank=1, or "
            "collate='documents'."
        )
    if form.image_blocks and attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"collate='hf' has masks for images that see themselves whole under sdpa and eager, not under "
            f"{attn_implementation}. Use one of them, or collate='documents'."
        )


def check_flat(form: ModelForm) -> None:
    """Refuse what `flat` cannot offer.

    Raises:
        ValueError: Lengths alone do not say what such a model must see.
    """
    _check_answered(form, "flat")
    _check_causal(form, "flat")


def check_thd(form: ModelForm) -> None:
    """Refuse what `thd` cannot offer.

    Raises:
        ValueError: Lengths alone do not say what such a model must see, or layers with a state would run through padding.
    """
    _check_answered(form, "thd")
    _check_causal(form, "thd")
    if form.recurrent:
        raise ValueError(
            f"collate='thd' tells attention where documents begin, and {form.family} has layers that carry a state past "
            "them and through the padding between them. Use collate='documents', or 'flat' where the kernels for packed "
            "sequences are installed."
        )


def alignment_of(manifest: PackFacts, index: PackIndex, asked: int | None) -> int:
    """The multiple that `thd` pads documents to: what the plan counted, or another one that surely fits.

    Args:
        manifest: Of the pack set.
        index: Of the pack set.
        asked: None: what the plan counted.

    Raises:
        ValueError: Documents padded to that multiple may not fit into a pack.
    """
    planned = int(manifest.settings.get("document_alignment", 1))
    asked = planned if asked is None else asked
    if asked < 1:
        raise ValueError(f"document_alignment must be at least 1, got {asked}")
    if planned % asked == 0:
        return asked
    documents = index.num_samples.astype(np.int64) + 1  # one may be a fake image
    longest = int((index.num_tokens + documents * (asked - 1)).max(initial=0))
    if longest > manifest.pack_size:
        raise ValueError(
            f"document_alignment={asked}, but the pack set was planned for {planned}: padded, a pack may take {longest} tokens "
            f"instead of {manifest.pack_size}. Plan it with --document-alignment {asked}."
        )
    return asked


def check_together(batch: Sequence[Pack], form: ModelForm) -> None:
    """Hold a batch against what the model mixes up; what no batch can mend is warned of.

    Raises:
        ValueError: Sounds would be projected otherwise than in their documents alone.
    """
    if form.one_projection:
        _check_projection(batch, form)
    if form.sounds_see_padding:
        _warn_of_padded_sounds(batch, form)
    if form.short_positions is not None:
        _check_positions(batch, form.short_positions)


def _check_projection(batch: Sequence[Pack], form: ModelForm) -> None:
    """Phi-4-multimodal projects sounds one way where they stand alone, and another as soon as the batch has an image."""
    held = [set(document["mm_token_type_ids"].tolist()) for pack in batch for document in split_documents(pack)]
    if any(IMAGE in kinds for kinds in held) and any(SOUND in kinds and IMAGE not in kinds for kinds in held):
        raise ValueError(
            f"{form.family} projects the sounds of a batch by another layer as soon as any image is in it, and this batch "
            "holds documents with sounds alone beside images. Make a pack set of the samples with sounds and no image by "
            "themselves, with --fake-image none."
        )


def _warn_of_padded_sounds(batch: Sequence[Pack], form: ModelForm) -> None:
    """The sound encoder adds its mask to the scores as ones and zeros, which hides nothing."""
    sizes = [size for pack in batch if "audio_embed_sizes" in pack for size in pack["audio_embed_sizes"].tolist()]
    if len(set(sizes)) > 1:
        warnings.warn(
            f"this batch holds sounds of {min(sizes)} to {max(sizes)} tokens: the sound encoder of {form.family} sees the "
            "padding behind the shorter ones, so their features differ from those that they have alone",
            stacklevel=4,
        )


def _check_positions(batch: Sequence[Pack], short_positions: int) -> None:
    """Rotary factors of `longrope` are those of long documents for the whole batch where one is long."""
    longest = [int(document["position_ids"].max()) + 1 for pack in batch for document in split_documents(pack)]
    if max(longest) > short_positions >= min(longest):
        warnings.warn(
            f"a document of {max(longest)} tokens is longer than the {short_positions} that the model's short rotary factors "
            "are for: transformers rotates the shorter documents of this batch by the long ones too",
            stacklevel=4,
        )


def _check_answered(form: ModelForm, collate: str) -> None:
    if form.only_documents is not None:
        raise ValueError(
            f"collate={collate!r} has no form for {form.family}, whose {form.only_documents}. Use collate='documents'."
        )
    if form.open_question is not None:
        raise ValueError(
            f"collate={collate!r} for {form.family} depends on {form.open_question}: give the model's config (model_config)"
        )


def _check_causal(form: ModelForm, collate: str) -> None:
    if form.image_blocks:
        raise ValueError(
            f"collate={collate!r} has no mask, and images of {form.family} see themselves whole, as this config says. "
            "Use collate='hf' or 'neat' with sdpa, or 'documents'."
        )
