"""Which kind of workers a loader takes by itself, and that both give the same batches."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

import vlmprep
from tests.packsets import WrittenPack, text_pack, write_pack_set
from vlmprep.runtime import Loader, PackSet


class OnDemand:
    """Packs that nobody has written down."""

    def __init__(self, packs: PackSet) -> None:
        self._packs = packs
        self.manifest, self.index, self.remote = packs.manifest, packs.index, False

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, pack_id: int) -> dict[str, Tensor]:
        return self._packs[pack_id]

    def read_ahead(self, pack_ids: Any) -> None:
        raise AssertionError("these are not remote")


def who_reads(packs: list[Any]) -> dict[str, Any]:
    return {"thread": threading.current_thread().name, "process": get_worker_info() is not None}


born: list[bool] = []
"""Of this process, if it is a fork: whether it collected garbage at once."""
os.register_at_fork(after_in_child=lambda: born.append(gc.isenabled()))


def left_out(packs: list[Any]) -> dict[str, Any]:
    return {"objects": gc.get_freeze_count(), "at once": born, "now": gc.isenabled()}


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> PackSet:
    def pack(pack_id: int) -> WrittenPack:
        pixels = np.random.default_rng(pack_id).integers(0, 256, (64, 3, 14, 14), dtype=np.uint8)
        fields = {**text_pack(pack_id).fields, "pixel_values": pixels, "image_grid_thw": np.array([[1, 8, 8]])}
        return WrittenPack(fields=fields, document_lengths=(5, 3))

    root = tmp_path_factory.mktemp("packs") / "set"
    return vlmprep.open(write_pack_set(root, [pack(k) for k in range(12)], compression="zstd"))


def test_threads_where_packs_are_read_and_processes_where_they_are_made(packs: PackSet, tmp_path: Path) -> None:
    encoded = vlmprep.open(
        write_pack_set(tmp_path / "files", [text_pack(0)], changes={"settings": {"pixels": "encoded"}})
    )
    assert Loader(packs).worker_kind == "threads"
    assert Loader(vlmprep.blend([packs, packs])).worker_kind == "threads"
    assert Loader(OnDemand(packs)).worker_kind == "processes"
    assert Loader(vlmprep.blend([packs, OnDemand(packs)])).worker_kind == "processes"
    assert Loader(encoded).worker_kind == "processes"
    assert Loader(packs, collate=who_reads).worker_kind == "processes"
    assert Loader(OnDemand(packs), worker_kind="threads").worker_kind == "threads"


def test_the_kind_that_is_named_is_the_one_that_works(packs: PackSet) -> None:
    def readers(**options: Any) -> set[tuple[bool, bool]]:
        batches = list(Loader(packs, collate=who_reads, **options))
        assert len(batches) == 12
        return {(batch["thread"].startswith("vlmprep"), batch["process"]) for batch in batches}

    assert readers() == {(False, False)}
    assert readers(num_workers=2, worker_kind="threads") == {(True, False)}
    assert readers(num_workers=2) == readers(num_workers=2, worker_kind="processes") == {(False, True)}


def test_a_worker_process_leaves_the_heap_of_its_parent_alone(packs: PackSet) -> None:
    """A collection would copy it, and destroy what threads of the parent hold: FFmpeg's scaler then waits for its own."""
    is_fork = multiprocessing.get_start_method() == "fork"
    batch = next(iter(Loader(packs, collate=left_out, num_workers=1)))
    assert batch["objects"] > (len(gc.get_objects()) // 2 if is_fork else 0)
    assert batch["at once"] == ([False] if is_fork else [])
    assert batch["now"]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("collate", ["neat", "hf", "documents", "flat", "thd"])
def test_both_kinds_give_the_same_tensors(packs: PackSet, collate: Any) -> None:
    options: dict[str, Any] = {"collate": collate, "packs_per_rank": 3}
    plain = list(Loader(packs, **options))
    for kind in ("threads", "processes"):
        batches = list(Loader(packs, num_workers=2, worker_kind=kind, **options))
        assert len(batches) == len(plain) == 4
        for batch, expected in zip(batches, plain, strict=True):
            assert list(batch) == list(expected)
            assert batch.num_label_tokens_in_step == expected.num_label_tokens_in_step > 0
            tensors = [name for name, value in expected.items() if isinstance(value, Tensor)]
            assert len(tensors) > 4
            assert all(torch.equal(batch[name], expected[name]) for name in tensors)
