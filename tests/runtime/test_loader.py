"""The order of batches: over ranks, workers, epochs, and after a restart with other ranks and workers."""

from __future__ import annotations

import json
from itertools import chain, islice, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlmprep
from tests.packsets import PIXEL_RULE, WrittenPack, text_pack, write_pack_set
from vlmprep.runtime import Batch, Loader, PackSet
from vlmprep.runtime.pixels import restore
from vlmprep.runtime.steps import PixelType
from vlmprep.schema.pixels import PixelRule

NUM_PACKS = 43
GLOBAL_BATCH = 8
LAYOUTS = [(1, 0), (1, 2), (2, 2), (4, 0), (8, 1)]
"""(ranks, workers of each)."""
THREADS = [(*layout, "threads") for layout in LAYOUTS]
PROCESSES = [(*layout, "processes") for layout in LAYOUTS if layout[1]]


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackSet:
    root = tmp_path_factory.mktemp("packs") / "set"
    return vlmprep.open(write_pack_set(root, [text_pack(k) for k in range(NUM_PACKS)], packs_per_shard=5))


def loaders(packs: PackSet, ranks: int, workers: int, global_batch: int = GLOBAL_BATCH, **options: Any) -> list[Loader]:
    return [
        Loader(
            packs,
            dp_rank=rank,
            dp_world_size=ranks,
            packs_per_rank=global_batch // ranks,
            num_workers=workers,
            seed=7,
            **options,
        )
        for rank in range(ranks)
    ]


def ids(batch: Batch) -> list[int]:
    """The packs of a batch by their content."""
    found: list[int] = batch["input_ids"][:, 0].tolist()
    assert tuple(found) == batch.pack_ids
    return found


def steps(group: list[Loader], count: int | None = None) -> list[list[int]]:
    """The packs of the next steps, of all ranks side by side."""
    return [[k for batch in batches for k in ids(batch)] for batches in islice(zip(*group, strict=True), count)]


def flat(of_steps: list[list[int]]) -> list[int]:
    return [*chain(*of_steps)]


def expected(packs: PackSet, epochs: int, **options: Any) -> list[list[list[int]]]:
    [loader] = loaders(packs, 1, 0, **options)
    return [steps([loader]) for _ in range(epochs)]


@pytest.mark.parametrize(("ranks", "workers", "kind"), THREADS + PROCESSES)
@pytest.mark.parametrize("tail", ["drop", "pad"])
def test_the_order_is_the_same_for_all_ranks_and_workers(
    packs: PackSet, ranks: int, workers: int, kind: str, tail: str
) -> None:
    group = loaders(packs, ranks, workers, tail=tail, worker_kind=kind)
    first, second = expected(packs, 2, tail=tail)
    assert first != second
    assert len(first) == {"drop": 5, "pad": 6}[tail] == len(group[0])
    assert steps(group) == first
    assert steps(group) == second
    assert {loader.epoch for loader in group} == {2}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *product(THREADS, THREADS),
        *zip(PROCESSES, PROCESSES[1:] + PROCESSES[:1], strict=True),
        (PROCESSES[0], THREADS[2]),
        (THREADS[2], PROCESSES[0]),
        (PROCESSES[1], THREADS[0]),
    ],
)
def test_a_restart_goes_on_exactly_whatever_ranks_and_workers(
    packs: PackSet, before: tuple[int, int, str], after: tuple[int, int, str]
) -> None:
    group = loaders(packs, *before[:2], worker_kind=before[2])
    steps(group)
    first = steps(group, 3)
    states = [loader.state_dict() for loader in group]
    assert all(state == states[0] for state in states)

    restarted = loaders(packs, *after[:2], worker_kind=after[2])
    for loader in restarted:
        loader.load_state_dict(states[0])
    assert {len(loader) for loader in restarted} == {2}
    rest, following = steps(restarted), steps(restarted)
    _, second, third = expected(packs, 3)
    assert first + rest == second
    assert following == third


