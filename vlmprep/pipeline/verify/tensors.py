"""The invariants of one pack's tensors: what must hold between them, what the pack says about itself and its row of the index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmprep.pipeline.verify.media import media_problems
from vlmprep.schema.packset import IGNORE_INDEX, SEQUENCE_FIELDS
from vlmprep.shardformat.members import Array
from vlmprep.shardformat.packinfo import PackInfo
from vlmprep.shards.receipts import PackRecord

__all__ = ["PackRules", "tensor_problems"]

DTYPES = {
    "input_ids": ("int32",),
    "labels": ("int32",),
    "attention_mask": ("uint16", "int32"),
    "position_ids": ("int32",),
    "mm_token_type_ids": ("uint8",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRules:
    """What the manifest says of every pack."""

    pack_size: int
    position_axes: int
    fake_image: str
    """`pack`: a pack without pictures has a fake image; `sample`: every document without them has one; `none`."""
    pixel_fields: frozenset[str]
    """Fields that hold uint8 pixels, by the manifest's rules."""
    patches_per_visual_token: int | None
    """None where a family's media differ in it, or the fingerprint does not say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Where the documents of a pack lie, the fake image's included; n of them over S tokens."""

    numbers: NDArray[np.int64]  # [S]: 1..n, 0 on the fake image's own document
    starts: NDArray[np.int64]  # [n]
    lengths: NDArray[np.int64]  # [n]
    num_real: int


def tensor_problems(info: PackInfo, fields: Mapping[str, Array], row: PackRecord, rules: PackRules) -> Iterator[str]:
    """Hold a pack against everything that is known of it.

    Args:
        info: What the pack says about itself.
        fields: Its tensors, in natural order.
        row: Its row of the index.
        rules: What the manifest says of every pack.

    Yields:
        A sentence for everything that is wrong. Where shapes or document lengths are, nothing further is looked at.
    """
    found = list(shape_problems(fields, rules)) or list(length_problems(info, len(fields["input_ids"])))
    if found:
        yield from found
        return
    layout = layout_of(info)
    yield from number_problems(info, fields, layout)
    yield from label_problems(fields, layout)
    yield from position_problems(fields, layout)
    yield from fake_problems(info, rules)
    yield from media_problems(info, fields, layout.numbers, rules.pixel_fields, rules.patches_per_visual_token)
    yield from count_problems(info, fields, row)


def shape_problems(fields: Mapping[str, Array], rules: PackRules) -> Iterator[str]:
    """Sequence fields that are missing, or not of the type and shape that the format has for them."""
    if missing := [name for name in SEQUENCE_FIELDS if name not in fields]:
        yield f"it has no {', '.join(missing)}"
        return
    ids = fields["input_ids"]
    size = ids.shape[0] if ids.ndim else 0
    if not 0 < size <= rules.pack_size:
        yield f"input_ids holds {size} tokens, a pack has 1 to {rules.pack_size}"
    for name in SEQUENCE_FIELDS:
        shape = (rules.position_axes, size) if name == "position_ids" and rules.position_axes > 1 else (size,)
        array = fields[name]
        if array.shape != shape or array.dtype.name not in DTYPES[name]:
            expected = f"{' or '.join(DTYPES[name])} {list(shape)}"
            yield f"{name} is {array.dtype.name} {list(array.shape)}, expected {expected}"


def length_problems(info: PackInfo, size: int) -> Iterator[str]:
    """Document lengths that do not add up to the pack."""
    lengths = info.all_lengths
    if any(length < 1 for length in lengths):
        yield f"key.json gives a document {min(lengths)} tokens"
    elif sum(lengths) != size:
        yield f"its documents have {sum(lengths)} tokens by key.json, input_ids holds {size}"


