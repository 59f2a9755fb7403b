"""What ranks do in the tests of tests/runtime/test_distributed.py and tests/automodel/test_datasets.py."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from torch import distributed

import vlmprep
from vlmprep.runtime import Loader

__all__ = ["go", "go_through", "load_shares", "make_loader"]


def make_loader(root: Path, rank: int, options: dict[str, Any]) -> Loader:
    """A rank's loader; of a single process, the loader of all."""
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    return Loader(vlmprep.open(root), dp_rank=rank, dp_world_size=ranks, seed=3, **options)


def go_through(rank: int, cases: list[tuple[Path, dict[str, Any]]]) -> list[list[list[int]]]:
    """`go` through three epochs of each case."""
    return [go(rank, root, options, 3) for root, options in cases]


def go(
    rank: int, root: Path, options: dict[str, Any], epochs: int, saved: Path | None = None, dies_at: int | None = None
) -> list[list[int]]:
    """At every step all ranks add up their labels and tell each other their packs; rank 0 saves the state, rank 1 may die."""
    loader = make_loader(root, rank, options)
    if saved is not None and saved.exists():
        loader.load_state_dict(json.loads(saved.read_text()))
    taken: list[list[int]] = []
    while loader.epoch < epochs:
        for batch in loader:
            labels = (batch["labels"] != -100).sum()
            distributed.all_reduce(labels)
            assert labels.item() == batch.num_label_tokens_in_step > 0
            everyone: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(everyone, (loader.state_dict(), batch.pack_ids, batch.repeated))
            assert all(state == loader.state_dict() for state, *_ in everyone)
            taken.append([k for _, ids, again in everyone for k, r in zip(ids, again, strict=True) if not r])
            if len(taken) == dies_at and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if saved is not None and rank == 0:
                saved.write_text(json.dumps(loader.state_dict()))
                saved.with_suffix(".taken").write_text(json.dumps(taken))
    return taken


def load_shares(rank: int, meta: Path, given: list[dict[str, Any]]) -> list[list[list[str]]]:
    """Load a rank's examples of a meta file in several ways, and hear what the others loaded.

    Returns:
        For each way, the first question of every example of each rank.
    """
    from vlmprep.automodel.datasets import make_meta_dataset

    everyone = []
    for options in given:
        examples = make_meta_dataset(str(meta), **options)
        shares: list[Any] = [None] * distributed.get_world_size()
        own = [example["conversation"][0]["content"][-1]["text"] for example in examples]
        distributed.all_gather_object(shares, own)
        assert shares[rank] == own
        everyone.append(shares)
    return everyone
