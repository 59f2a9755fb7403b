"""What is to be packed: checked arrays and the bounds that every pack keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["PackBounds", "PackingProblem", "as_integers", "make_problem"]

_GREATEST_LIMIT = 1 << 30
_COST_BITS = 31
_MAX_COST_BITS = 24
"""`max_cost` is kept in steps of less than a millionth of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackBounds:
    """What no pack may exceed, beside nothing at all where None."""

    pack_size: int
    """Tokens."""
    max_visual_tokens: int | None = None
    """Visual tokens of the samples."""
    max_images: int | None = None
    """Images of the samples."""
    max_cost: float | None = None
    """Predicted work, in the unit of the costs given."""

    def __post_init__(self) -> None:
        if not 1 <= self.pack_size <= 1 << 24:
            raise ValueError(f"pack_size must be from 1 to 2**24, got {self.pack_size}")
        for name in ("max_visual_tokens", "max_images", "max_cost"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackingProblem:
    """A vector bin packing problem in integers: tokens first, then one more resource for every further bound."""

    pack_size: int
    """Tokens that a pack may hold."""
    fake_tokens: int
    """Tokens that a pack without visual tokens gives to its fake image."""
    lengths: NDArray[np.int32]
    """[n] tokens."""
    visual_tokens: NDArray[np.int32]
    """[n] visual tokens; a sample is a media sample where this is not 0."""
    demands: NDArray[np.int64]
    """[n, num_limits] what each sample takes of each further bound."""
    limits: NDArray[np.int64]
    """[num_limits] what a pack may hold of each."""

    @property
    def num_samples(self) -> int:
        """Samples to pack."""
        return len(self.lengths)

    @property
    def common_capacity(self) -> int:
        """Tokens that any pack may hold: room for a fake image is kept in all packs where media are too few for them."""
        total = int(self.lengths.sum(dtype=np.int64))
        scarce = int(np.count_nonzero(self.visual_tokens)) * self.pack_size < total
        return self.pack_size - (self.fake_tokens if scarce else 0)

    @property
    def fewest_packs(self) -> float:
        """No plan has fewer packs: every bound's total over the bound, and samples of which no two share a pack."""
        totals = [(int(self.lengths.sum(dtype=np.int64)), self.common_capacity)]
        totals += zip(self.demands.sum(axis=0).tolist(), self.limits.tolist(), strict=True)
        continuous = max(total / limit for total, limit in totals if limit)
        return max(continuous, float(np.count_nonzero(self.lengths > self.pack_size // 2)))

    def select(self, samples: NDArray[np.int64]) -> PackingProblem:
        """The same problem for some of the samples."""
        return replace(
            self,
            lengths=self.lengths[samples],
            visual_tokens=self.visual_tokens[samples],
            demands=self.demands[samples],
        )


def make_problem(
    lengths: ArrayLike,
    visual_tokens: ArrayLike,
    bounds: PackBounds,
    *,
    fake_tokens: int = 0,
    images: ArrayLike | None = None,
    costs: NDArray[np.float64] | None = None,
) -> PackingProblem:
    """Check the samples against the bounds and bring everything to integers.

    Args:
        lengths: [n] integers, tokens in the pack, each 1..pack_size.
        visual_tokens: [n] integers, at least 0.
        bounds: What no pack may exceed.
        fake_tokens: Tokens of a fake image.
        images: [n] integers, needed for `max_images`.
        costs: [n] float64, needed for `max_cost`.

    Raises:
        ValueError: A sample alone exceeds a bound (the first one is named), or arrays do not fit together.
    """
    tokens = _integers("lengths", lengths)
    visual = _integers("visual_tokens", visual_tokens, num_samples=len(tokens))
    _refuse("lengths", tokens, tokens < 1, "at least 1 token")
    _refuse("lengths", tokens, tokens > bounds.pack_size, f"at most pack_size = {bounds.pack_size} tokens")
    _refuse("visual_tokens", visual, visual < 0, "at least 0")
    if not 0 <= fake_tokens < bounds.pack_size:
        raise ValueError(f"fake_tokens must be from 0 to pack_size - 1 = {bounds.pack_size - 1}, got {fake_tokens}")
    longest_text = bounds.pack_size - fake_tokens
    crowded = (visual == 0) & (tokens > longest_text)
    _refuse("lengths", tokens, crowded, f"at most pack_size - fake_tokens = {longest_text} tokens without media")
    resources = _resources(visual, bounds, images, costs)
    demands = np.zeros((len(tokens), len(resources)), np.int64)
    for column, (demand, _) in enumerate(resources):
        demands[:, column] = demand
    return PackingProblem(
        pack_size=bounds.pack_size,
        fake_tokens=fake_tokens,
        lengths=tokens.astype(np.int32),
        visual_tokens=visual.astype(np.int32),
        demands=demands,
        limits=np.array([limit for _, limit in resources], np.int64),
    )


def as_integers(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Costs as integers, the greatest near 2**31, by a power of two: exact, so equal on every machine.

    Args:
        costs: [n] float64, finite and at least 0.

    Returns:
        [n] int64.
    """
    return np.rint(_scaled(costs, costs.max(initial=0.0), _COST_BITS)).astype(np.int64)


def _resources(
    visual_tokens: NDArray[Any],
    bounds: PackBounds,
    images: ArrayLike | None,
    costs: NDArray[np.float64] | None,
) -> list[tuple[NDArray[np.int64], int]]:
    """Every further bound as (what each sample takes, what a pack may hold)."""
    resources = []
    if bounds.max_visual_tokens is not None:
        limit = bounds.max_visual_tokens
        _refuse("visual_tokens", visual_tokens, visual_tokens > limit, f"at most max_visual_tokens = {limit}")
        resources.append((visual_tokens.astype(np.int64), min(limit, _GREATEST_LIMIT)))
    if bounds.max_images is not None:
        if images is None:
            raise ValueError("max_images needs the number of images of every sample: images is None")
        counts = _integers("images", images, num_samples=len(visual_tokens))
        _refuse("images", counts, counts < 0, "at least 0")
        _refuse("images", counts, counts > bounds.max_images, f"at most max_images = {bounds.max_images}")
        resources.append((counts.astype(np.int64), min(bounds.max_images, _GREATEST_LIMIT)))
    if bounds.max_cost is not None:
        if costs is None:
            raise ValueError("max_cost needs the cost of every sample: costs is None")
        _refuse("costs", costs, costs > bounds.max_cost, f"at most max_cost = {bounds.max_cost}")
        resources.append(_whole_costs(costs, bounds.max_cost))
    return resources


def _whole_costs(costs: NDArray[np.float64], max_cost: float) -> tuple[NDArray[np.int64], int]:
    """Costs rounded up and their bound rounded down, so that whole numbers within it prove the real ones to be."""
    limit = int(np.floor(_scaled(np.array([max_cost]), max_cost, _MAX_COST_BITS))[0])
    demand = np.ceil(_scaled(costs, max_cost, _MAX_COST_BITS)).astype(np.int64)
    return np.minimum(demand, limit), limit


def _scaled(values: NDArray[np.float64], greatest: float, bits: int) -> NDArray[np.float64]:
    """Values times the power of two that brings the greatest to 2**(bits - 1)..2**bits."""
    _, exponent = np.frexp(greatest)
    return np.ldexp(values, bits - int(exponent))


def _integers(name: str, values: ArrayLike, *, num_samples: int | None = None) -> NDArray[Any]:
    array = np.asarray(values)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a flat array of integers, got {array.dtype} of shape {array.shape}")
    if num_samples is not None and len(array) != num_samples:
        raise ValueError(f"{name} must have one entry per sample ({num_samples}), got {len(array)}")
    return array


def _refuse(name: str, values: NDArray[Any], offends: NDArray[np.bool_], expected: str) -> None:
    if offends.any():
        first = int(offends.argmax())
        more = int(np.count_nonzero(offends)) - 1
        others = f" (and {more} more samples)" if more else ""
        raise ValueError(f"{name}[{first}] is {values[first]}, expected {expected}{others}")
