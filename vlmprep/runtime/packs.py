"""What a Loader asks of packs: a pack set answers it, and so do packs that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from vlmprep.schema.pixels import PixelRule
from vlmprep.shardformat.index import PackIndex

__all__ = ["PackFacts", "Packs"]


class PackFacts(Protocol):
    """What the packs have in common."""

    @property
    def family(self) -> str:
        """Name of the model family whose processor made them."""
        ...

    @property
    def pixels(self) -> dict[str, PixelRule]:
        """By field: how stored levels become the processor's numbers."""
        ...

    @property
    def pad_token_id(self) -> int:
        """What fills a batch behind the shorter packs."""
        ...

    @property
    def pack_size(self) -> int:
        """Tokens that a pack holds at most, after the shift."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What they were made with; `document_alignment` is read."""
        ...

    @property
    def digest(self) -> str:
        """Identity of the packs; a Loader's state belongs to it."""
        ...


class Packs(Protocol):
    """Packs by number, in the stored form."""

    @property
    def manifest(self) -> PackFacts:
        """What they have in common."""
        ...

    @property
    def index(self) -> PackIndex:
        """Counts of each."""
        ...

    @property
    def remote(self) -> bool:
        """Whether reading waits for a network, so that reading ahead is worth while."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, pack_id: int, /) -> dict[str, Tensor]:
        """A pack's tensors by field."""
        ...

    def read_ahead(self, pack_ids: Sequence[int], /) -> None:
        """Packs that will be asked for soon."""
        ...
