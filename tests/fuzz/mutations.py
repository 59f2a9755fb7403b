"""What is done to the bytes of a medium: flips, cuts, splices, lies in the header, bombs, other files' bytes and names."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.fuzz.bombs import BOMBS
from tests.fuzz.seeds import SEEDS, seed_bytes
from vlmprep.schema.conversation import MediaKind

__all__ = ["Mutant", "mutant"]

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
SIZES = (40, 60, 120, 90, 48, 64)
"""Sides of the seeds, which lies replace."""
HEADER_BYTES = 600
SUFFIXES = (".jpg", ".png", ".gif", ".webp", ".mp4", ".wav", ".txt", "")
NUMBER_FORMATS = ("<H", ">H", "<I", ">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A medium that was meddled with."""

    kind: MediaKind
    how: str
    """What was done, for the table."""
    seed: str
    """What it was done to."""
    suffix: str
    data: bytes


def flips(data: bytearray, rng: Random) -> bytearray:
    """A few bytes become others, anywhere."""
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data


def header_flips(data: bytearray, rng: Random) -> bytearray:
    """A few bytes become others, in front."""
    for _ in range(rng.choice((1, 2, 4, 8))):
        data[rng.randrange(min(len(data), HEADER_BYTES))] = rng.randrange(256)
    return data


def cut(data: bytearray, rng: Random) -> bytearray:
    """The end is missing."""
    return data[: rng.randrange(1, max(2, len(data)))]


def hole(data: bytearray, rng: Random) -> bytearray:
    """A piece in the middle is missing, or zero."""
    start = rng.randrange(len(data))
    size = rng.randrange(1, max(2, len(data) // 4))
    data[start : start + size] = bytes(min(size, len(data) - start)) if rng.random() < 0.5 else b""
    return data


def repeat(data: bytearray, rng: Random) -> bytearray:
    """A piece stands twice, or very often."""
    start = rng.randrange(len(data))
    piece = bytes(data[start : start + rng.randrange(1, 200)])
    data[start:start] = piece * rng.choice((1, 1, 2, 50, 2_000))
    return data


def number_lie(data: bytearray, rng: Random) -> bytearray:
    """A number in front becomes an extreme one."""
    form = rng.choice(NUMBER_FORMATS)
    at = rng.randrange(max(1, min(len(data), HEADER_BYTES) - 4))
    if at + struct.calcsize(form) <= len(data):
        struct.pack_into(form, data, at, rng.choice(EXTREMES) & (0xFFFF if form.endswith("H") else 0xFFFFFFFF))
    return data


def size_lie(data: bytearray, rng: Random) -> bytearray:
    """A side, wherever it stands in front, becomes another."""
    found = [
        (form, at)
        for form in NUMBER_FORMATS
        for side in SIZES
        if (at := data.find(struct.pack(form, side), 0, HEADER_BYTES)) >= 0
    ]
    if not found:
        return number_lie(data, rng)
    form, at = rng.choice(found)
    most = 0xFFFF if form.endswith("H") else 0xFFFFFFFF
    struct.pack_into(form, data, at, rng.choice((*EXTREMES, *SIZES, 39, 41, 61, 1_000, 3_000)) & most)
    return data


METHODS: dict[str, Callable[[bytearray, Random], bytearray]] = {
    "byte flips": flips,
    "flips in the header": header_flips,
    "cut": cut,
    "hole": hole,
    "repeated piece": repeat,
    "extreme number": number_lie,
    "lying size": size_lie,
}
OTHERS = ("spliced", "other kind", "bomb", "text", "wrong extension")
FIRST = b"\x89PNG\r\n\x1a\n"


def with_right_checksums(data: bytearray) -> bytearray:
    """A PNG whose chunks are believed, whatever is in them."""
    at = len(FIRST)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        end = at + 8 + size
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def mutant(kind: MediaKind, rng: Random) -> Mutant:
    """One medium, broken in one way or another; some stay whole."""
    how = rng.choices([*METHODS, *OTHERS], [6] * len(METHODS) + [3, 2, 1, 0.5, 2])[0]
    seed = rng.choice(list(SEEDS[kind]))
    suffix = rng.choice(SUFFIXES)
    data = bytearray(seed_bytes(kind, seed))
    if how in METHODS:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = METHODS[how](data, rng) or data
        if data.startswith(FIRST) and rng.random() < 0.6:
            data = with_right_checksums(data)
    elif how == "spliced":
        other = seed_bytes(kind, rng.choice(list(SEEDS[kind])))
        data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    elif how == "other kind":
        of: MediaKind = rng.choice([name for name in SEEDS if name != kind])
        seed = rng.choice(list(SEEDS[of]))
        data = bytearray(seed_bytes(of, seed))
    elif how == "bomb":
        seed = rng.choice(list(BOMBS[kind]))
        data = bytearray(BOMBS[kind][seed]())
    elif how == "text":
        data = bytearray(rng.randbytes(rng.randrange(400)) if rng.random() < 0.5 else b"not a file of this kind\n" * 9)
    return Mutant(kind=kind, how=how, seed=seed, suffix=suffix, data=bytes(data))
