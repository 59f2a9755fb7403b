"""Packs that are made when somebody asks for them: what `vlmprep pack` writes, field by field, without the shards.

    bins ── document of each sample ── policy for those that fail ── fake image ── fields of the pack

`LazyPacks` stands where a `vlmprep.PackSet` stands: `vlmprep.Loader` takes it, and resumes in it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vlmprep.automodel.documents import FAMILY_SETTINGS, ExampleDocuments
from vlmprep.automodel.failures import Failures, Policy
from vlmprep.families.fingerprint import fingerprint
from vlmprep.packing.document import Document
from vlmprep.packing.pack import Pack, assemble_pack
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.files import canonical_json
from vlmprep.schema.pixels import PixelRule
from vlmprep.shardformat.index import PackIndex
from vlmprep.shardformat.pack import in_order

__all__ = ["LazyManifest", "LazyPacks", "Positions"]

Positions: TypeAlias = Callable[[Document], NDArray[Any]]
"""Positions of a document, [S] or [axes, S]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyManifest:
    """What readers ask of a pack set as a whole."""

    family: str
    pixels: dict[str, PixelRule]
    """By field: how stored levels become the processor's numbers."""
    pad_token_id: int
    pack_size: int
    """Tokens that a pack holds at most, after the shift."""
    num_packs: int
    settings: dict[str, Any]
    """What they were made with."""
    digest: str
    """Identity of samples, packs, processor and settings; a Loader's state belongs to it."""