def layout_of(info: PackInfo) -> Layout:
    """Where key.json puts the documents."""
    lengths = np.array(info.all_lengths, dtype=np.int64)
    num_real = len(info.document_lengths)
    numbers = np.arange(1, len(lengths) + 1)
    numbers[num_real:] = 0
    return Layout(
        numbers=np.repeat(numbers, lengths), starts=np.cumsum(lengths) - lengths, lengths=lengths, num_real=num_real
    )


def number_problems(info: PackInfo, fields: Mapping[str, Array], layout: Layout) -> Iterator[str]:
    """attention_mask: documents 1..n in order, 0 on exactly the fake image's tail, or on its tokens in documents."""
    mask = fields["attention_mask"]
    holes = (mask == 0) & (layout.numbers > 0)
    with_fake = {medium.document for medium in info.media if medium.fake}
    hidden: set[int] = set()
    for document in np.unique(layout.numbers[holes]).tolist():
        if document in with_fake:
            hidden.add(document)
            yield from hidden_problems(info, fields, layout.numbers == document, document)
    if missing := sorted(with_fake - hidden):
        yield f"document {missing[0]} has a fake image by key.json, and hides no token"
    if (at := first((mask != layout.numbers) & ~(holes & np.isin(layout.numbers, sorted(hidden))))) is not None:
        yield f"attention_mask is {mask[at]} at token {at}, expected {layout.numbers[at]} by key.json's document lengths"


def hidden_problems(
    info: PackInfo, fields: Mapping[str, Array], own: NDArray[np.bool_], document: int
) -> Iterator[str]:
    """A document whose hidden tokens are other than its fake image's: one run, as long as key.json says, all its pictures'."""
    places = np.flatnonzero(fields["attention_mask"][own] == 0)
    length = info.fake.length if info.fake else 0
    if len(places) != length or places[-1] - places[0] + 1 != length:
        yield f"document {document} hides {len(places)} tokens from its token {places[0]} on, its fake image has {length}"
    visual = np.flatnonzero(np.isin(fields["mm_token_type_ids"][own], (1, 2)))
    if len(shown := np.setdiff1d(visual, places)):
        yield f"token {shown[0]} of document {document} belongs to its fake image and is not hidden"
    if len(learned := places[places > 0]) and (fields["labels"][own][learned - 1] != IGNORE_INDEX).any():
        yield f"document {document} learns a token of its fake image"


def label_problems(fields: Mapping[str, Array], layout: Layout) -> Iterator[str]:
    """labels: the next token of the same document or -100, never a placeholder, and something to learn everywhere."""
    ids, labels, types = fields["input_ids"], fields["labels"], fields["mm_token_type_ids"]
    is_label = labels != IGNORE_INDEX
    has_next = np.ones(len(ids), dtype=np.bool_)
    has_next[layout.starts + layout.lengths - 1] = False
    if (at := first(ids < 0)) is not None:
        yield f"input_ids is {ids[at]} at token {at}"
    if (at := first(is_label & (labels < 0))) is not None:
        yield f"the label of token {at} is {labels[at]}, expected a token id or {IGNORE_INDEX}"
    if (at := first(is_label & (fields["attention_mask"] == 0))) is not None:
        yield f"token {at} belongs to the fake image and has the label {labels[at]}"
    if (at := first(is_label & has_next & (labels != np.roll(ids, -1)))) is not None:
        yield f"the label of token {at} is {labels[at]}, the next token of document {layout.numbers[at]} is {ids[at + 1]}"
    if (at := first(is_label & has_next & (np.roll(types, -1) != 0))) is not None:
        yield f"the label of token {at} in document {layout.numbers[at]} is a placeholder for media"
    learned = np.add.reduceat(is_label.astype(np.int64), layout.starts)[: layout.num_real]
    if (at := first(learned == 0)) is not None:
        yield f"document {at + 1} has no label: nothing of it is learned"


