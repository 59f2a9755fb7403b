"""The resume battery beyond plain restarts: workers that persist, workers that die, torchdata's StatefulDataLoader."""

from __future__ import annotations

import json
import os
import signal
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

import vlmprep
from tests.packsets import text_pack, write_pack_set
from vlmprep.runtime import Batch, Loader, PackSet

NUM_PACKS, GLOBAL_BATCH = 43, 8
LAYOUTS = [(1, 0), (1, 2), (2, 2), (4, 0), (8, 1)]
"""(ranks, workers of each)."""
TAILS = ["drop", "pad", "carry"]


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackSet:
    root = tmp_path_factory.mktemp("packs") / "set"
    return vlmprep.open(write_pack_set(root, [text_pack(k) for k in range(NUM_PACKS)], packs_per_shard=5))


def loaders(packs: PackSet, ranks: int, workers: int, **options: Any) -> list[Loader]:
    shared: dict[str, Any] = {"packs_per_rank": GLOBAL_BATCH // ranks, "num_workers": workers, "seed": 7, **options}
    return [Loader(packs, dp_rank=rank, dp_world_size=ranks, **shared) for rank in range(ranks)]


def ids(batch: Batch) -> list[int]:
    found: list[int] = batch["input_ids"][:, 0].tolist()
    assert tuple(found) == batch.pack_ids
    return found


def steps(group: list[Loader], count: int | None = None) -> list[list[int]]:
    return [[k for batch in batches for k in ids(batch)] for batches in islice(zip(*group, strict=True), count)]


def expected(packs: PackSet, epochs: int, **options: Any) -> list[list[list[int]]]:
    [loader] = loaders(packs, 1, 0, **options)
    return [steps([loader]) for _ in range(epochs)]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 2), (8, 1)])
def test_persistent_workers_go_through_stops_and_epochs(packs: PackSet, ranks: int, workers: int, tail: str) -> None:
    group = loaders(packs, ranks, workers, tail=tail, worker_kind="processes", persistent_workers=True)
    first, second, third = expected(packs, 3, tail=tail)
    assert steps(group, 2) + steps(group, 1) + steps(group) == first
    kept = [loader._kept for loader in group]
    assert None not in kept
    assert steps(group) == second
    for loader in group:
        loader.set_epoch(0)
    assert steps(group) == first
    assert [loader._kept for loader in group] == kept
    for loader in group:
        loader.set_epoch(2)
    assert steps(group) == third


@pytest.mark.parametrize(("before", "after"), list(zip(LAYOUTS, LAYOUTS[2:] + LAYOUTS[:2], strict=True)))
def test_restarts_of_persistent_workers_go_on_exactly(
    packs: PackSet, before: tuple[int, int], after: tuple[int, int]
) -> None:
    group = loaders(packs, *before, tail="carry", worker_kind="processes", persistent_workers=True)
    first, second = expected(packs, 2, tail="carry")
    assert steps(group) == first
    taken = steps(group, 3)
    [state] = {json.dumps(loader.state_dict()) for loader in group}
    restarted = loaders(packs, *after, tail="carry", worker_kind="processes", persistent_workers=True)
    for loader in restarted:
        loader.load_state_dict(json.loads(state))
    assert taken + steps(restarted) == second


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 2), (8, 1), (1, 5)])
def test_threads_read_the_same_steps(packs: PackSet, ranks: int, workers: int, tail: str) -> None:
    group = loaders(packs, ranks, workers, tail=tail, worker_kind="threads", prefetch_factor=3)
    first, second = expected(packs, 2, tail=tail)
    taken = steps(group, 2)
    [state] = {json.dumps(loader.state_dict()) for loader in group}
    assert json.loads(state)["consumed_packs"] == 2 * GLOBAL_BATCH
    assert taken + steps(group) == first
    restarted = loaders(packs, 1, 0, tail=tail)
    restarted[0].load_state_dict(json.loads(state))
    assert taken + steps(restarted) == first
    assert steps(group) == second
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vlmprep")]


def test_an_error_in_a_thread_reaches_the_loop_and_the_place_is_kept(packs: PackSet) -> None:
    def fail(packs: list[Any]) -> dict[str, Any]:
        if int(packs[0]["input_ids"][0]) == third[0]:
            raise ValueError("three is too much")
        return {"input_ids": torch.stack([pack["input_ids"][:1] for pack in packs])}

    third = expected(packs, 1)[0][2]
    [loader] = loaders(packs, 1, 2, collate=fail, worker_kind="threads")
    with pytest.raises(ValueError, match="three is too much"):
        list(loader)
    assert loader.state_dict()["consumed_packs"] == 2 * GLOBAL_BATCH


