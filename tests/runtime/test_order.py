from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vlmprep.runtime.listing import Part, list_epoch
from vlmprep.runtime.order import (
    Stretch,
    Tail,
    check_group_by,
    check_tail,
    consume,
    grouped_places,
    num_consumed,
    num_repeats,
    num_steps,
    step_places,
)
from vlmprep.schema.blocks import Integers

PACKS = st.integers(1, 40)


def epoch_order(num_packs: int, *, seed: int, epoch: int, shuffle: bool) -> Integers:
    """Every pack once, as an epoch lists them."""
    return list_epoch([Part(num_packs=num_packs, per_epoch=num_packs)], seed=seed, epoch=epoch, shuffle=shuffle).packs


def grouped_order(
    costs: NDArray[np.float64], *, seed: int, epoch: int, stretches: Sequence[Stretch], global_batch: int
) -> Integers:
    """Every pack once, as an epoch consumes them."""
    listed = epoch_order(len(costs), seed=seed, epoch=epoch, shuffle=True)
    return listed[grouped_places(costs[listed], seed, epoch, stretches=stretches, global_batch=global_batch)]


GLOBAL_BATCH = st.integers(1, 12)


def epoch_of(
    num_packs: int, consumed: int, global_batch: int, tail: Tail, seed: int = 0
) -> tuple[list[int], list[bool]]:
    """Pack ids and repetitions of every step that is left."""
    order = epoch_order(num_packs, seed=seed, epoch=3, shuffle=True)
    steps = num_steps(num_packs, consumed=consumed, global_batch=global_batch, tail=tail)
    places = [step_places(order, consumed=consumed, step=step, global_batch=global_batch) for step in range(steps)]
    return [int(k) for p in places for k in p.pack_ids], [bool(r) for p in places for r in p.repeated]


@given(PACKS, GLOBAL_BATCH)
def test_drop_takes_every_pack_once_but_those_of_an_incomplete_step(num_packs: int, global_batch: int) -> None:
    ids, repeated = epoch_of(num_packs, 0, global_batch, "drop")
    assert len(ids) == num_packs - num_packs % global_batch
    assert ids == epoch_order(num_packs, seed=0, epoch=3, shuffle=True)[: len(ids)].tolist()
    assert not any(repeated)


@given(PACKS, GLOBAL_BATCH)
def test_pad_takes_every_pack_once_and_marks_what_it_repeats(num_packs: int, global_batch: int) -> None:
    ids, repeated = epoch_of(num_packs, 0, global_batch, "pad")
    assert len(ids) % global_batch == 0
    assert sorted(k for k, again in zip(ids, repeated, strict=True) if not again) == list(range(num_packs))
    assert repeated == [False] * num_packs + [True] * (len(ids) - num_packs)
    assert sum(repeated) == num_repeats(num_packs, consumed=0, global_batch=global_batch, tail="pad") < global_batch


