"""A rank's share of an epoch holds what the steps hold, and lets go of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from vlmprep.runtime.dealing import deal
from vlmprep.runtime.order import num_steps, step_places

NUM_PACKS = 43
LABELS = np.random.default_rng(0).integers(1, 99, NUM_PACKS).astype(np.int32)
ORDER = np.random.default_rng(1).permutation(NUM_PACKS)


@pytest.mark.parametrize("tail", ["drop", "pad"])
@pytest.mark.parametrize("consumed", [0, 5, 40])
@pytest.mark.parametrize(("ranks", "packs_per_rank"), [(1, 1), (2, 4), (4, 1), (3, 1), (10, 5)])
def test_every_rank_gets_its_places_of_every_step(tail, consumed, ranks, packs_per_rank):
    batch = ranks * packs_per_rank
    steps = num_steps(NUM_PACKS, consumed=consumed, global_batch=batch, tail=tail)
    compared = 0
    for rank in range(ranks):
        share = slice(rank * packs_per_rank, (rank + 1) * packs_per_rank)
        dealt = deal(ORDER, LABELS.__getitem__, consumed=consumed, num_steps=steps, global_batch=batch, share=share)
        assert dealt.pack_ids.shape == (steps, packs_per_rank)
        for step in range(steps):
            places = step_places(ORDER, consumed=consumed, step=step, global_batch=batch)
            assert dealt.pack_ids[step].tolist() == places.pack_ids[share].tolist()
            assert dealt.num_label_tokens[step] == LABELS[places.pack_ids[~places.repeated]].sum()
            repeated = dealt.repeated if step == steps - 1 else np.zeros(packs_per_rank, np.bool_)
            assert repeated.tolist() == places.repeated[share].tolist()
            compared += 1
    assert compared == steps * ranks
    assert compared or (tail == "drop" and batch > NUM_PACKS - consumed)


def test_the_order_of_everything_is_let_go_of():
    dealt = deal(ORDER, LABELS.__getitem__, consumed=0, num_steps=5, global_batch=8, share=slice(2, 4))
    assert dealt.pack_ids.size == 10
    assert not np.shares_memory(dealt.pack_ids, ORDER)
    assert dealt.pack_ids.base is None or dealt.pack_ids.base.size == 10


@pytest.mark.parametrize(("tokens", "kind"), [(25, np.uint8), (8000, np.uint16), (9000, np.uint32)])
def test_a_share_is_as_small_as_its_numbers_are(tokens, kind):
    order, labels = ORDER.astype(np.int32), np.full(NUM_PACKS, tokens, np.int32)
    dealt = deal(order, labels.__getitem__, consumed=0, num_steps=5, global_batch=8, share=slice(0, 1))
    assert dealt.pack_ids.dtype == np.int32
    assert dealt.num_label_tokens.dtype == kind
    assert dealt.num_label_tokens.tolist() == [8 * tokens] * 5
