"""A decoder that ends its process: the run says at which row of which source, and goes on once that row is gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ProcessorDir
from tests.runs import chat, picture, write_jsonl
from vlmprep.engines.local import LocalEngine
from vlmprep.families import base
from vlmprep.pipeline.run import run_pack
from vlmprep.pipeline.settings import CountSettings, PackSettings, PlanSettings
from vlmprep.schema.engine import Job
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.progress import Silent

FATAL_SIDE = 61
"""Pixels of the one picture that no worker survives."""


@dataclass(frozen=True)
class Fatal:
    """Another job, in workers whose decoder ends them at one picture."""

    job: Job[Any, Any]

    def open(self) -> Callable[[Any], Any]:
        loaders: Any = base  # of the worker alone
        load = loaders.load_image

        def load_or_die(*given: Any) -> Any:
            image = load(*given)
            if image.shape[-1] == FATAL_SIDE:
                os._exit(3)
            return image

        loaders.load_image = load_or_die
        return self.job.open()


class FatalEngine(LocalEngine):
    """Whose workers have such a decoder."""

    def run(self, job: Any, units: Iterable[Any]) -> Generator[Any]:
        return super().run(Fatal(job), units)


@pytest.mark.parametrize("verify_media", [True, False])
def test_the_row_whose_picture_ended_a_worker_is_named(
    verify_media: bool, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    rows = [
        chat(str(number), "Which?", "A.", [picture(tmp_path / f"{number}.png", 60, FATAL_SIDE if number == 3 else 90)])
        for number in range(5)
    ]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = CountSettings(family=FamilySettings(processor=str(processor_dir())), verify_media=verify_media)

    def run(engine: LocalEngine) -> None:
        run_pack(
            [str(source)],
            settings,
            PlanSettings(pack_size=1_024),
            PackSettings(),
            out=tmp_path / "set",
            plan=None,
            max_refused=1.0,
            engine=engine,
            progress=Silent(),
        )

    with pytest.raises(StopRun) as stop:
        run(FatalEngine(1))
    where = "row 3 of source 'rows'" if verify_media else f"row 3 of {source}"
    assert stop.value.message == f"a worker process died (exit code 3) at {where}"
    run(LocalEngine(0))
    assert (tmp_path / "set" / "manifest.json").exists()