@given(PACKS, st.integers(0, 45), GLOBAL_BATCH, st.sampled_from(["drop", "pad"]))
def test_the_rest_of_an_epoch_is_what_was_not_consumed(num_packs: int, consumed: int, batch: int, tail: Tail) -> None:
    ids, repeated = epoch_of(num_packs, consumed, batch, tail)
    rest = epoch_order(num_packs, seed=0, epoch=3, shuffle=True)[consumed:].tolist()
    real = [k for k, again in zip(ids, repeated, strict=True) if not again]
    assert real == (rest if tail == "pad" else rest[: len(rest) // batch * batch])
    assert sum(repeated) == num_repeats(num_packs, consumed=consumed, global_batch=batch, tail=tail)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(epoch_order(50, seed=seed, epoch=epoch, shuffle=True).tolist()) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_the_order_has_not_changed() -> None:
    assert epoch_order(10, seed=0, epoch=0, shuffle=True).tolist() == [0, 7, 8, 2, 5, 9, 4, 6, 3, 1]
    np.testing.assert_array_equal(epoch_order(10, seed=5, epoch=9, shuffle=False), np.arange(10))


@pytest.mark.parametrize(("tail", "message"), [("wrap", "drop, pad, carry"), ("", "drop, pad, carry")])
def test_other_policies_are_refused(tail: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tail(tail)


def test_another_grouping_is_refused() -> None:
    with pytest.raises(ValueError, match="group_by must be one of cost, none, got 'vt'"):
        check_group_by("vt")


COSTS = st.lists(st.integers(0, 50), min_size=1, max_size=60).map(lambda costs: np.array(costs, np.float64))
RUNS = st.lists(st.tuples(GLOBAL_BATCH, st.integers(0, 4)), max_size=4)
"""(global batch, steps) of every run of an epoch that was stopped."""


def run(costs: NDArray[np.float64], runs: list[tuple[int, int]], epoch: int = 2) -> tuple[list[int], list[Stretch]]:
    """The packs that the runs took one after the other, each knowing only the stretches before it."""
    stretches: tuple[Stretch, ...] = ()
    taken: list[int] = []
    for global_batch, steps in runs:
        before = num_consumed(stretches)
        order = grouped_order(costs, seed=1, epoch=epoch, stretches=stretches, global_batch=global_batch)
        assert sorted(order.tolist()) == list(range(len(costs)))
        assert order[:before].tolist() == taken
        now = min(steps * global_batch, len(costs) - before)
        taken += order[before : before + now].tolist()
        stretches = consume(stretches, now, global_batch=global_batch)
    assert num_consumed(stretches) == len(taken)
    return taken, list(stretches)


@given(COSTS, RUNS, GLOBAL_BATCH)
def test_runs_with_any_global_batches_take_every_pack_once(costs: NDArray[np.float64], runs: Any, last: int) -> None:
    taken, _ = run(costs, [*runs, (last, len(costs))])
    assert sorted(taken) == list(range(len(costs)))


@given(COSTS, GLOBAL_BATCH, st.integers(1, 5))
def test_stops_with_the_same_global_batch_change_nothing(costs: NDArray[np.float64], batch: int, stops: int) -> None:
    whole, _ = run(costs, [(batch, len(costs))])
    parts, stretches = run(costs, [(batch, 1)] * stops + [(batch, len(costs))])
    assert parts == whole
    assert stretches == [Stretch(global_batch=batch, consumed_packs=len(costs))]


@given(COSTS, RUNS, RUNS)
def test_what_was_consumed_does_not_depend_on_what_follows(costs: NDArray[np.float64], runs: Any, more: Any) -> None:
    first, _ = run(costs, runs)
    both, _ = run(costs, [*runs, *more])
    assert both[: len(first)] == first


def test_the_rest_of_an_epoch_is_grouped_anew() -> None:
    costs = np.repeat([10.0, 20.0, 30.0, 40.0], 24)
    stretches = (Stretch(global_batch=8, consumed_packs=40),)
    order = grouped_order(costs, seed=0, epoch=0, stretches=stretches, global_batch=4)
    taken, rest = costs[order[:40]].reshape(5, 8), costs[order[40:]].reshape(14, 4)
    assert (np.ptp(taken, axis=1) == 0).all()
    assert (np.ptp(rest, axis=1) == 0).all()
    assert (np.diff(rest.mean(axis=1)) < 0).any()
    assert (np.diff(rest.mean(axis=1)) > 0).any()


def test_packs_of_equal_cost_keep_the_order_of_the_shuffle() -> None:
    plain = epoch_order(50, seed=4, epoch=1, shuffle=True)
    stretches = (Stretch(global_batch=8, consumed_packs=16), Stretch(global_batch=3, consumed_packs=6))
    grouped = grouped_order(np.full(50, 7.5), seed=4, epoch=1, stretches=stretches, global_batch=5)
    np.testing.assert_array_equal(grouped, plain)


def test_stretches_say_how_an_epoch_was_run() -> None:
    stretches: tuple[Stretch, ...] = ()
    for num_packs, batch in [(0, 8), (8, 8), (8, 8), (0, 4), (6, 3), (8, 8)]:
        stretches = consume(stretches, num_packs, global_batch=batch)
    assert [(each.global_batch, each.consumed_packs) for each in stretches] == [(8, 16), (3, 6), (8, 8)]
