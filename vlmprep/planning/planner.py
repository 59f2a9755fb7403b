"""The planner's front door: from token counts to a plan."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmprep.planning.best_fit import best_fit_decreasing
from vlmprep.planning.compiled import FEW_SAMPLES
from vlmprep.planning.equal import equal_packs
from vlmprep.planning.media import spread_media
from vlmprep.planning.plan import PackPlan
from vlmprep.planning.problem import PackBounds, PackingProblem, as_integers, make_problem
from vlmprep.schema.keyed_order import keyed_order

__all__ = ["Balance", "compile_ahead", "plan_packs"]

Balance: TypeAlias = Literal["none", "vt", "compute"]


def plan_packs(
    lengths: ArrayLike,
    visual_tokens: ArrayLike,
    *,
    pack_size: int,
    balance: Balance = "vt",
    seed: int = 0,
    costs: ArrayLike | None = None,
    images: ArrayLike | None = None,
    fake_tokens: int = 0,
    max_visual_tokens: int | None = None,
    max_images: int | None = None,
    max_cost: float | None = None,
    fill_weight: float = 0.6,
) -> PackPlan:
    """Lay samples into full packs of equal work.

    The same samples, settings and seed give the same plan, byte for byte, on any machine.

    Args:
        lengths: [n] integers, tokens that each sample takes in a pack (after the shift), each 1..pack_size.
        visual_tokens: [n] integers, how many of them the vision encoder fills.
        pack_size: Tokens that a pack may hold.
        balance: What is made equal: visual tokens (`vt`), the costs (`compute`), or `none`, the fewest packs.
        seed: Of the order of the packs, and of every choice between equals.
        costs: [n] floats, predicted work of each sample in any unit; `compute` and `max_cost` need them.
        images: [n] integers, images of each sample; `max_images` needs them.
        fake_tokens: Tokens of the fake image that a pack without visual tokens gets; such packs keep room for it.
        max_visual_tokens: Visual tokens that a pack may hold.
        max_images: Images that a pack may hold.
        max_cost: Cost that a pack may hold.
        fill_weight: 0 to 1, how much a step's time depends on the places of a pack, filled or not, rather than on the work
            to balance: nearer to 1, packs are fuller and less equal.

    Raises:
        ValueError: A sample fits into no pack (the first one is named), or arrays and settings do not fit together.
    """
    if balance not in ("none", "vt", "compute"):
        raise ValueError(f"balance must be none, vt or compute, got {balance!r}")
    if not 0 <= fill_weight <= 1:
        raise ValueError(f"fill_weight must be from 0 to 1, got {fill_weight}")
    if balance == "compute" and costs is None:
        raise ValueError("balance='compute' needs the cost of every sample: costs is None")
    bounds = PackBounds(
        pack_size=pack_size, max_visual_tokens=max_visual_tokens, max_images=max_images, max_cost=max_cost
    )
    known_costs = None if costs is None else _checked_costs(costs, num_samples=len(np.asarray(lengths)))
    problem = make_problem(lengths, visual_tokens, bounds, fake_tokens=fake_tokens, images=images, costs=known_costs)
    pack_of = _packs(problem, balance, known_costs, fill_weight, seed)
    return _as_plan(problem, spread_media(problem, pack_of), known_costs, seed)


def compile_ahead() -> None:
    """Compile the inner loops, so that the first plan of an installation does not wait for it; later processes load them."""
    number = np.arange(FEW_SAMPLES + 1)
    lengths, is_media = 1 + number % 100, number % 9 == 0
    balances: tuple[Balance, ...] = ("none", "vt")
    for balance in balances:
        plan_packs(lengths, lengths * is_media, pack_size=128, balance=balance, images=is_media * 1, max_images=4)


def _packs(
    problem: PackingProblem, balance: Balance, costs: NDArray[np.float64] | None, fill_weight: float, seed: int
) -> NDArray[np.int32]:
    """[n] the pack of every sample; where there is no work to balance, the fewest packs."""
    work = problem.visual_tokens.astype(np.int64) if balance == "vt" or costs is None else as_integers(costs)
    if balance == "none" or not work.any():
        return best_fit_decreasing(problem)
    return equal_packs(problem, work, fill_weight, seed)


def _checked_costs(costs: ArrayLike, *, num_samples: int) -> NDArray[np.float64]:
    array = np.asarray(costs, np.float64)
    if array.shape != (num_samples,):
        raise ValueError(f"costs must have one entry per sample ({num_samples}), got shape {array.shape}")
    offends = ~(np.isfinite(array) & (array >= 0))
    if offends.any():
        first = int(offends.argmax())
        raise ValueError(f"costs[{first}] is {array[first]}, expected a finite number of at least 0")
    return array


def _as_plan(
    problem: PackingProblem, pack_of: NDArray[np.int32], costs: NDArray[np.float64] | None, seed: int
) -> PackPlan:
    """Shuffle the packs and lay their samples out flat.

    Args:
        problem: The samples.
        pack_of: [n] the pack of every sample, before the shuffle.
        costs: [n], or None for the visual tokens.
        seed: Of the shuffle.
    """
    num_packs = int(pack_of.max(initial=-1)) + 1
    place = np.empty(num_packs, np.int32)
    place[keyed_order(num_packs, seed)] = np.arange(num_packs, dtype=np.int32)
    pack_of = place[pack_of]

    def total(work: NDArray[np.int32] | NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(pack_of, weights=work, minlength=num_packs).astype(np.float64, copy=False)

    offsets = np.zeros(num_packs + 1, np.int64)
    np.cumsum(np.bincount(pack_of, minlength=num_packs), out=offsets[1:])
    visual_tokens = total(problem.visual_tokens).astype(np.int64)
    return PackPlan(
        pack_size=problem.pack_size,
        samples=np.argsort(pack_of, kind="stable").astype(np.int64, copy=False),
        offsets=offsets,
        pack_tokens=total(problem.lengths).astype(np.int64),
        pack_visual_tokens=visual_tokens,
        pack_costs=total(problem.visual_tokens if costs is None else costs),
        needs_fake=visual_tokens == 0,
    )
