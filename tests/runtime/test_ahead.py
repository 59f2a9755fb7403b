"""Batches made ready ahead of the loop: in order, counted when the loop gets them, whatever waits on the side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmprep
from tests.packsets import text_pack, write_pack_set
from vlmprep.runtime import Batch, Loader, loader
from vlmprep.runtime.ahead import ready_ahead, side_of


class Recorder:
    """A side that writes down what it is asked, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def run(self, work: Callable[[], Batch]) -> tuple[Batch, str]:
        batch = work()
        self.log.append(f"run {batch['number']}")
        return batch, f"event {batch['number']}"

    def hand_over(self, batch: Batch, done: str) -> Batch:
        assert done == f"event {batch['number']}"
        self.log.append(f"hand over {batch['number']}")
        return batch


@pytest.mark.parametrize("num_ahead", [0, 1, 2, 9])
def test_batches_come_in_order_and_the_next_ones_have_begun(num_ahead: int) -> None:
    side, got = Recorder(), []
    for batch in ready_ahead((Batch(number=k) for k in range(5)), lambda batch: batch, side, num_ahead):
        got.append(batch["number"])
        begun = sum(line.startswith("run") for line in side.log)
        assert begun == (min(5, batch["number"] + 1 + num_ahead) if num_ahead else 0)
    assert got == list(range(5))
    assert [line for line in side.log if line.startswith("hand")] == [f"hand over {k}" for k in range(5) if num_ahead]


class Plain:
    """A side that does all at once."""

    def run(self, work: Callable[[], Batch]) -> tuple[Batch, None]:
        return work(), None

    def hand_over(self, batch: Batch, done: None) -> Batch:
        return batch


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_counts_what_the_loop_got(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = vlmprep.open(write_pack_set(tmp_path / "set", [text_pack(k) for k in range(9)]))
    expected = [step.pack_ids for step in Loader(packs, packs_per_rank=2).sampler]
    monkeypatch.setattr(loader, "side_of", lambda device: Plain())
    ahead = Loader(packs, packs_per_rank=2, num_workers=workers, device_ahead=2)
    found = []
    for number, batch in enumerate(ahead, 1):
        found.append(batch.pack_ids)
        assert ahead.state_dict()["consumed_packs"] == 2 * number
        assert batch["attention_mask"].dtype == torch.bool
    assert found == expected
    assert len(expected) == 4


def test_without_a_gpu_nothing_runs_aside() -> None:
    assert side_of(None) is None
    assert side_of(torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("options", [{}, {"device_ahead": 0}, {"device_ahead": 3, "num_workers": 1}])
def test_on_a_gpu_batches_are_those_of_the_host(tmp_path: Path, options: dict[str, Any]) -> None:
    packs = vlmprep.open(write_pack_set(tmp_path / "set", [text_pack(k) for k in range(9)]))
    host = list(Loader(packs, packs_per_rank=2))
    for batch, expected in zip(Loader(packs, packs_per_rank=2, device="cuda", **options), host, strict=True):
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert batch[name].is_cuda
                assert torch.equal(batch[name].cpu(), value)