class Deadly:
    """Collates, and kills its own worker process at one pack, once."""

    def __init__(self, pack: int, mark: Path) -> None:
        self.pack, self.mark = pack, mark

    def __call__(self, packs: list[Any]) -> dict[str, Any]:
        first = [int(pack["input_ids"][0]) for pack in packs]
        if self.pack in first and get_worker_info() is not None and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"input_ids": torch.stack([pack["input_ids"][:1] for pack in packs])}


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("again", ["the same loader", "a new loader", "other ranks"])
def test_a_killed_worker_loses_nothing(packs: PackSet, persistent: bool, again: str, tmp_path: Path) -> None:
    whole, following = expected(packs, 2)
    deadly = Deadly(whole[3][5], tmp_path / "killed")
    [loader] = loaders(packs, 1, 2, collate=deadly, persistent_workers=persistent)
    taken: list[list[int]] = []
    with pytest.raises((RuntimeError, OSError)):  # OSError: the worker died with a batch in its hands
        taken.extend(ids(batch) for batch in loader)
    assert deadly.mark.exists()
    assert taken == whole[: len(taken)]
    state = loader.state_dict()
    assert state["consumed_packs"] == GLOBAL_BATCH * len(taken)
    group = [loader]
    if again != "the same loader":
        group = loaders(packs, *((1, 1) if again == "a new loader" else (4, 0)), collate=deadly)
        for other in group:
            other.load_state_dict(json.loads(json.dumps(state)))
    assert taken + steps(group) == whole
    assert steps(group) == following


def test_an_error_in_a_worker_reaches_the_loop_and_the_place_is_kept(packs: PackSet) -> None:
    [loader] = loaders(packs, 1, 1, collate=_fails_after_two, persistent_workers=True)
    with pytest.raises(ValueError, match="three is too much"):
        list(loader)
    assert loader.state_dict()["consumed_packs"] == 2 * GLOBAL_BATCH


def _fails_after_two(packs: list[Any], calls: list[int] = []) -> dict[str, Any]:  # noqa: B006 - counts in the worker
    calls.append(1)
    if len(calls) == 3:
        raise ValueError("three is too much")
    return {"input_ids": torch.stack([pack["input_ids"][:1] for pack in packs])}


def stateful(loader: Loader, workers: int, **options: Any) -> DataLoader[Batch]:
    """torchdata's loader over our steps."""
    module = pytest.importorskip("torchdata.stateful_dataloader")
    made: DataLoader[Batch] = module.StatefulDataLoader(
        loader.reader,
        sampler=loader.sampler,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        snapshot_every_n_steps=options.pop("snapshot_every_n_steps", 1),
        **options,
    )
    return made


def _as_it_is(batch: Any) -> Any:
    return batch


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize(
    ("ranks", "workers", "persistent"),
    [*((*layout, False) for layout in LAYOUTS), (1, 2, True), (2, 2, True)],
)
def test_torchdatas_stateful_loader_goes_on_exactly(packs: PackSet, ranks: int, workers: int, persistent: bool) -> None:
    options = {"persistent_workers": persistent}
    group = loaders(packs, ranks, 0, tail="carry")
    first, second = expected(packs, 2, tail="carry")
    over = [stateful(loader, workers, **options) for loader in group]
    taken = steps(over, 2)  # type: ignore[arg-type]
    states = [loader.state_dict() for loader in over]  # type: ignore[attr-defined]

    others = loaders(packs, ranks, 0, tail="carry")
    restarted = [stateful(loader, workers, **options) for loader in others]
    for loader, state in zip(restarted, states, strict=True):
        loader.load_state_dict(state)  # type: ignore[attr-defined]
    assert taken + steps(restarted) == first  # type: ignore[arg-type]
    for plain in others:
        plain.set_epoch(1)
    assert steps(restarted) == second  # type: ignore[arg-type]


def test_the_steps_own_state_is_a_loaders(packs: PackSet) -> None:
    [loader], [other] = loaders(packs, 1, 0), loaders(packs, 2, 0)[:1]
    iterator = iter(loader.sampler)
    first = [next(iterator) for _ in range(2)]
    other.load_state_dict(iterator.state_dict())
    assert other.state_dict()["consumed_packs"] == 16
    assert loader.state_dict()["consumed_packs"] == 0
    again = iter(loader.sampler)
    again.load_state_dict(iterator.state_dict())
    rest = [step.pack_ids for step in again]
    assert [step.pack_ids for step in first] + rest == [step.pack_ids for step in loader.sampler]
    assert [step.pack_ids for step in iterator] == rest
