"""key.json: what a pack says about itself.

{"document_lengths": [812, 3207], "fake": null,
 "media": [{"document": 1, "kind": "image", "num_tokens": 391, "rows": {"image_grid_thw": 1, "pixel_values": 1564},
            "shape": [480, 640]}],
 "members": {"input_ids": {"dtype": "int32", "npy_bytes": 16204, "shape": [4019], "transform": null}, ...},
 "pack_id": 17, "samples": [{"row": 5, "sample_id": "a5", "source": "chat"}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

__all__ = ["DecodedInfo", "FakeImage", "MediumInfo", "MemberInfo", "PackInfo", "SampleRef"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRef:
    """Where a document came from."""

    source: str
    row: int
    """0-based row number in the source."""
    sample_id: str
    num_cut_tokens: int = 0
    """Tokens at its end that were cut off, because it is longer than a pack; not in key.json where none were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeImage:
    """The white image that a pack without pictures holds, or every document without them, so that the vision encoder runs."""

    kind: str
    """`pack`: a last document of its own; `sample`: one inside every document that has no pictures."""
    length: int
    """Tokens that it takes; `pack`: of its document, after the shift; `sample`: in each of these documents, all hidden."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedInfo:
    """What the original files of a medium decode to, of one field."""

    rows: int
    """Entries along the first axis."""
    xxh3: str
    """64-bit XXH3 in hexadecimal: of NumPy's name of the type and the shape (`|u1[1564, 3, 14, 14]`), then of the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumInfo:
    """One medium of a pack, and which part of the pack's media fields is its own."""

    document: int
    """1..n; 0 is the fake image's."""
    kind: str
    """`image`, `video` or `audio`."""
    shape: tuple[int, ...]
    """Of the original: an image's (height, width), a clip's (frames, height, width), a sound's (samples, samples per second)."""
    num_tokens: int
    """Placeholders that it fills."""
    rows: Mapping[str, int]
    """By field: its entries along the first axis; they lie behind those of the media before it."""
    num_framing: int = 0
    """Tokens beside those that it fills that `mm_token_type_ids` counts as its own; not in key.json where there are none."""
    fake: bool = False
    """No medium of the sample's own but a fake image inside its document; not in key.json where it is the sample's."""
    files: tuple[int, ...] = ()
    """Bytes of each of its original files in `encoded`; a fake image has none; not in key.json where pixels are stored."""
    listed: bool = False
    """Whether these are the images of a clip that is a list of images; not in key.json where they are not."""
    decoded: Mapping[str, DecodedInfo] = field(default_factory=dict)
    """By field: what they decode to; not in key.json where pixels are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberInfo:
    """What a field's member decodes to."""

    dtype: str
    """NumPy name of the field's type, as `int32`."""
    shape: tuple[int, ...]
    """Shape of the field as readers get it; the .npy inside differs where `transform` says so."""
    transform: str | None
    """Reversible transform between the field and the .npy: `row_pairs`, `patch_rows`, or none."""
    npy_bytes: int
    """Size of the .npy, header included, before compression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackInfo:
    """Everything that a pack says about itself beside its tensors."""

    pack_id: int
    samples: tuple[SampleRef, ...]
    """One per document, in order."""
    document_lengths: tuple[int, ...]
    """Tokens of each document after the shift, in order; without a fake image's document."""
    fake: FakeImage | None = None
    media: tuple[MediumInfo, ...] = ()
    """In document order, the fake image last."""
    members: Mapping[str, MemberInfo] = field(default_factory=dict)
    """By field."""

    def __post_init__(self) -> None:
        if len(self.samples) != len(self.document_lengths):
            raise ValueError(f"{len(self.samples)} samples but {len(self.document_lengths)} document lengths")

    @property
    def all_lengths(self) -> list[int]:
        """Tokens of every document, a fake image's own last."""
        own = [self.fake.length] if self.fake is not None and self.fake.kind != "sample" else []
        return [*self.document_lengths, *own]

    def num_media(self, kind: str) -> int:
        """How many media of one kind the samples have."""
        return sum(medium.kind == kind and medium.document > 0 and not medium.fake for medium in self.media)

    def as_read(self, encoded: str) -> PackInfo:
        """The same for the tensors that readers get: what media decode to in the place of their files.

        Args:
            encoded: Name of the field that holds these.
        """
        return replace(self, media=tuple(_as_read(medium, encoded) for medium in self.media))

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return json.dumps(_plain(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> PackInfo:
        """Read key.json back.

        Raises:
            ValueError: The bytes are no key.json.
        """
        try:
            value = json.loads(bytes(data))
            return cls(
                pack_id=int(value["pack_id"]),
                samples=tuple(SampleRef(**sample) for sample in value["samples"]),
                document_lengths=tuple(map(int, value["document_lengths"])),
                fake=None if value["fake"] is None else FakeImage(**value["fake"]),
                media=tuple(map(_medium, value["media"])),
                members={name: _member(member) for name, member in value["members"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"key.json not understood: {type(error).__name__}: {error}") from error


def _plain(info: PackInfo) -> dict[str, Any]:
    return {
        "pack_id": info.pack_id,
        "samples": [_without_defaults(sample, "num_cut_tokens") for sample in info.samples],
        "document_lengths": info.document_lengths,
        "fake": None if info.fake is None else _shallow(info.fake),
        "media": [_plain_medium(medium) for medium in info.media],
        "members": {name: _shallow(member) for name, member in info.members.items()},
    }


def _plain_medium(medium: MediumInfo) -> dict[str, Any]:
    plain = _without_defaults(medium, "num_framing", "fake", "files", "listed", "decoded")
    if medium.decoded:
        plain["decoded"] = {name: _shallow(entry) for name, entry in medium.decoded.items()}
    return plain


def _as_read(medium: MediumInfo, encoded: str) -> MediumInfo:
    rows = {name: rows for name, rows in medium.rows.items() if name != encoded}
    return replace(medium, rows=rows | {name: entry.rows for name, entry in medium.decoded.items()})


def _shallow(value: DecodedInfo | SampleRef | FakeImage | MediumInfo | MemberInfo) -> dict[str, Any]:
    """A flat dataclass as a dictionary; dataclasses.asdict would copy every value deeply."""
    return {entry.name: getattr(value, entry.name) for entry in fields(value)}


def _without_defaults(value: SampleRef | MediumInfo, *additions: str) -> dict[str, Any]:
    """The same without fields that say nothing."""
    return {name: entry for name, entry in _shallow(value).items() if entry or name not in additions}


def _medium(value: dict[str, Any]) -> MediumInfo:
    nested: dict[str, Any] = {
        "shape": tuple(map(int, value["shape"])),
        "rows": {str(name): int(number) for name, number in value["rows"].items()},
        "files": tuple(map(int, value.get("files", ()))),
        "decoded": {str(name): DecodedInfo(**entry) for name, entry in value.get("decoded", {}).items()},
    }
    return MediumInfo(**{**value, **nested})


def _member(value: dict[str, Any]) -> MemberInfo:
    transform = value["transform"]
    typed: dict[str, Any] = {
        "shape": tuple(map(int, value["shape"])),
        "transform": None if transform is None else str(transform),
        "npy_bytes": int(value["npy_bytes"]),
    }
    return MemberInfo(**{**value, **typed})
