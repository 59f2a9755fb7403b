"""Documents end to end for attention over sequences of different lengths, which is told where each begins.

`flat`   all packs of the batch as one row

    input_ids [1, T]     | d1 d1 d1 d2 d2 | d1 d1 d1 d1 | . . |       two packs, and padding up to `max_length`
    cu_seqlens           0        3     5             9     11        max_seqlen 4

`thd`    packs as rows, every document padded to a multiple, as Transformer Engine's `qkv_format="thd"` takes them

    input_ids [B, S]     | d1 d1 d1 .  d2 d2 .  .  |                  document_alignment 4
    seq_lens             3  2
    seq_lens_padded      4  4

In both, a fake image is a document like any other, without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmprep.runtime.forms import ModelForm
from vlmprep.runtime.offers import check_flat, check_thd, check_together
from vlmprep.runtime.positions import check_whole, restarting, sequence_borders
from vlmprep.runtime.rows import Pack, joined_media, labels_as_rows, row_length, rows_of, split_documents, token_types
from vlmprep.schema.packset import IGNORE_INDEX

__all__ = ["NO_SEQUENCE", "flat", "thd"]

NO_SEQUENCE = -1000
"""Entry of `seq_lens` behind the last document of a row, as NeMo Automodel writes it."""

_PLAIN = ModelForm()


def flat(
    batch: Sequence[Pack], padding_idx: int = 0, max_length: int | None = None, form: ModelForm = _PLAIN
) -> dict[str, Any]:
    """Lay all packs out as one row.

    Args:
        batch: Packs.
        padding_idx: Token id of padding.
        max_length: Length of the row, the same for every batch where shapes are compiled for; padding is one more document.
            Default: the packs' tokens.
        form: What the model's forward takes.

    Returns:
        `input_ids`, `labels`, `shift_labels` [1, T], `position_ids` [4, 1, T] (place in the document, then the three mRoPE axes)
        or [1, T]; `cu_seqlens` [documents + 1] int32 and `max_seqlen`; `use_cache=False`, and media fields joined. transformers'
        models find documents by positions: take `cu_seqlens` and `max_seqlen` out for them, their vision encoders would use them.

    Raises:
        ValueError: The packs are longer than `max_length`, they mask tokens inside a document, or the model's documents cannot
            be kept apart in this form.
    """
    check_flat(form)
    check_together(batch, form)
    for pack in batch:
        check_whole(pack, "flat")
    row = _end_to_end(batch)
    size = row_length([row], max_length)
    labels = labels_as_rows([row], size)
    positions = torch.cat([restarting(pack, len(pack["input_ids"])) for pack in batch], dim=-1)
    padding = torch.arange(size - positions.shape[-1]).expand(*positions.shape[:-1], -1)
    positions = torch.cat([positions, padding.to(positions.dtype)], dim=-1).unsqueeze(-2)
    borders = sequence_borders(positions)
    return {
        "input_ids": rows_of([row], "input_ids", size, padding_idx),
        "labels": labels,
        "shift_labels": labels,
        "position_ids": positions,
        "use_cache": False,
        "cu_seqlens": borders["cu_seq_lens_q"],
        "max_seqlen": borders["max_length_q"],
        **(borders if form.recurrent else {}),
        **token_types([row], size, form),
        **joined_media(batch),
    }


def thd(
    batch: Sequence[Pack],
    padding_idx: int = 0,
    max_length: int | None = None,
    document_alignment: int = 1,
    form: ModelForm = _PLAIN,
) -> dict[str, Any]:
    """Lay packs out for Transformer Engine, every document padded to a multiple.

    Args:
        batch: Packs.
        padding_idx: Token id of padding.
        max_length: Length of every row; default: the longest row's. What a row has behind its last document counts to the padding
            of that one, so that `seq_lens_padded` adds up to the row.
        document_alignment: Multiple that every document is padded to; context parallelism over `n` ranks takes `2 * n`.
        form: What the model's forward takes.

    Returns:
        The sequence fields as [B, S] (`position_ids` [3, B, S] where it has axes; padding has token `padding_idx`, label -100
        and position 0), `seq_lens` and `seq_lens_padded` [B, D] int32 of every document, `NO_SEQUENCE` behind them;
        `qkv_format="thd"`, and media fields joined.

    Raises:
        ValueError: A row is longer than `max_length`, which is no multiple of the alignment, a pack masks tokens inside a
            document, or the model's documents cannot be kept apart in this form.
    """
    check_thd(form)
    check_together(batch, form)
    if max_length is not None and max_length % document_alignment:
        raise ValueError(f"max_length={max_length} is no multiple of document_alignment={document_alignment}")
    for pack in batch:
        check_whole(pack, "thd")
    split = [split_documents(pack) for pack in batch]
    lengths = [[len(document["input_ids"]) for document in documents] for documents in split]
    rows = [_padded(documents, document_alignment, padding_idx) for documents in split]
    size = row_length(rows, max_length)
    return {
        "input_ids": rows_of(rows, "input_ids", size, padding_idx),
        "labels": labels_as_rows(rows, size),
        "position_ids": rows_of(rows, "position_ids", size, 0),
        **token_types(rows, size, form),
        **joined_media(batch),
        "seq_lens": _ragged(lengths),
        "seq_lens_padded": _ragged([_filled(each, document_alignment, size) for each in lengths]),
        "qkv_format": "thd",
    }


def _end_to_end(parts: Sequence[Pack]) -> dict[str, Tensor]:
    """The fields of a sequence that rows are made of."""
    fields = ("input_ids", "labels", "mm_token_type_ids", "position_ids")
    return {field: torch.cat([part[field] for part in parts], dim=-1) for field in fields if field in parts[0]}


def _padded(documents: Sequence[Pack], alignment: int, padding_idx: int) -> dict[str, Tensor]:
    """Documents end to end, each padded to a multiple."""
    fill = {"input_ids": padding_idx, "labels": IGNORE_INDEX}
    parts = []
    for document in documents:
        missing = -len(document["input_ids"]) % alignment
        parts.append(
            {
                field: torch.nn.functional.pad(values, (0, missing), value=fill.get(field, 0))
                for field, values in document.items()
            }
        )
    return _end_to_end(parts)


def _filled(lengths: Sequence[int], alignment: int, size: int) -> list[int]:
    """Padded lengths of a row's documents: `[3, 2]` in a row of 12 gives `[4, 8]`."""
    padded = [-(-length // alignment) * alignment for length in lengths]
    return [*padded[:-1], size - sum(padded[:-1])]


def _ragged(rows: Sequence[Sequence[int]]) -> Tensor:
    """[B, D] int32, `NO_SEQUENCE` behind shorter rows."""
    table = torch.full((len(rows), max(map(len, rows))), NO_SEQUENCE, dtype=torch.int32)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row, dtype=torch.int32)
    return table
