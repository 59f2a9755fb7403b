"""Steps of packs of nearly equal cost: over ranks and workers, and after restarts with other global batches."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlmprep
from tests.packsets import text_pack, write_pack_set
from vlmprep.runtime import Loader, PackSet
from vlmprep.schema.keyed_order import keyed_order

NUM_PACKS = 91
COSTS = np.random.default_rng(0).permutation(np.repeat([900.0, 1000.0, 1100.0, 1500.0], [30, 30, 25, 6]))


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackSet:
    written = [replace(text_pack(k), cost=float(cost)) for k, cost in enumerate(COSTS)]
    return vlmprep.open(write_pack_set(tmp_path_factory.mktemp("packs") / "set", written, packs_per_shard=20))


def loaders(packs: PackSet, ranks: int, global_batch: int, workers: int = 0, **options: Any) -> list[Loader]:
    shared: dict[str, Any] = {
        "packs_per_rank": global_batch // ranks,
        "num_workers": workers,
        "seed": 7,
        "attn_implementation": "flash_attention_2",
        **options,
    }
    return [Loader(packs, dp_rank=rank, dp_world_size=ranks, **shared) for rank in range(ranks)]


def steps(group: list[Loader], count: int | None = None) -> list[list[int]]:
    """The packs of the next steps by their content, of all ranks side by side, without those that only fill a step."""
    found = []
    for batches in islice(zip(*group, strict=True), count):
        assert [k for batch in batches for k in batch.pack_ids] == [
            int(k) for b in batches for k in b["input_ids"][:, 0]
        ]
        found.append([k for b in batches for k, again in zip(b.pack_ids, b.repeated, strict=True) if not again])
    return found


def flat(of_steps: list[list[int]]) -> list[int]:
    return [*chain(*of_steps)]


def resumed(group: list[Loader], packs: PackSet, ranks: int, global_batch: int, **options: Any) -> list[Loader]:
    """Loaders that stand where others did, told through a file."""
    states = [json.dumps(loader.state_dict()) for loader in group]
    assert len(set(states)) == 1
    others = loaders(packs, ranks, global_batch, **options)
    for loader in others:
        loader.load_state_dict(json.loads(states[0]))
        assert loader.state_dict() == json.loads(states[0])
    return others


def num_mixed(of_steps: list[list[int]]) -> int:
    """Steps whose packs are not of one cost."""
    return sum(np.ptp(COSTS[step]) > 0 for step in of_steps)


def test_packs_of_a_step_cost_the_same(packs: PackSet) -> None:
    grouped, plain = (steps(loaders(packs, 1, 4, group_by=group_by)) for group_by in ("cost", "none"))
    assert len(grouped) == len(plain) == NUM_PACKS // 4
    assert num_mixed(plain) > 15
    assert num_mixed(grouped) <= 3  # at most one between two neighbouring costs
    means = [COSTS[step].mean() for step in grouped]
    assert (np.diff(means) > 0).any()
    assert (np.diff(means) < 0).any()


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 1), (4, 0), (8, 0)])
def test_the_order_is_the_same_for_all_ranks_and_workers(packs: PackSet, ranks: int, workers: int) -> None:
    group, alone = loaders(packs, ranks, 8, workers), loaders(packs, 1, 8)
    first, second = steps(alone), steps(alone)
    assert first != second
    assert steps(group) == first
    assert steps(group) == second


@pytest.mark.parametrize("stop", [1, 5, 11])
@pytest.mark.parametrize(("before", "after"), [((4, 0), (2, 1)), ((1, 2), (8, 0))])
def test_a_restart_with_the_same_global_batch_goes_on_exactly(
    packs: PackSet, before: tuple[int, int], after: tuple[int, int], stop: int
) -> None:
    group = loaders(packs, before[0], 8, before[1])
    first = steps(group, stop)
    restarted = resumed(group, packs, after[0], 8, workers=after[1])
    alone = loaders(packs, 1, 8)
    assert first + steps(restarted) == steps(alone)
    assert steps(restarted) == steps(alone)


@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize(
    "runs",
    [
        [(2, 8, 3), (1, 6, 99)],
        [(1, 4, 5), (4, 12, 2), (2, 4, 99)],
        [(8, 8, 1), (3, 6, 2), (8, 8, 3), (1, 1, 7), (5, 5, 99)],
        [(2, 16, 0), (2, 2, 4), (7, 7, 99)],
    ],
)
def test_other_global_batches_get_exactly_what_was_not_consumed(
    packs: PackSet, runs: list[tuple[int, int, int]], tail: str
) -> None:
    (ranks, global_batch, count), *more = runs
    group = loaders(packs, ranks, global_batch, tail=tail)
    taken = steps(group, count)
    for ranks, global_batch, count in more:
        group = resumed(group, packs, ranks, global_batch, tail=tail)
        promised = len(group[0])
        now = steps(group, count)
        assert len(now) == min(count, promised)
        taken += now
    left = NUM_PACKS - len(set(flat(taken)))
    assert len(flat(taken)) == len(set(flat(taken)))
    assert left == 0 if tail == "pad" else left < global_batch
    [alone] = loaders(packs, 1, global_batch, tail=tail)
    alone.set_epoch(1)
    assert steps(group) == steps([alone])


def test_the_rest_is_grouped_for_the_new_global_batch(packs: PackSet) -> None:
    group = loaders(packs, 2, 8)
    steps(group, 4)
    assert num_mixed(steps(resumed(group, packs, 3, 3))) <= 3


def test_the_state_says_how_the_epoch_was_run_and_stays_small(packs: PackSet) -> None:
    group = loaders(packs, 2, 8)
    steps(group, 3)
    group = resumed(group, packs, 2, 6)
    steps(group, 2)
    [state, other] = [loader.state_dict() for loader in group]
    assert state == other
    assert (state["consumed_packs"], state["stretches"]) == (36, [[8, 24], [6, 12]])
    assert len(json.dumps(state)) < 300


def test_a_state_of_another_grouping_is_refused(packs: PackSet) -> None:
    grouped, plain = Loader(packs), Loader(packs, group_by="none")
    with pytest.raises(ValueError, match="group_by was 'cost', is 'none'"):
        plain.load_state_dict(grouped.state_dict())
    with pytest.raises(ValueError, match="group_by was 'none', is 'cost'"):
        grouped.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="group_by must be one of cost, none"):
        Loader(packs, group_by="vt")  # type: ignore[arg-type]


def test_ungrouped_epochs_are_the_plain_shuffle_whatever_the_global_batch(packs: PackSet) -> None:
    plain = keyed_order(NUM_PACKS, 7, 0).tolist()
    group = loaders(packs, 2, 8, group_by="none")
    taken = flat(steps(group, 4))
    taken += flat(steps(resumed(group, packs, 1, 3, group_by="none"), 9))
    assert taken == plain[: 32 + 27]


def test_pack_id_order_is_never_grouped(packs: PackSet) -> None:
    loader = Loader(packs, shuffle=False, packs_per_rank=13)
    assert flat(steps([loader])) == list(range(NUM_PACKS))
    assert loader.state_dict()["group_by"] == "none"


def test_packs_without_a_label_are_in_no_step(tmp_path: Path) -> None:
    written = [replace(text_pack(k), cost=float(cost)) for k, cost in enumerate(COSTS)]
    for k in (3, 50):
        written[k].fields["labels"][:] = -100
    packs = vlmprep.open(write_pack_set(tmp_path / "set", written))
    found = steps(loaders(packs, 1, 4, tail="pad"))
    assert sorted(flat(found)) == [k for k in range(NUM_PACKS) if k not in (3, 50)]
    assert num_mixed(found) <= 4


def test_what_a_short_epoch_leaves_out_is_a_fair_draw(packs: PackSet) -> None:
    left = []
    [loader] = loaders(packs, 1, 40)
    for epoch in range(40):
        loader.set_epoch(epoch)
        left += sorted(set(range(NUM_PACKS)) - {k for step in loader.sampler for k in step.pack_ids})
    assert len(left) == 40 * 11
    assert COSTS[left].mean() == pytest.approx(COSTS.mean(), rel=0.03)
