"""What a catalogue looks up in pieces is what the indexes say, with packs without a label passed over."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from vlmprep.runtime.catalogue import Catalogue
from vlmprep.schema import blocks
from vlmprep.shardformat.index import PackIndex

SIZES = (40, 23, 1)


def indexes(num_sets: int) -> list[PackIndex]:
    """Indexes of random numbers; in all of them some packs have no label."""
    random = np.random.default_rng(0)
    made = []
    for size in SIZES[:num_sets]:
        columns: dict[str, Any] = {field.name: random.integers(0, 4, size) for field in fields(PackIndex)}
        made.append(PackIndex(**columns))
    return made


@pytest.mark.parametrize("num_sets", [1, 2, 3])
def test_columns_and_pack_ids_are_those_of_the_indexes(num_sets, monkeypatch):
    monkeypatch.setattr(blocks, "_BLOCK", 7)
    sets = indexes(num_sets)
    catalogue = Catalogue(sets, [1] * num_sets, with_shards=False)
    labels = np.concatenate([each.num_label_tokens for each in sets])
    train = np.flatnonzero(labels)
    assert 7 < catalogue.num_packs == len(train) < len(labels)
    order = np.random.default_rng(1).permutation(len(train)).astype(np.int32)
    pack_ids = catalogue.pack_ids(order)
    assert pack_ids.dtype == np.int32
    np.testing.assert_array_equal(pack_ids, train[order])
    samples = np.concatenate([each.num_samples for each in sets])
    np.testing.assert_array_equal(catalogue.column("num_samples", pack_ids), samples[pack_ids])
