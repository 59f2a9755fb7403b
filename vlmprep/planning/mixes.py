"""Synthetic mixes of samples by which planners are measured: lengths and visual tokens as data sets have them.

chat       text around 300 tokens, 0 to 8 images of 256 to 1,280 tokens
document   1 to 6 pages of 1,000 to 4,000 tokens, little text
tiles      charts and pages cut into 1, 3 or 5 tiles of 256 tokens, short text; the shares and lengths are those that
           DocVQA and ChartQA have under an InternVL tokenizer
video      clips of 2,000 to 24,000 tokens
text       no media
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIXES", "Mix"]

_TILE_TOKENS = 256
_TILE_KINDS = (
    # share of the samples, tiles, mean and deviation of the logarithm of the text's length
    (0.020, 1, 5.05, 0.13),
    (0.038, 3, 4.55, 0.56),
    (0.583, 5, 4.27, 0.58),
    (0.067, 3, 5.30, 0.71),
    (0.292, 5, 5.41, 0.72),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mix:
    """Samples to plan."""

    lengths: NDArray[np.int64]
    """[n] tokens."""
    visual_tokens: NDArray[np.int64]
    """[n] how many of them are visual."""
    pack_size: int
    """Tokens that a pack may hold."""


def _chat(num_samples: int, seed: int, *, pack_size: int, longest: int) -> Mix:
    random = np.random.default_rng(seed)
    parts: list[NDArray[np.int64]] = []
    while sum(len(part) for part in parts) < num_samples:
        text = _text_lengths(random, num_samples)
        images = random.choice([0, 1, 2, 4, 8], num_samples, p=[0.25, 0.60, 0.08, 0.05, 0.02])
        visual = _sum_of_first(random.integers(256, 1281, (num_samples, 8)), images)
        drawn = np.stack([text + visual, visual], axis=1)
        parts.append(drawn[drawn[:, 0] <= longest])
    lengths, visual = np.concatenate(parts)[:num_samples].T
    return Mix(lengths=np.ascontiguousarray(lengths), visual_tokens=np.ascontiguousarray(visual), pack_size=pack_size)


def _document(num_samples: int, seed: int) -> Mix:
    random = np.random.default_rng(seed)
    visual = _sum_of_first(random.integers(1000, 4001, (num_samples, 6)), random.integers(1, 7, num_samples))
    return Mix(lengths=visual + random.integers(50, 500, num_samples), visual_tokens=visual, pack_size=32768)


def _tiles(num_samples: int, seed: int, *, pack_size: int) -> Mix:
    random = np.random.default_rng(seed)
    shares, tiles, means, deviations = (np.array(column) for column in zip(*_TILE_KINDS, strict=True))
    kinds = random.choice(len(shares), num_samples, p=shares)
    text = np.clip(random.lognormal(means[kinds], deviations[kinds]), 33, 1258).astype(np.int64)
    visual = (tiles[kinds] * _TILE_TOKENS).astype(np.int64)
    return Mix(lengths=visual + text, visual_tokens=visual, pack_size=pack_size)


def _video(num_samples: int, seed: int) -> Mix:
    random = np.random.default_rng(seed)
    visual = random.integers(2000, 24001, num_samples)
    return Mix(lengths=visual + random.integers(30, 500, num_samples), visual_tokens=visual, pack_size=32768)


def _text(num_samples: int, seed: int) -> Mix:
    lengths = _text_lengths(np.random.default_rng(seed), num_samples)
    return Mix(lengths=lengths, visual_tokens=np.zeros(num_samples, np.int64), pack_size=8192)


def _text_lengths(random: np.random.Generator, num_samples: int) -> NDArray[np.int64]:
    return np.clip(random.lognormal(5.6, 0.9, num_samples), 16, 8000).astype(np.int64)


def _sum_of_first(numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] the sum of the first `counts[i]` numbers of every row."""
    summed: NDArray[np.int64] = np.where(np.arange(numbers.shape[1]) < counts[:, None], numbers, 0).sum(axis=1)
    return summed


MIXES: dict[str, Callable[[int, int], Mix]] = {
    "chat-8k": partial(_chat, pack_size=8192, longest=4096),
    "chat-16k": partial(_chat, pack_size=16384, longest=8192),
    "chat-8k-hard": partial(_chat, pack_size=8192, longest=8192),
    "document-32k": _document,
    "tiles-4k": partial(_tiles, pack_size=4096),
    "tiles-8k": partial(_tiles, pack_size=8192),
    "tiles-16k": partial(_tiles, pack_size=16384),
    "video-32k": _video,
    "text-8k": _text,
}
"""Mixes by name and pack size: functions of the number of samples and a seed. In `chat-8k-hard`, samples may be nearly as
long as a pack; in the other chats, no longer than half of one."""
