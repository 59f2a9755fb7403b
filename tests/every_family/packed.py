"""Documents cut out of packs again, for every family alike: by key.json, not by what is known of a family."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.packset import SEQUENCE_FIELDS
from vlmprep.schema.pixels import PixelRule

__all__ = ["Document", "documents_of", "rows_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """One document of a pack."""

    row: int | None
    """Of the source; None for the fake image's."""
    sequence: dict[str, Tensor]
    stored: dict[str, Tensor]
    """Its media as the pack holds them."""
    rules: Mapping[str, PixelRule]
    """Of the pack set."""
    media_kinds: tuple[str, ...]

    @cached_property
    def media(self) -> dict[str, Tensor]:
        """What the model gets, restored as the reader does it."""
        return restore_all(self.stored, self.rules, torch.float32)


def documents_of(packs: Any) -> Iterator[Document]:
    """Every document of a pack set, the fake images' included."""
    for pack_id in range(len(packs)):
        fields, info = packs[pack_id], packs.info(pack_id)
        lengths = info.all_lengths
        at, rows = 0, dict.fromkeys(fields, 0)
        for number, length in enumerate(lengths, start=1):
            is_fake = number > len(info.samples)
            media = [medium for medium in info.media if medium.document == (0 if is_fake else number)]
            own: dict[str, Tensor] = {}
            for name in {name for medium in media for name in medium.rows}:
                size = sum(medium.rows.get(name, 0) for medium in media)
                own[name] = fields[name][rows[name] : rows[name] + size]
                rows[name] += size
            yield Document(
                row=None if is_fake else info.samples[number - 1].row,
                sequence={name: fields[name][..., at : at + length] for name in SEQUENCE_FIELDS},
                stored=own,
                rules=packs.manifest.pixels,
                media_kinds=tuple(medium.kind for medium in media),
            )
            at += length
        for name in fields.keys() - set(SEQUENCE_FIELDS):
            assert rows[name] == len(fields[name]), f"{name}: {len(fields[name])} rows, {rows[name]} owned"


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The corpus's rows."""
    return [json.loads(line) for line in path.read_text().splitlines()]