def position_problems(fields: Mapping[str, Array], layout: Layout) -> Iterator[str]:
    """position_ids: from 0 in every document; in documents without media one more with every token, on every axis."""
    positions: NDArray[np.int32] = fields["position_ids"].reshape(-1, len(layout.numbers))  # [axes, S]
    starts = positions[:, layout.starts]  # [axes, n]
    if (at := first(np.any(starts != 0, axis=0))) is not None:
        yield f"positions of document {at + 1} start at {starts[:, at].tolist()}, expected 0"
    if (at := first(np.any(positions < 0, axis=0))) is not None:
        yield f"the position of token {at} is {positions[:, at].tolist()}"
    has_media = np.logical_or.reduceat(fields["mm_token_type_ids"] != 0, layout.starts)
    counted = np.repeat(~has_media if len(positions) > 1 else np.ones_like(has_media), layout.lengths)
    within = np.arange(len(layout.numbers)) - np.repeat(layout.starts, layout.lengths)
    if (at := first(counted & np.any(positions != within, axis=0))) is not None:
        yield f"the position of token {at} is {positions[:, at].tolist()}, expected {within[at]} in its document"


def fake_problems(info: PackInfo, rules: PackRules) -> Iterator[str]:
    """A fake image stands in packs without pictures, or in documents without them, and only there; sounds are none."""
    has_media = any(medium.document and medium.kind != "audio" for medium in info.media)
    if rules.fake_image == "sample" and info.samples:
        yield from sample_fake_problems(info)
    elif any(medium.fake for medium in info.media):
        yield "a document has a fake image, though --fake-image sample was not asked for"
    elif info.fake is None:
        if rules.fake_image == "pack" and not has_media:
            yield "it holds neither media nor a fake image, though --fake-image pack was asked for"
    elif info.fake.kind != "pack":
        yield f"key.json has a fake image of the unknown kind {info.fake.kind!r}"
    elif has_media:
        yield f"it has a fake image beside {info.num_media('image')} images and {info.num_media('video')} videos"


def sample_fake_problems(info: PackInfo) -> Iterator[str]:
    """Documents of a set made with `--fake-image sample`: pictures of their own, or one fake image."""
    for document in range(1, len(info.samples) + 1):
        own = [medium for medium in info.media if medium.document == document and medium.kind != "audio"]
        fakes = sum(medium.fake for medium in own)
        if not own:
            yield f"document {document} has neither pictures nor a fake image, though --fake-image sample was asked for"
        elif fakes and len(own) > 1:
            yield f"document {document} has {fakes} fake images beside {len(own) - fakes} pictures"
    if (kind := info.fake and info.fake.kind) != ("sample" if any(medium.fake for medium in info.media) else None):
        yield f"key.json has a fake image of the kind {kind!r}, its documents do not bear it out"


def count_problems(info: PackInfo, fields: Mapping[str, Array], row: PackRecord) -> Iterator[str]:
    """Counts of the index that the tensors do not bear out."""
    found = {
        "num_tokens": len(fields["input_ids"]),
        "num_visual_tokens": num_visual_tokens(info, fields["mm_token_type_ids"]),
        "num_label_tokens": int((fields["labels"] != IGNORE_INDEX).sum()),
        "num_samples": len(info.samples),
        "num_images": info.num_media("image"),
        "num_videos": info.num_media("video"),
    }
    for name, count in found.items():
        if count != getattr(row, name):
            yield f"{name} is {getattr(row, name)} in the index, the pack has {count}"
    if not (np.isfinite(row.cost) and row.cost >= 0):
        yield f"cost is {row.cost} in the index"


def num_visual_tokens(info: PackInfo, types: Array) -> int:
    """Tokens typed as images or clips, less those that only frame them."""
    framing = sum(medium.num_framing for medium in info.media if medium.kind != "audio")
    return int(np.isin(types, (1, 2)).sum()) - framing


def first(wrong: NDArray[Any]) -> int | None:
    """The first place where something is wrong."""
    return int(wrong.argmax()) if wrong.any() else None
