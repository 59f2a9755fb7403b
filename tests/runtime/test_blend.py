"""Several pack sets as one: shares, coverage, order over ranks, restarts, and what does not go together."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlmprep
from tests.packsets import text_pack, write_pack_set
from vlmprep.runtime import Blend, Loader, PackSet

SIZES = (24, 9)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[PackSet]:
    root, found, first = tmp_path_factory.mktemp("sets"), [], 0
    for number, size in enumerate(SIZES):
        written = [text_pack(k) for k in range(first, first + size)]
        found.append(vlmprep.open(write_pack_set(root / str(number), written, packs_per_shard=4)))
        first += size
    return found


def loaders(blend: Blend, ranks: int, global_batch: int = 6, workers: int = 0, **options: Any) -> list[Loader]:
    shared: dict[str, Any] = {"packs_per_rank": global_batch // ranks, "num_workers": workers, "seed": 4, **options}
    return [Loader(blend, dp_rank=rank, dp_world_size=ranks, **shared) for rank in range(ranks)]


def steps(group: list[Loader], count: int | None = None) -> list[list[int]]:
    """The packs of the next steps by their content, of all ranks side by side."""
    found = []
    for batches in islice(zip(*group, strict=True), count):
        ids = [int(k) for batch in batches for k in batch["input_ids"][:, 0]]
        assert ids == [k for batch in batches for k in batch.pack_ids]
        found.append(ids)
    return found


def uses(blend: Blend, epoch: int, **options: Any) -> Counter[int]:
    """How often an epoch takes each pack."""
    [loader] = loaders(blend, 1, 1, **options)
    loader.set_epoch(epoch)
    return Counter(k for step in loader.sampler for k in step.pack_ids)


def of_set(blend: Blend, taken: Counter[int]) -> list[int]:
    counts = [0] * len(blend.sets)
    for pack_id, times in taken.items():
        counts[blend.where(pack_id)[0]] += times
    return counts


def test_packs_are_those_of_the_sets(sets: list[PackSet]) -> None:
    blend = vlmprep.blend(sets)
    assert len(blend) == 33
    assert [blend.where(k) for k in (0, 23, 24, 32)] == [(0, 0), (0, 23), (1, 0), (1, 8)]
    for pack_id in range(33):
        number, own = blend.where(pack_id)
        assert torch.equal(blend[pack_id]["input_ids"], sets[number][own]["input_ids"])
    assert blend.index.num_label_tokens.tolist() == [n for each in sets for n in each.index.num_label_tokens.tolist()]
    with pytest.raises(IndexError, match="pack 33 of 33"):
        blend[33]


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({}, [24, 9]),
        ({"weights": [1, 2]}, [11, 22]),
        ({"weights": [0.9, 0.1]}, [30, 3]),
        ({"repeats": [0.25, 3]}, [6, 27]),
        ({"repeats": [1.5, 1]}, [36, 9]),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_sets_are_used_as_often_as_asked(sets: list[PackSet], given: Any, counts: list[int], shuffle: bool) -> None:
    blend = vlmprep.blend(sets, **given)
    epochs = [uses(blend, epoch, shuffle=shuffle) for epoch in range(8)]
    assert all(of_set(blend, epoch) == counts for epoch in epochs)
    total = sum(epochs, Counter[int]())
    for first, stop in ((0, 24), (24, 33)):
        times = [total[k] for k in range(first, stop)]
        assert max(times) - min(times) <= 1


def test_a_quarter_an_epoch_is_another_quarter_each_epoch(sets: list[PackSet]) -> None:
    blend = vlmprep.blend(sets, repeats=[0.25, 1])
    taken = [{k for k in uses(blend, epoch) if k < 24} for epoch in range(8)]
    assert set.union(*taken[:4]) == set.union(*taken[4:]) == set(range(24))
    assert taken[0] != taken[4]


def test_unshuffled_sets_are_evenly_interleaved(sets: list[PackSet]) -> None:
    blend = vlmprep.blend(sets)
    [loader] = loaders(blend, 1, 1, shuffle=False)
    order = [step.pack_ids[0] for step in loader.sampler]
    assert [k for k in order if k < 24] == list(range(24))
    gaps = [after - before for before, after in pairwise([place for place, k in enumerate(order) if k >= 24])]
    assert len(gaps) == 8
    assert set(gaps) <= {3, 4}


@pytest.mark.parametrize("options", [{}, {"tail": "carry"}, {"shuffle_shards": 2, "tail": "carry"}, {"tail": "pad"}])
def test_the_order_is_the_same_for_all_ranks_and_after_restarts(sets: list[PackSet], options: dict[str, Any]) -> None:
    blend = vlmprep.blend(sets, weights=[2, 1.5])
    [alone] = loaders(blend, 1, **options)
    first, second = steps([alone]), steps([alone])
    group = loaders(blend, 2, workers=1, **options)
    taken = steps(group, 2)
    [state] = {json.dumps(loader.state_dict()) for loader in group}
    restarted = loaders(vlmprep.blend(sets, weights=[2, 1.5]), 3, **options)
    for loader in restarted:
        loader.load_state_dict(json.loads(state))
    assert taken + steps(restarted) == first
    assert steps(restarted) == second
    assert len(first) >= 5
    assert first != second


def test_windows_hold_their_share_of_every_set(sets: list[PackSet]) -> None:
    blend = vlmprep.blend(sets)
    [loader] = loaders(blend, 1, 1, shuffle_shards=2)
    order = [step.pack_ids[0] for step in loader.sampler]
    assert sorted(order) == list(range(33))
    quarters = [sum(k >= 24 for k in order[start : start + 8]) for start in range(0, 32, 8)]
    assert max(quarters) <= 4
    assert min(quarters) >= 1


def test_a_state_of_another_blend_is_refused(sets: list[PackSet]) -> None:
    state = Loader(vlmprep.blend(sets, weights=[1, 2])).state_dict()
    for other in (vlmprep.blend(sets), vlmprep.blend(sets[::-1], weights=[1, 2]), sets[0]):
        with pytest.raises(ValueError, match="pack_set was"):
            Loader(other).load_state_dict(state)


def test_packs_without_a_label_are_left_out(sets: list[PackSet], tmp_path: Path) -> None:
    written = [text_pack(k) for k in range(24, 30)]
    written[2].fields["labels"][:] = -100
    blend = vlmprep.blend([sets[0], vlmprep.open(write_pack_set(tmp_path / "set", written))], repeats=[1, 2])
    taken = uses(blend, 0)
    assert taken[26] == 0
    assert of_set(blend, taken) == [24, 10]
    assert {taken[k] for k in (24, 25, 27, 28, 29)} == {2}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": [1]}, "weights must be a positive number for each of the 2 sets"),
        ({"weights": [1, 0]}, "weights must be a positive"),
        ({"repeats": [1, float("inf")]}, "repeats must be a positive"),
        ({"weights": [1, 1], "repeats": [1, 1]}, "not both"),
        ({"repeats": [1, 0.01]}, "set 1 has 9 packs that train: with its weight, an epoch takes none"),
    ],
)
def test_weights_that_make_no_blend_are_refused(sets: list[PackSet], given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vlmprep.blend(sets, **given)
    with pytest.raises(ValueError, match="at least one"):
        vlmprep.blend([])


def test_a_blend_in_a_blend_would_lose_its_weights_and_an_empty_set_gives_nothing(
    sets: list[PackSet], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="not of blends: give all sets at once"):
        vlmprep.blend([vlmprep.blend(sets, weights=[3, 1]), sets[0]])
    unlabelled = replace(text_pack(0), fields={**text_pack(0).fields, "labels": np.full(8, -100, np.int32)})
    nothing = vlmprep.open(write_pack_set(tmp_path / "set", [unlabelled]))
    for given in ({"weights": [1, 1]}, {"repeats": [1, 1]}):
        with pytest.raises(ValueError, match="set 1 has 0 packs that train"):
            vlmprep.blend([sets[0], nothing], **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "qwen3_vl"}, "family differ"),
        ({"pad_token_id": 5}, "pad_token_id differ"),
        ({"fingerprint": {"tokenizer": "0" * 64}}, "tokenizer of the processor differ"),
    ],
)
def test_sets_of_different_models_are_refused(
    sets: list[PackSet], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    other = vlmprep.open(write_pack_set(tmp_path / "set", [text_pack(0)], changes=changes))
    with pytest.raises(ValueError, match=f"set 1 is of another model than set 0: {message}"):
        vlmprep.blend([sets[0], other])


def test_alignments_of_all_sets_are_kept(tmp_path: Path) -> None:
    aligned = [
        vlmprep.open(write_pack_set(tmp_path / str(n), [text_pack(0)], changes={"settings": {"document_alignment": n}}))
        for n in (4, 6)
    ]
    [batch] = Loader(vlmprep.blend(aligned), packs_per_rank=2, collate="thd")
    assert batch["seq_lens_padded"].tolist() == [[6, 4], [6, 4]]
