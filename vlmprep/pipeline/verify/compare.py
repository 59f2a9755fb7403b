"""A document as a pack holds it against the same document made anew, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate, zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.packing.document import Document, Medium
from vlmprep.shardformat.members import Array
from vlmprep.shardformat.packinfo import MediumInfo, PackInfo

__all__ = ["document_differences", "first_difference"]


def document_differences(info: PackInfo, fields: Mapping[str, Array], number: int, rebuilt: Document) -> Iterator[str]:
    """Where one document of a pack differs from the same document made anew.

    Args:
        info: What the pack says about itself.
        fields: Its tensors.
        number: The document's, 1..n.
        rebuilt: The same document, made from its source.
    """
    ends = list(accumulate(info.document_lengths))
    place = slice(ends[number - 1] - info.document_lengths[number - 1], ends[number - 1])
    mask = fields["attention_mask"][place]
    wanted = {
        "input_ids": rebuilt.input_ids,
        "labels": rebuilt.labels,
        "attention_mask": np.where(rebuilt.hidden, 0, number).astype(mask.dtype),
        "position_ids": rebuilt.position_ids,
        "mm_token_type_ids": rebuilt.mm_token_type_ids,
    }
    for name, array in wanted.items():
        if (found := first_difference(name, fields[name][..., place], array)) is not None:
            yield found
    yield from media_differences(info, fields, number, rebuilt.media)


def media_differences(
    info: PackInfo, fields: Mapping[str, Array], number: int, rebuilt: tuple[Medium, ...]
) -> Iterator[str]:
    """Media of one document that are others, or whose tensors are."""
    starts: Counter[str] = Counter()
    own: list[tuple[MediumInfo, dict[str, Array]]] = []
    for medium in info.media:
        rows = {name: slice(starts[name], starts[name] + count) for name, count in medium.rows.items()}
        starts.update(medium.rows)
        if medium.document == number:
            own.append((medium, {name: fields[name][place] for name, place in rows.items()}))
    for place, (held, made) in enumerate(zip_longest(own, rebuilt), start=1):
        if held is None or made is None:
            yield f"it has {len(own)} media, made anew {len(rebuilt)}"
            return
        for what in medium_differences(held[0], held[1], made):
            yield f"medium {place}: {what}"


def medium_differences(info: MediumInfo, tensors: Mapping[str, Array], rebuilt: Medium) -> Iterator[str]:
    """What is different of one medium."""
    said = (info.kind, info.shape, info.num_tokens, info.num_framing, info.fake)
    made = (rebuilt.kind, rebuilt.shape, rebuilt.num_placeholders, rebuilt.num_framing, rebuilt.fake)
    names = ("kind", "shape", "num_tokens", "num_framing", "fake")
    for name, one, other in zip(names, said, made, strict=True):
        if one != other:
            yield f"its {name} is {one}, made anew {other}"
    if set(tensors) != set(rebuilt.tensors):
        yield f"it has {sorted(tensors)}, made anew {sorted(rebuilt.tensors)}"
        return
    for name, array in tensors.items():
        if (found := first_difference(name, array, rebuilt.tensors[name])) is not None:
            yield found


def first_difference(name: str, held: NDArray[Any], rebuilt: NDArray[Any]) -> str | None:
    """Where two arrays first differ in a bit, in words; None where they do not."""
    if (held.dtype, held.shape) != (rebuilt.dtype, rebuilt.shape):
        return f"{name} is {held.dtype.name} {list(held.shape)}, made anew {rebuilt.dtype.name} {list(rebuilt.shape)}"
    differs = bits(held) != bits(rebuilt)
    if not differs.any():
        return None
    at = tuple(np.unravel_index(int(differs.argmax()), differs.shape))
    return (
        f"{name}{[int(place) for place in at]} is {held[at]}, made anew {rebuilt[at]}; "
        f"{np.count_nonzero(differs)} of {differs.size} entries differ"
    )


def bits(array: NDArray[Any]) -> NDArray[Any]:
    """An array's entries as unsigned integers: numbers that are equal may differ in bits, and NaN equals nothing."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
