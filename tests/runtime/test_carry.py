"""The rest of an epoch opens the next one: nothing is left out, nothing repeated, whatever the run was interrupted by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import vlmprep
from tests.packsets import text_pack, write_pack_set
from vlmprep.runtime import Loader, PackSet
from vlmprep.runtime.catalogue import Catalogue
from vlmprep.runtime.epochs import Epochs
from vlmprep.runtime.place import Place
from vlmprep.schema.keyed_order import keyed_order
from vlmprep.schema.step_order import step_order
from vlmprep.shardformat.index import PackIndex

NUM_PACKS = 43
COSTS = np.random.default_rng(0).permutation(np.repeat([900.0, 1000.0, 1500.0], [20, 15, 8]))


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackSet:
    written = [replace(text_pack(k), cost=float(cost)) for k, cost in enumerate(COSTS)]
    return vlmprep.open(write_pack_set(tmp_path_factory.mktemp("packs") / "set", written, packs_per_shard=6))


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """The runs below ask again at every step for the order of an epoch: a pure function, worked out once."""
    known: dict[Any, NDArray[Any]] = {}

    def order_of(work: NDArray[Any], *key: int, global_batch: int) -> NDArray[Any]:
        asked = (work.tobytes(), key, global_batch)
        if asked not in known:
            known[asked] = step_order(work, *key, global_batch=global_batch)
        return known[asked].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlmprep.runtime.order.step_order", order_of)
        yield


def loaders(packs: PackSet, ranks: int, global_batch: int, workers: int = 0, **options: Any) -> list[Loader]:
    shared: dict[str, Any] = {"packs_per_rank": global_batch // ranks, "num_workers": workers, "seed": 7, **options}
    return [Loader(packs, dp_rank=rank, dp_world_size=ranks, tail="carry", **shared) for rank in range(ranks)]


def steps(group: list[Loader], count: int | None = None) -> list[list[int]]:
    """The packs of the next steps of an epoch by their content, of all ranks side by side."""
    found = []
    for batches in islice(zip(*group, strict=True), count):
        assert not any(again for batch in batches for again in batch.repeated)
        found.append([int(k) for batch in batches for k in batch["input_ids"][:, 0]])
    return found


def epochs_of(group: list[Loader], count: int) -> list[list[list[int]]]:
    return [steps(group) for _ in range(count)]


def test_steps_run_through_the_ends_of_epochs(packs: PackSet) -> None:
    epochs = epochs_of(loaders(packs, 2, 8, group_by="none"), 8)
    plain = [k for epoch in range(8) for k in keyed_order(NUM_PACKS, 7, epoch).tolist()]
    assert [*chain(*chain(*epochs))] == plain  # 8 x 43 divides by 8
    assert [len(epoch) for epoch in epochs] == [5, 5, 6, 5, 5, 6, 5, 6]


@pytest.mark.parametrize("group_by", ["cost", "none"])
def test_an_epoch_is_the_same_whether_run_to_or_set(packs: PackSet, group_by: Any) -> None:
    group = loaders(packs, 1, 8, group_by=group_by)
    for epoch, expected in enumerate(epochs_of(group, 5)):
        [fresh] = loaders(packs, 1, 8, group_by=group_by)
        fresh.set_epoch(epoch)
        assert len(fresh) == len(expected) > 4
        assert steps([fresh]) == expected


def test_what_an_epoch_leaves_opens_the_next_one_and_is_grouped_with_it(packs: PackSet) -> None:
    first, second = epochs_of(loaders(packs, 1, 8), 2)
    left = set(range(NUM_PACKS)) - set(chain(*first))
    assert len(left) == 3
    assert Counter(chain(*second)).keys() >= left
    assert sum(np.ptp(COSTS[step]) > 0 for step in first + second) <= 6


@pytest.mark.parametrize("stop", [0, 3, 5, 11])
@pytest.mark.parametrize(("before", "after"), [((2, 0), (1, 2)), ((4, 0), (8, 1)), ((1, 2), (4, 0))])
def test_a_restart_goes_on_exactly(packs: PackSet, before: tuple[int, int], after: tuple[int, int], stop: int) -> None:
    expected = [*chain(*epochs_of(loaders(packs, 1, 8), 3))]
    assert len(expected) == 16
    group = loaders(packs, before[0], 8, before[1])
    taken: list[list[int]] = []
    while len(taken) < stop:
        taken += steps(group, stop - len(taken))
    states = {json.dumps(loader.state_dict()) for loader in group}
    [state] = states
    restarted = loaders(packs, after[0], 8, after[1])
    for loader in restarted:
        loader.load_state_dict(json.loads(state))
    while len(taken) < 16:
        taken += steps(restarted, 16 - len(taken))
    assert taken == expected


def test_a_state_after_the_last_step_carries_too(packs: PackSet) -> None:
    group = loaders(packs, 1, 8)
    for _ in group[0]:
        state = group[0].state_dict()
    [restarted] = loaders(packs, 1, 8)
    restarted.load_state_dict(state)
    assert steps([restarted]) == []
    assert steps([restarted]) == epochs_of(loaders(packs, 1, 8), 2)[1]


RUNS = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=8)
"""(global batch, steps) of every run; a run goes through the ends of epochs."""


def index_of(costs: NDArray[np.float64]) -> PackIndex:
    """An index whose packs stand in shards of four."""
    columns = {name: np.ones(len(costs), np.int64) for name in PackIndex.__dataclass_fields__}
    return PackIndex(**{**columns, "cost": costs, "shard": np.arange(len(costs)) // 4})  # type: ignore[arg-type]


def epochs(costs: NDArray[np.float64], **options: Any) -> Epochs:
    shards = options.get("shuffle_shards")
    given = {"seed": 3, "shuffle": True, "shuffle_shards": None, "group_by": "cost", "tail": "carry", **options}
    return Epochs(catalogue=Catalogue([index_of(costs)], [1], with_shards=shards is not None), **given)


def run(order: Epochs, place: Place, global_batch: int, num_steps: int) -> tuple[list[int], Place]:
    """The packs of the next steps, every step taken from a place that was written down and read back."""
    taken: list[int] = []
    while num_steps:
        place = Place.from_json(json.loads(json.dumps(place.to_json())))
        if not order.num_steps(place, global_batch=global_batch):
            place = order.next_epoch(place)
            continue
        ids = order.pack_ids(place, global_batch=global_batch)
        taken += ids[place.consumed : place.consumed + global_batch].tolist()
        place = order.after(place, 1, global_batch=global_batch)
        num_steps -= 1
    return taken, place


@settings(max_examples=40)
@given(st.integers(20, 45), RUNS, st.sampled_from(["cost", "none"]), st.sampled_from([None, 2]))
def test_other_global_batches_get_exactly_what_was_not_consumed(
    num_packs: int, runs: Any, group_by: str, shuffle_shards: int | None
) -> None:
    costs = np.random.default_rng(num_packs).integers(1, 9, num_packs).astype(float)
    order, place = epochs(costs, group_by=group_by, shuffle_shards=shuffle_shards), Place()
    taken: list[int] = []
    for global_batch, num_steps in runs:
        now, place = run(order, place, global_batch, num_steps)
        assert len(now) == global_batch * num_steps
        taken += now
    full, begun = place.epoch, Counter(taken)
    assert sum(begun.values()) == len(taken)
    assert all(full - 1 <= begun[k] <= full + 1 for k in range(num_packs))
    rest = order.pack_ids(place, global_batch=runs[-1][0])[place.consumed :]
    assert begun + Counter(rest.tolist()) == Counter(dict.fromkeys(range(num_packs), full + 1))


@settings(max_examples=40)
@given(st.integers(20, 45), st.integers(1, 20), st.integers(1, 30), st.sampled_from([None, 2]))
def test_one_global_batch_keeps_a_state_of_numbers(num_packs: int, batch: int, num: int, shards: int | None) -> None:
    order = epochs(np.arange(num_packs, dtype=float), shuffle_shards=shards)
    _, place = run(order, Place(), batch, num)
    assert place.before is None
    assert place.carried == place.epoch * num_packs % batch
    assert place.carried == order.start(place.epoch, global_batch=batch).carried
    assert len(place.stretches) <= 1


def test_a_changed_global_batch_is_remembered_for_one_epoch() -> None:
    order = epochs(np.arange(40, dtype=float))
    _, place = run(order, Place(), 8, 3)
    _, place = run(order, place, 7, 3)
    assert place.before is not None
    assert place.before.before is None
    assert (place.epoch, place.carried) == (1, 2)
    _, place = run(order, place, 7, 6)
    assert (place.epoch, place.before) == (2, None)


def test_too_few_packs_for_a_step_are_refused(tmp_path: Path) -> None:
    few = vlmprep.open(write_pack_set(tmp_path / "set", [text_pack(k) for k in range(3)]))
    with pytest.raises(ValueError, match="nothing is left with tail='carry'"):
        Loader(few, dp_world_size=4, tail="carry")
    assert [len(epoch) for epoch in epochs_of(loaders(few, 1, 2), 4)] == [1, 2, 1, 2]
