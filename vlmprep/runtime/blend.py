"""Several pack sets as one, each used as often as its weight says.

    weights 3, 1        of every four packs of an epoch, three are of the first set; an epoch is as long as the sets together
    repeats 2, 0.25     an epoch takes the first set twice, and a quarter of the second: another quarter each epoch

Which packs an epoch takes is a pure function of (sets, seed, epoch); over the epochs all packs of a set are used equally often.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from vlmprep.runtime.catalogue import Catalogue
from vlmprep.runtime.packs import Packs
from vlmprep.schema.pixels import PixelRule
from vlmprep.shardformat.index import PackIndex

__all__ = ["Blend", "BlendFacts", "blend", "catalogue_of"]

_SAME = ("tokenizer", "special_tokens")
"""What a processor's fingerprint must agree in, so that a token means the same in all sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendFacts:
    """What the sets of a blend have in common; see `vlmprep.runtime.packs.PackFacts`."""

    family: str
    pixels: dict[str, PixelRule]
    pad_token_id: int
    pack_size: int
    settings: Mapping[str, Any]
    digest: str


class Blend(Dataset[dict[str, Tensor]]):
    """Packs of several sets by number, one set after the other; made by `blend`.

    Args:
        sets: The pack sets.
        repeats: [sets] how often an epoch takes the packs of each.
    """

    def __init__(self, sets: Sequence[Packs], repeats: Sequence[float]) -> None:
        self.sets, self.repeats = tuple(sets), tuple(repeats)
        self._firsts = [0, *accumulate(len(packs) for packs in sets)]
        self.manifest = _facts(self.sets, self.repeats)

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, pack_id: int) -> dict[str, Tensor]:
        """A pack's tensors, as its own set gives them.

        Raises:
            IndexError: There is no such pack.
        """
        number, own = self.where(pack_id)
        return self.sets[number][own]

    def where(self, pack_id: int) -> tuple[int, int]:
        """Which set a pack is of, and its pack_id there.

        Raises:
            IndexError: There is no such pack.
        """
        if not 0 <= pack_id < len(self):
            raise IndexError(f"pack {pack_id} of {len(self)}")
        number = bisect_right(self._firsts, pack_id) - 1
        return number, pack_id - self._firsts[number]

    @property
    def index(self) -> PackIndex:
        """The columns of all sets; each of them copied, so loaders ask the sets."""
        names = [field.name for field in fields(PackIndex)]
        columns = {name: np.concatenate([getattr(packs.index, name) for packs in self.sets]) for name in names}
        return PackIndex(**columns)

    @property
    def remote(self) -> bool:
        """Whether reading from any of the sets waits for a network."""
        return any(packs.remote for packs in self.sets)

    def read_ahead(self, pack_ids: Sequence[int], /) -> None:
        """Packs that will be asked for soon."""
        found = [self.where(pack_id) for pack_id in pack_ids]
        for number, packs in enumerate(self.sets):
            if packs.remote and (own := [pack_id for owner, pack_id in found if owner == number]):
                packs.read_ahead(own)


def blend(
    sets: Sequence[Packs], weights: Sequence[float] | None = None, *, repeats: Sequence[float] | None = None
) -> Blend:
    """Blend pack sets of one model by weight.

    Args:
        sets: From `vlmprep.open`.
        weights: [sets] share of each in an epoch's packs, in any unit; an epoch is as long as the sets together.
        repeats: [sets] how often an epoch takes the packs of each, instead of weights; default: once.

    Raises:
        ValueError: The sets are not of one model, or weights are not positive or give some set no pack.
    """
    if not sets:
        raise ValueError("a blend needs at least one pack set")
    if any(isinstance(packs, Blend) for packs in sets):
        raise ValueError("a blend is made of pack sets, not of blends: give all sets at once, each with its weight")
    if weights is not None and repeats is not None:
        raise ValueError("give weights or repeats, not both")
    _check_one_model(sets)
    for name, given in (("weights", weights), ("repeats", repeats)):
        if given is not None and (len(given) != len(sets) or not all(0 < value < math.inf for value in given)):
            raise ValueError(f"{name} must be a positive number for each of the {len(sets)} sets, got {list(given)}")
    if weights is not None:
        packs = sum(len(each) for each in sets)
        repeats = [value / sum(weights) * packs / max(len(each), 1) for value, each in zip(weights, sets, strict=True)]
    made = Blend(sets, repeats or [1.0] * len(sets))
    for number, part in enumerate(catalogue_of(made, with_shards=False).parts):
        if not part.per_epoch:
            raise ValueError(
                f"set {number} has {part.num_packs} packs that train: with its weight, an epoch takes none"
            )
    return made


def catalogue_of(packs: Packs, *, with_shards: bool) -> Catalogue:
    """What an order must know of packs or of a blend."""
    if isinstance(packs, Blend):
        return Catalogue([each.index for each in packs.sets], packs.repeats, with_shards=with_shards)
    return Catalogue([packs.index], [1], with_shards=with_shards)


def _check_one_model(sets: Sequence[Packs]) -> None:
    first = _identity(sets[0])
    for number, packs in enumerate(sets):
        differing = [name for name, value in _identity(packs).items() if value != first[name]]
        if differing:
            raise ValueError(f"set {number} is of another model than set 0: {', '.join(differing)} differ")


def _identity(packs: Packs) -> dict[str, Any]:
    facts = packs.manifest
    made_by = getattr(facts, "fingerprint", {})
    same = {f"{name} of the processor": made_by.get(name) for name in _SAME}
    return {"family": facts.family, "pixels": facts.pixels, "pad_token_id": facts.pad_token_id, **same}


def _facts(sets: Sequence[Packs], repeats: Sequence[float]) -> BlendFacts:
    first = sets[0].manifest
    alignments = [int(packs.manifest.settings.get("document_alignment", 1)) for packs in sets]
    identity = [[packs.manifest.digest, repeat] for packs, repeat in zip(sets, repeats, strict=True)]
    return BlendFacts(
        family=first.family,
        pixels=first.pixels,
        pad_token_id=first.pad_token_id,
        pack_size=max(packs.manifest.pack_size for packs in sets),
        settings={"document_alignment": math.gcd(*alignments)},
        digest=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
    )
