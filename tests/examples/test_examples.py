"""Every script of examples/, run as a reader would run it, on a small pack set of the drawn corpus."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

import vlmprep
from tests.packed import PackedDemo
from vlmprep.runtime import Loader

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LINE = re.compile(r"^step (\d+) loss ([\d.]+) packs[^\[]*\[([\d, ]+)\]$", re.MULTILINE)
Run: TypeAlias = Callable[..., list[tuple[int, float, list[int]]]]


def steps_in(text: str) -> list[tuple[int, float, list[int]]]:
    """(step, loss, packs) of every line that says so."""
    return [
        (int(step), float(loss), [int(pack) for pack in packs.split(",")]) for step, loss, packs in LINE.findall(text)
    ]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a script in this process and reads what it printed."""
    monkeypatch.syspath_prepend(EXAMPLES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def start(script: str, *arguments: object) -> list[tuple[int, float, list[int]]]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return steps_in(capsys.readouterr().out)

    yield start
    torch.set_num_threads(threads)
    sys.modules.pop("tiny_model", None)


@pytest.fixture(scope="module")
def demo(packed_demo: PackedDemo) -> Path:
    """A folder as `vlmprep demo` leaves it."""
    return packed_demo.packset.parent


def test_plain_torch_goes_on_where_it_stopped(run: Run, demo: Path, tmp_path: Path):
    checkpoint = tmp_path / "run.pt"
    whole = run("plain_torch.py", demo, "--steps", 5)
    first = run("plain_torch.py", demo, "--steps", 3, "--checkpoint", checkpoint)
    rest = run("plain_torch.py", demo, "--steps", 5, "--checkpoint", checkpoint)
    assert [step for step, _, _ in whole] == [1, 2, 3, 4, 5]
    assert (len(first), len(rest)) == (3, 2)
    assert first + rest == whole
    assert len({packs[0] for _, _, packs in whole}) == 5, "one pack after the other, none twice"
    assert torch.load(checkpoint)["loader"]["consumed_packs"] == 5


def test_the_trainer_goes_on_where_it_stopped_bit_for_bit(run: Run, demo: Path, tmp_path: Path):
    pytest.importorskip("accelerate", reason="the Trainer needs it")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run("hf_trainer.py", demo, "--steps", 4, "--accumulate", 2, "--out", whole)
    for steps in (2, 4):
        run("hf_trainer.py", demo, "--steps", steps, "--accumulate", 2, "--out", cut)

    def read(name: str) -> list[bytes]:
        return [(folder / "checkpoint-4" / name).read_bytes() for folder in (whole, cut)]

    states = [json.loads(state) for state in read("vlmprep_loader.json")]
    assert states[0] == states[1]
    assert states[0]["consumed_packs"] == 8
    assert len(set(read("model.safetensors"))) == 1
    assert (cut / "checkpoint-2" / "model.safetensors").read_bytes() != read("model.safetensors")[0], "it learned"
    losses = [
        [entry["loss"] for entry in json.loads(text)["log_history"] if "loss" in entry]
        for text in read("trainer_state.json")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
    assert losses[0][0] == pytest.approx(mean_over_label_tokens(demo, 2), abs=1e-5)


def mean_over_label_tokens(demo: Path, num_batches: int) -> float:
    """The loss of the first packs of an epoch before anything is learned: not the mean of their means."""
    model = runpy.run_path(str(EXAMPLES / "tiny_model.py"))["tiny_model"](demo / "processor")
    batches = [*islice(Loader(vlmprep.open(demo / "packset"), collate="hf", seed=0), num_batches)]
    sums = [(model(**batch, num_items_in_batch=1).loss.item(), (batch["labels"] != -100).sum()) for batch in batches]
    mean = float(sum(loss for loss, _ in sums) / sum(count for _, count in sums))
    assert mean != pytest.approx(sum(float(loss / count) for loss, count in sums) / num_batches, abs=1e-4)
    return mean


def test_the_recipe_goes_on_where_it_stopped(run: Run, demo: Path, tmp_path: Path):
    def recipe(folder: str, steps: int) -> list[tuple[int, float, list[int]]]:
        changes: dict[str, Any] = {
            "model.processor": demo / "processor",
            "dataset.path": demo / "packset",
            "checkpoint.checkpoint_dir": tmp_path / folder,
            "step_scheduler.max_steps": steps,
        }
        options = [part for name, value in changes.items() for part in (f"--{name}", value)]
        return run("automodel_recipe.py", "-c", EXAMPLES / "automodel_recipe.yaml", *options)

    whole = recipe("whole", 4)
    assert [len(packs) for _, _, packs in whole] == [2, 2, 2, 2]
    assert recipe("cut", 2) + recipe("cut", 4) == whole


@pytest.mark.parametrize(("script", "packs_of_rank"), [("fsdp2.py", 1), ("pipeline.py", 2)])
def test_two_processes_have_the_losses_of_one(run: Run, demo: Path, script: str, packs_of_rank: int):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLES / script)]
    made = subprocess.run(
        [sys.executable, *command, str(demo), "--steps", "3"], capture_output=True, text=True, timeout=240, check=False
    )
    assert made.returncode == 0, made.stderr
    split = steps_in(made.stdout)
    alone = run("plain_torch.py", demo, "--steps", 3, "--packs-per-rank", 2)
    assert len(split) == len(alone) == 3
    for (step, loss, packs), (same_step, expected, both) in zip(split, alone, strict=True):
        assert step == same_step
        assert packs == both[:packs_of_rank]
        assert loss == pytest.approx(expected, abs=2e-5)
    assert alone[0][1] != pytest.approx(alone[2][1], abs=1e-3), "the weights move"


def test_the_readme_names_every_example():
    page = (EXAMPLES / "README.md").read_text()
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert len(scripts) >= 5
    assert not {script for script in scripts if script not in page}