class LazyPacks(Dataset[dict[str, Tensor]]):
    """Packs by number, made from examples; cheap to pickle and to fork, where the data set is.

    Args:
        documents: Makes the documents.
        bins: Numbers of the examples of every pack.
        pack_size: Tokens that a pack holds at most, after the shift.
        policy: What becomes of samples that fail.
        failures: Where they are counted.
        max_retries: How many others are tried in place of one that fails.
        num_tokens: [examples] what was counted before the shift, with the fake image where one goes in; None: count when
            a pack is made.
        num_label_tokens: [examples] likewise, for the word about one that fails: what the index says of packs stays.
        positions: In place of the family's own.
        document_alignment: Every document takes a multiple of so many tokens of `pack_size`, which is one too.
    """

    def __init__(
        self,
        documents: ExampleDocuments,
        bins: Sequence[Sequence[int]],
        pack_size: int,
        *,
        policy: Policy,
        failures: Failures,
        max_retries: int = 10,
        num_tokens: NDArray[np.int64] | None = None,
        num_label_tokens: NDArray[np.int32] | None = None,
        positions: Positions | None = None,
        document_alignment: int = 1,
    ) -> None:
        self._documents, self._bins, self._pack_size = documents, bins, pack_size
        self._policy, self._failures, self._max_retries = policy, failures, max_retries
        self._num_tokens, self._num_label_tokens, self._positions = num_tokens, num_label_tokens, positions
        self._alignment = document_alignment
        self._manifest: LazyManifest | None = None
        self._index: PackIndex | None = None
        self._fake: Document | None = None

    def __len__(self) -> int:
        return len(self._bins)

    def __getitem__(self, pack_id: int) -> dict[str, Tensor]:
        """A pack's tensors by field, as `vlmprep.open(...)[pack_id]` gives those of the same samples and plan.

        Raises:
            IndexError: There is no such pack.
            RefuseSample: A sample of it fails, and nothing is to be done about that.
        """
        return self.tensors(self.pack(pack_id))

    def tensors(self, pack: Pack) -> dict[str, Tensor]:
        """The fields of a pack that was made."""
        rules = self.manifest.pixels
        return {name: _tensor(pack.fields[name], name in rules) for name in in_order(pack.fields)}

    remote = False
    """Nothing is gained from asking ahead."""

    def read_ahead(self, pack_ids: Sequence[int], /) -> None:
        """Make nothing ahead: a Loader's workers do that."""

    @property
    def manifest(self) -> LazyManifest:
        """What the packs have in common."""
        if self._manifest is None:
            self._manifest = self._make_manifest()
        return self._manifest

    @property
    def index(self) -> PackIndex:
        """Counts of every pack, as planned; made by the planner, or now, by making every pack once.

        Packs that a failing sample is left out of have fewer labels than it says.
        """
        if self._index is None:
            self._index = index_of([self._counts(self.pack(pack_id)) for pack_id in range(len(self))])
        return self._index

    def with_index(self, index: PackIndex, digest: str) -> LazyPacks:
        """The same packs with what a planner knows of them."""
        self._index = index
        self._manifest = self._make_manifest(digest)
        return self

    def pack(self, pack_id: int) -> Pack:
        """Make a pack."""
        if not 0 <= pack_id < len(self):
            raise IndexError(f"pack {pack_id} of {len(self)}")
        documents = list(self._made(pack_id))
        return assemble_pack(documents, self._fake_for(documents, pack_id))

    def _made(self, pack_id: int) -> Iterator[Document]:
        """The documents of a pack, each held against the room that is left."""
        taken = 0
        for sample in self._bins[pack_id]:
            room = self._pack_size - taken
            document: Document | None = None
            try:
                document = self._document(sample, room)
            except RefuseSample as refusal:
                if self._policy == "raise":
                    raise RefuseSample(refusal.code, f"pack {pack_id}, sample {sample}: {refusal.reason}") from refusal
                if self._policy == "substitute":
                    document = self._other(sample, refusal, room)
                else:
                    self._record(sample, refusal, f"pack {pack_id} goes without it")
            if document is not None:
                taken += self._places(document)
                yield document

    def _places(self, document: Document) -> int:
        """Tokens of its pack that a document takes."""
        return -(-len(document) // self._alignment) * self._alignment

    def _document(self, sample: int, room: int) -> Document:
        counted = None if self._num_tokens is None else int(self._num_tokens[sample])
        document = self._documents.document(sample, counted)
        if len(document) > room:
            raise RefuseSample("overlong", f"{len(document)} tokens after the shift, its pack has room for {room} more")
        if self._positions is None:
            return document
        return replace(document, position_ids=self._positions(document))

    def _other(self, sample: int, refusal: RefuseSample, room: int) -> Document:
        """Another sample's document, drawn at random, that is no longer than the one it stands for.

        Raises:
            RuntimeError: None of those that were drawn will do.
        """
        if self._num_tokens is not None:
            room = min(room, int(self._num_tokens[sample]) - 1)
        for _ in range(self._max_retries):
            other = random.randrange(len(self._documents.dataset))
            try:
                document = self._document(other, room)
            except RefuseSample:
                continue
            self._record(sample, refusal, f"sample {other} takes its place")
            return document
        raise RuntimeError(
            f"sample {sample} fails, and so do {self._max_retries} others drawn in its place; it failed with: {refusal}"
        ) from refusal

    def _record(self, sample: int, refusal: RefuseSample, what_now: str) -> None:
        if self._num_label_tokens is not None:
            count = self._num_label_tokens[sample]
            what_now += f"; num_label_tokens_in_step still counts its {count} label tokens, as every rank does"
        self._failures.record(sample, refusal, what_now)

    def _fake_for(self, documents: list[Document], pack_id: int) -> Document | None:
        """The fake image for a pack without pictures; also where all samples failed: a pack holds something."""
        pictures = any(medium.kind != "audio" for document in documents for medium in document.media)
        if documents and (pictures or self._documents.fake_image != "pack"):
            return None
        self._fake = self._fake or self._documents.fake_document()
        if sum(map(self._places, [*documents, self._fake])) > self._pack_size:
            raise RefuseSample("overlong", f"pack {pack_id} has no pictures and no room for the fake image")
        return self._fake

    def _counts(self, pack: Pack) -> dict[str, float]:
        own = [medium.kind for number, medium in pack.media if number and not medium.fake]
        return {
            "num_tokens": pack.num_tokens,
            "num_visual_tokens": pack.num_visual_tokens,
            "num_label_tokens": pack.num_label_tokens,
            "num_samples": len(pack.document_lengths),
            "num_images": own.count("image"),
            "num_videos": own.count("video"),
            "cost": float(pack.num_visual_tokens),
        }

    def _make_manifest(self, of_samples: str = "") -> LazyManifest:
        family = self._documents.family
        made = hashlib.sha256(canonical_json(fingerprint(family, FAMILY_SETTINGS)))
        aligned = [self._alignment] if self._alignment > 1 else []
        made.update(canonical_json([of_samples, self._documents.fake_image, self._pack_size, *aligned]))
        for numbers in self._bins:
            made.update(np.asarray(numbers, np.int64).tobytes() + b"|")
        return LazyManifest(
            family=family.name,
            pixels=family.pixel_rules(),
            pad_token_id=family.pad_token_id,
            pack_size=self._pack_size,
            num_packs=len(self),
            settings={"fake_image": self._documents.fake_image, "document_alignment": self._alignment},
            digest=made.hexdigest(),
        )


def index_of(packs: Sequence[dict[str, float]]) -> PackIndex:
    """The index of packs that lie nowhere."""
    nowhere = np.zeros(len(packs), np.int64)
    columns = {name: np.array([pack[name] for pack in packs]) for name in (packs[0] if packs else ())}
    return PackIndex(
        shard=nowhere.astype(np.int32),
        offset=nowhere,
        size=nowhere,
        xxh3=nowhere.astype(np.uint64),
        cost=columns.pop("cost").astype(np.float64),
        **{name: column.astype(np.int32) for name, column in columns.items()},
    )


def _tensor(values: NDArray[Any], has_rule: bool) -> Tensor:
    """As a pack set gives it: uint16 is bfloat16 in a media field, else int32."""
    if values.dtype != np.uint16:
        return torch.from_numpy(values)
    return torch.from_numpy(values).view(torch.bfloat16) if has_rule else torch.from_numpy(values.astype(np.int32))
