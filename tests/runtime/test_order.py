from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmprep.runtime.order import Tail, check_tail, epoch_order, num_repeats, num_steps, step_places

PACKS = st.integers(1, 40)
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


@pytest.mark.parametrize(("tail", "message"), [("carry", "not offered yet"), ("wrap", "drop, pad")])
def test_other_policies_are_refused(tail: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tail(tail)
