"""Documents laid end to end: the tensors of one pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.packing.document import Document, Medium

__all__ = ["Pack", "assemble_pack"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pack:
    """One pack of S tokens."""

    fields: dict[str, NDArray[Any]]
    """By field name, in natural order; schema.packset names them."""
    document_lengths: tuple[int, ...]
    """Tokens of each real document."""
    fake_length: int
    """Tokens of the fake image's document; 0 without one."""
    hidden_length: int
    """Tokens that the fake image takes inside every document that has one; 0 without any."""
    media: tuple[tuple[int, Medium], ...]
    """Document number and medium, in order; 0 is the fake image's."""
    num_visual_tokens: int
    """The fake image's included."""
    num_label_tokens: int

    @property
    def num_tokens(self) -> int:
        """S."""
        return len(self.fields["input_ids"])


def assemble_pack(documents: Sequence[Document], fake: Document | None = None) -> Pack:
    """Concatenate documents, the fake image behind the real ones.

    `attention_mask` numbers the real documents 1..n and is 0 on the fake one, and on fake images inside documents, so no
    real token can see them.

    Args:
        documents: Real documents, in order.
        fake: The fake image's document, for a pack without media; it has no labels.
    """
    laid = [*documents, *([fake] if fake else [])]
    assert laid, "a pack holds at least one document"
    lengths = [len(document) for document in laid]
    numbers = np.arange(1, len(laid) + 1)
    numbers[len(documents) :] = 0
    hidden = np.concatenate([document.hidden for document in laid])
    attention_mask = np.repeat(numbers.astype(_number_dtype(len(documents))), lengths)
    attention_mask[hidden] = 0
    fields: dict[str, NDArray[Any]] = {
        "input_ids": np.concatenate([document.input_ids for document in laid]),
        "labels": np.concatenate([document.labels for document in laid]),
        "attention_mask": attention_mask,
        "position_ids": np.concatenate([document.position_ids for document in laid], axis=-1),
        "mm_token_type_ids": np.concatenate([document.mm_token_type_ids for document in laid]),
    }
    media = tuple(
        (number, medium) for number, document in zip(numbers.tolist(), laid, strict=True) for medium in document.media
    )
    for name in sorted({name for _, medium in media for name in medium.tensors}):
        fields[name] = np.concatenate([medium.tensors[name] for _, medium in media if name in medium.tensors])
    return Pack(
        fields=fields,
        document_lengths=tuple(lengths[: len(documents)]),
        fake_length=len(fake) if fake else 0,
        hidden_length=max(int(document.hidden.sum()) for document in laid),
        media=media,
        num_visual_tokens=sum(document.num_visual_tokens for document in laid),
        num_label_tokens=sum(document.num_label_tokens for document in documents),
    )


def _number_dtype(num_documents: int) -> type[np.uint16] | type[np.int32]:
    return np.uint16 if num_documents <= np.iinfo(np.uint16).max else np.int32
