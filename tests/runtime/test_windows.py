"""Shuffles in windows of shards: how near reads stay, and how mixed epochs."""

from __future__ import annotations

import json
from itertools import islice
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
from vlmprep.runtime.listing import Part, list_epoch
from vlmprep.runtime.order import grouped_places

SHARDS, PACKS_PER_SHARD, WINDOW = 64, 8, 8


def listed(shards: NDArray[np.int64], epoch: int, window: int | None, **options: Any) -> NDArray[np.integer[Any]]:
    part = Part(num_packs=len(shards), per_epoch=len(shards), shards=shards.astype(np.int32))
    return list_epoch([part], epoch=epoch, shuffle=True, shuffle_shards=window, **{"seed": 5, **options}).packs


def means_of_windows(values: NDArray[np.float64], window: int | None) -> NDArray[np.float64]:
    """Means of a value over every window of many epochs; without windows, over as many packs in a row."""
    shards = np.arange(len(values)) // PACKS_PER_SHARD
    epochs = [values[listed(shards, epoch, window)] for epoch in range(150)]
    return np.concatenate([epoch.reshape(-1, WINDOW * PACKS_PER_SHARD).mean(axis=1) for epoch in epochs])


def test_windows_vary_no_more_than_draws_of_whole_shards() -> None:
    of_shards = np.random.default_rng(0).normal(size=SHARDS)
    means = means_of_windows(np.repeat(of_shards, PACKS_PER_SHARD), WINDOW)
    drawn = of_shards.var(ddof=1) / WINDOW * (1 - WINDOW / SHARDS)
    assert len(means) == 150 * SHARDS // WINDOW
    assert drawn * 0.8 < means.var() < drawn * 1.15


def test_windows_of_shuffled_packs_vary_as_any_draw() -> None:
    values = np.random.default_rng(0).normal(size=SHARDS * PACKS_PER_SHARD)
    assert means_of_windows(values, WINDOW).var() < 1.2 * means_of_windows(values, None).var()


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 7), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_takes_every_pack_once_and_every_window_enough_shards(
    num_shards: int, packs_per_shard: int, window: int, epoch: int
) -> None:
    shards = np.arange(num_shards * packs_per_shard) // packs_per_shard
    part = Part(num_packs=len(shards), per_epoch=len(shards), shards=shards.astype(np.int32))
    listing = list_epoch([part], seed=1, epoch=epoch, shuffle=True, shuffle_shards=window)
    assert sorted(listing.packs.tolist()) == list(range(len(shards)))
    if num_shards < 2 * window:
        assert listing.windows is None
        return
    assert listing.windows is not None
    assert (np.diff(listing.windows) >= 0).all()
    for number in range(int(listing.windows[-1]) + 1):
        inside = listing.packs[listing.windows == number]
        assert len(inside) >= window * packs_per_shard
        assert window <= len(set(shards[inside].tolist())) <= 2 * window + 1


@pytest.mark.parametrize("grouped", [True, False])
def test_reads_stay_near_each_other(grouped: bool) -> None:
    shards = np.arange(SHARDS * PACKS_PER_SHARD) // PACKS_PER_SHARD
    part = Part(num_packs=len(shards), per_epoch=len(shards), shards=shards.astype(np.int32))
    listing = list_epoch([part], seed=1, epoch=2, shuffle=True, shuffle_shards=WINDOW)
    order = listing.packs
    if grouped:
        work = np.random.default_rng(0).integers(1, 9, len(order)).astype(float)
        places = grouped_places(work[order], 1, 2, stretches=(), global_batch=12, windows=listing.windows)
        order = order[places]
        assert np.ptp(work[order][:480].reshape(-1, 12), axis=1).mean() < 3
    assert sorted(order.tolist()) == list(range(len(shards)))
    spans = [np.ptp(np.flatnonzero(shards[order] == shard)) for shard in range(SHARDS)]
    assert max(spans) < 2 * WINDOW * PACKS_PER_SHARD
    spread = [np.ptp(np.flatnonzero(shards[listed(shards, 2, None)] == shard)) for shard in range(SHARDS)]
    assert np.mean(spread) > 3 * np.mean(spans)


def test_epochs_and_seeds_draw_windows_of_their_own() -> None:
    shards = np.arange(SHARDS * PACKS_PER_SHARD) // PACKS_PER_SHARD
    size = WINDOW * PACKS_PER_SHARD
    windows = {
        frozenset(shards[listed(shards, epoch, WINDOW, seed=seed)][:size].tolist())
        for epoch in range(4)
        for seed in range(4)
    }
    assert len(windows) == 16


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackSet:
    root = tmp_path_factory.mktemp("packs") / "set"
    return vlmprep.open(write_pack_set(root, [text_pack(k) for k in range(43)], packs_per_shard=3))


def steps(packs: PackSet, ranks: int, workers: int, state: dict[str, Any] | None, count: int | None) -> Any:
    group = [
        Loader(packs, dp_rank=r, dp_world_size=ranks, packs_per_rank=8 // ranks, num_workers=workers, shuffle_shards=2)
        for r in range(ranks)
    ]
    for loader in group:
        loader.load_state_dict(state or loader.state_dict())
    found = [[k for batch in batches for k in batch.pack_ids] for batches in islice(zip(*group, strict=True), count)]
    return found, json.loads(json.dumps(group[0].state_dict()))


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0), (8, 1)])
def test_the_order_is_the_same_for_all_ranks_and_after_restarts(packs: PackSet, ranks: int, workers: int) -> None:
    alone, _ = steps(packs, 1, 0, None, None)
    first, state = steps(packs, ranks, workers, None, 2)
    rest, _ = steps(packs, 1, 0, state, None)
    assert first + rest == alone
    assert len(alone) == 5


def test_a_state_of_other_windows_is_refused(packs: PackSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shuffle_shards was 2, is None"):
        Loader(packs).load_state_dict(Loader(packs, shuffle_shards=2).state_dict())