@pytest.mark.parametrize(("global_batch", "tail"), [(6, "drop"), (4, "drop"), (12, "pad"), (1, "pad")])
def test_another_global_batch_gets_exactly_what_was_not_consumed(packs: PackSet, global_batch: int, tail: str) -> None:
    group = loaders(packs, 2, 0, tail=tail)
    consumed = flat(steps(group, 3))
    restarted = loaders(packs, 1, 2, global_batch, tail=tail)
    restarted[0].load_state_dict(group[0].state_dict())
    rest = flat(steps(restarted))

    whole = flat(expected(packs, 1, tail="pad")[0])[:NUM_PACKS]
    left = NUM_PACKS - len(consumed)
    assert consumed == whole[:24]
    assert rest[:left] == whole[24 : 24 + (left // global_batch * global_batch if tail == "drop" else left)]


@pytest.mark.parametrize(("workers", "kind"), [(0, None), (2, "threads"), (2, "processes")])
def test_the_state_counts_what_the_loop_got_not_what_was_prefetched(packs: PackSet, workers: int, kind: Any) -> None:
    [loader] = loaders(packs, 1, workers, prefetch_factor=4 if workers else None, worker_kind=kind)
    assert loader.state_dict()["consumed_packs"] == 0
    for step, _ in enumerate(loader, 1):
        assert loader.state_dict()["consumed_packs"] == step * GLOBAL_BATCH
        assert len(loader) == 5 - step
    assert (loader.epoch, loader.state_dict()["consumed_packs"]) == (1, 0)


def test_a_state_after_the_last_step_leaves_nothing_of_the_epoch(packs: PackSet) -> None:
    [loader] = loaders(packs, 1, 0)
    for _ in loader:
        state = loader.state_dict()
    [restarted] = loaders(packs, 1, 0)
    restarted.load_state_dict(state)
    assert steps([restarted]) == []
    assert steps([restarted]) == expected(packs, 2)[1]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_a_loop_that_stops_goes_on_where_it_stopped(packs: PackSet, kind: str) -> None:
    [loader] = loaders(packs, 1, 2, worker_kind=kind)
    parts = [steps([loader], 2), steps([loader], 1), steps([loader])]
    assert [len(part) for part in parts] == [2, 1, 2]
    assert [*chain(*parts)] == expected(packs, 1)[0]


def test_setting_the_epoch_keeps_the_place_only_inside_it(packs: PackSet) -> None:
    epochs = expected(packs, 3)
    [loader] = loaders(packs, 1, 0)
    steps([loader], 2)
    loader.set_epoch(0)
    assert steps([loader]) == epochs[0][2:]
    loader.set_epoch(1)
    assert steps([loader], 1) == epochs[1][:1]
    loader.set_epoch(2)
    assert steps([loader]) == epochs[2]
    loader.set_epoch(0)
    assert steps([loader]) == epochs[0]


def test_unshuffled_packs_come_in_their_order(packs: PackSet) -> None:
    group = loaders(packs, 4, 0, shuffle=False)
    assert flat(steps(group)) == list(range(40))
    assert flat(steps(group)) == list(range(40))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": 8}, "seed was 7, is 8"), ({"shuffle": False}, "shuffle was True"), ({"tail": "pad"}, "tail was 'drop'")],
)
def test_a_state_of_another_order_is_refused_with_what_differs(
    packs: PackSet, options: dict[str, Any], message: str
) -> None:
    [loader] = loaders(packs, 1, 0)
    other = Loader(packs, **{"seed": 7, **options})
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(loader.state_dict())


def test_a_state_of_another_pack_set_is_refused(packs: PackSet, tmp_path: Path) -> None:
    other = vlmprep.open(write_pack_set(tmp_path / "other", [text_pack(k) for k in range(NUM_PACKS)]))
    with pytest.raises(ValueError, match="pack_set was"):
        Loader(other, seed=7).load_state_dict(Loader(packs, seed=7).state_dict())
    with pytest.raises(ValueError, match="version"):
        Loader(packs).load_state_dict({})


def test_the_state_stays_small(packs: PackSet) -> None:
    [loader] = loaders(packs, 1, 0)
    steps([loader], 3)
    assert len(repr(loader.state_dict())) < 300


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("tail", ["drop", "pad"])
def test_every_batch_knows_the_label_tokens_of_its_whole_step(packs: PackSet, ranks: int, tail: str) -> None:
    group = loaders(packs, ranks, 0, tail=tail)
    compared = 0
    for batches in zip(*group, strict=True):
        counted = sum(int((batch["labels"] != -100).sum()) for batch in batches)
        assert {batch.num_label_tokens_in_step for batch in batches} == {counted}
        compared += counted
    assert compared > 100


def test_padding_repeats_the_epochs_first_packs_without_labels(packs: PackSet) -> None:
    group = loaders(packs, 2, 0, tail="pad")
    assert group[0].num_repeated_packs == 5
    batches = [batch for step in zip(*group, strict=True) for batch in step]
    first, last = batches[0], batches[-2:]
    assert [flag for batch in last for flag in batch.repeated] == [False] * 3 + [True] * 5
    repeated = torch.cat([batch["labels"] for batch in last])[3:]
    assert (repeated == -100).all()
    again = [k for batch in last for k in batch.pack_ids][3:]
    assert again == [*first.pack_ids, *batches[1].pack_ids][:5]


def test_more_ranks_than_packs_still_get_a_padded_step(tmp_path: Path) -> None:
    packs = vlmprep.open(write_pack_set(tmp_path / "set", [text_pack(k) for k in range(3)]))
    batches = [batch for rank in range(8) for batch in Loader(packs, dp_rank=rank, dp_world_size=8, tail="pad")]
    assert [batch.pack_ids[0] for batch in batches][:3] == [batch.pack_ids[0] for batch in batches][3:6]
    assert [batch.repeated[0] for batch in batches] == [False] * 3 + [True] * 5
    with pytest.raises(ValueError, match=r"3 packs that train, a step takes 8 .*tail='drop'"):
        Loader(packs, dp_world_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dp_rank": 2, "dp_world_size": 2}, "dp_rank must be one of 0..1, got 2"),
        ({"dp_rank": -1}, "dp_rank"),
        ({"packs_per_rank": 0}, "at least 1"),
        ({"worker_kind": "fibers"}, "worker_kind must be one of processes, threads, or None, got 'fibers'"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"device_ahead": -1}, "device_ahead must be at least 0, got -1"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"num_workers": 1, "prefetch_factor": 0}, "at least 1: got 0 with num_workers=1"),
        ({"prefetch_factor": 2}, "got 2 with num_workers=0. Leave it out, or give num_workers=1"),
        ({"tail": "wrap"}, "tail must be one of drop, pad, carry, got 'wrap'"),
        ({"tail": "carry", "dp_world_size": NUM_PACKS + 1}, "nothing is left with tail='carry'"),
        ({"shuffle_shards": 0}, "shuffle_shards must be at least 1"),
        ({"collate": "rows"}, "collate must be"),
        ({"attn_implementation": "flex_attention"}, "flex_attention"),
        ({"pixels": "float64"}, "pixels must be"),
        ({"collate": "hf", "attn_implementation": "flash_attention_2", "packs_per_rank": 2}, "packs_per_rank=1"),
    ],
)
def test_what_is_not_offered_is_refused_at_once(packs: PackSet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loader(packs, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"num_workers": "2"}, "num_workers must be a whole number, got '2'"),
        ({"packs_per_rank": 0.5}, "packs_per_rank must be a whole number"),
        ({"dp_world_size": 2.0}, "dp_world_size must be a whole number, got 2.0"),
        ({"packs": "some/folder"}, r"vlmprep.open or vlmprep.blend, got str: Loader\(vlmprep.open"),
    ],
)
def test_what_is_of_another_kind_is_refused_at_once(packs: PackSet, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Loader(**{"packs": packs, **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_goes_there(packs: PackSet) -> None:
    with pytest.raises(ValueError, match="device='cuda', but torch sees no GPU here: leave device out"):
        Loader(packs, device="cuda")
    assert len(list(Loader(packs, num_workers=1, pin_memory=True))) == NUM_PACKS


def test_broken_states_and_epochs_are_refused(packs: PackSet) -> None:
    loader = Loader(packs)
    state = loader.state_dict()
    del state["stretches"]
    with pytest.raises(ValueError, match=r"lacks stretches: save all of state_dict\(\)"):
        loader.load_state_dict(state)
    with pytest.raises(TypeError, match="a loader's state is a dict"):
        loader.load_state_dict(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epochs are counted from 0, got -1"):
        loader.set_epoch(-1)
    with pytest.raises(TypeError, match="float"):
        loader.set_epoch(1.5)  # type: ignore[arg-type]


def test_a_state_is_plain_whatever_kind_of_numbers_a_run_was_given(packs: PackSet) -> None:
    loader = Loader(packs, dp_world_size=np.int64(2), packs_per_rank=np.int64(3), seed=np.int64(5))  # type: ignore[arg-type]
    loader.set_epoch(np.int64(2))  # type: ignore[arg-type]
    next(iter(loader))
    state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert (state["epoch"], state["consumed_packs"], state["seed"]) == (2, 6, 5)


def first_tokens(packs: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    return {"input_ids": torch.stack([pack["input_ids"][:1] for pack in packs]), "count": len(packs)}


@pytest.mark.parametrize("workers", [0, 2])
def test_any_callable_collates(packs: PackSet, workers: int) -> None:
    assert steps(loaders(packs, 2, workers, collate=first_tokens)) == expected(packs, 1)[0]
    assert [batch["count"] for batch in loaders(packs, 2, workers, collate=first_tokens)[0]] == [4] * 5


@pytest.fixture(scope="module")
def image_packs(tmp_path_factory: pytest.TempPathFactory) -> PackSet:
    def pack(pack_id: int) -> WrittenPack:
        pixels = np.random.default_rng(pack_id).integers(0, 256, (8 * pack_id, 3, 14, 14), dtype=np.uint8)
        media = {"pixel_values": pixels, "image_grid_thw": np.array([[1, 2, 4]] * pack_id)} if pack_id else {}
        return WrittenPack(fields={**text_pack(pack_id).fields, **media}, document_lengths=(5, 3))

    root = tmp_path_factory.mktemp("images") / "set"
    return vlmprep.open(write_pack_set(root, [pack(k) for k in range(6)], compression="zstd"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collate", ["neat", "hf"])
def test_pixels_are_restored_or_left_as_asked(image_packs: PackSet, collate: Any, workers: int) -> None:
    rule = PixelRule.from_json(PIXEL_RULE)
    options: dict[str, Any] = {"packs_per_rank": 3, "collate": collate, "num_workers": workers, "shuffle": False}
    stored = list(Loader(image_packs, pixels="stored", **options))
    types: dict[PixelType, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for pixels, dtype in types.items():
        restored = list(Loader(image_packs, pixels=pixels, **options))
        for raw, batch in zip(stored, restored, strict=True):
            assert raw["pixel_values"].dtype == torch.uint8
            assert batch["pixel_values"].shape == (len(raw["pixel_values"]), 1176)
            assert torch.equal(batch["pixel_values"], restore(raw["pixel_values"], rule, dtype))
    natural = np.concatenate([image_packs[k]["pixel_values"].numpy() for k in (3, 4, 5)])
    np.testing.assert_array_equal(stored[1]["pixel_values"].numpy(), natural)
    assert stored[0]["image_grid_thw"].shape == (3, 3)


@pytest.mark.parametrize("backend", ["flash_attention_2", "sdpa", "eager"])
def test_neat_batches_are_the_collates(packs: PackSet, backend: str) -> None:
    from vlmprep.runtime.collate import neat

    for workers in (0, 2):
        loader = Loader(packs, packs_per_rank=3, attn_implementation=backend, num_workers=workers, max_length=11)
        batch = next(iter(loader))
        wanted = neat([packs[k] for k in batch.pack_ids], 0, 11, backend)
        assert list(batch) == list(wanted)
        for name, value in wanted.items():
            assert batch[name].dtype == value.dtype
            assert torch.equal(batch[name], value)


@pytest.mark.parametrize("workers", [0, 2])
def test_iterating_leaves_the_trainings_random_numbers_alone(packs: PackSet, workers: int) -> None:
    before = torch.get_rng_state()
    assert len(list(Loader(packs, num_workers=workers))) == NUM_PACKS
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_arrive_on_the_device(image_packs: PackSet) -> None:
    for collate in ("neat", "hf"):
        batch = next(iter(Loader(image_packs, collate=collate, device="meta", pixels="stored")))
        tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
        assert len(tensors) > 4
        assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_batches_survive_what_frameworks_do_to_dicts(packs: PackSet) -> None:
    batch = next(iter(Loader(packs)))
    assert isinstance(batch, dict)
    assert set(dict(**batch)) == set(batch)
    rebuilt = type(batch)({**batch})
    assert list(rebuilt) == list(batch)


def test_epochs_mix_the_packs(packs: PackSet) -> None:
    orders = [flat(epoch) for epoch in expected(packs, 3)]
    assert all(first != second for first, second in pairwise(orders))
    assert all(len(set(order)) == 40 for order in orders)


def test_packs_without_a_label_are_no_part_of_an_epoch(tmp_path: Path) -> None:
    written = [text_pack(k) for k in range(6)]
    written[2].fields["labels"][:] = -100  # what is left where all samples of a pack were refused
    packs = vlmprep.open(write_pack_set(tmp_path / "set", written))
    assert packs.index.num_label_tokens[2] == 0
    loader = Loader(packs, shuffle=False)
    assert loader.num_packs == len(loader) == 5
    assert flat(steps([loader])) == [0, 1, 3, 4, 5]
