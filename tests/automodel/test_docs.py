"""docs/automodel.md, followed from top to bottom: its code runs, and what it names is there."""

from __future__ import annotations

import re
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ProcessorDir
from vlmprep.automodel import collate_fns, datasets
from vlmprep.demo.corpus import make_corpus

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "automodel.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def found(path: str) -> Any:
    """What a dotted name names."""
    modules = list(accumulate(path.split("."), "{}.{}".format))
    thing: Any = import_module(modules[0])
    for module, name in zip(modules[1:], path.split(".")[1:], strict=True):
        thing = getattr(thing, name) if hasattr(thing, name) else import_module(module)
    return thing


def test_its_code_runs(tmp_path: Path, processor_dir: ProcessorDir, monkeypatch: Any):
    change_the_import, data_sets, packs_on_demand, *pipelines = blocks("python")
    make_corpus(tmp_path, num_samples=16, damaged=False)
    monkeypatch.chdir(tmp_path)
    here: dict[str, Any] = {}
    exec(data_sets.replace("Qwen/Qwen2.5-VL-7B-Instruct", str(processor_dir())), here)
    assert len(here["tokenized"]) == len(here["examples"]) == 16
    here["dataset"] = here["examples"]
    exec(re.sub(r"from nemo_automodel.*\n", "", change_the_import), here)
    assert [len(batch["input_ids"]) for batch in here["loader"]] == [8, 8]
    exec(packs_on_demand.replace("num_workers=4", "num_workers=0").replace("8192", "1536"), here)
    assert len(list(here["loader"])) == len(here["packed"]) > 2
    assert len(pipelines) == 2
    for block in pipelines:
        compile(block.replace("hidden = self", "def forward(self): hidden = self"), "page", "exec")
        exec("\n".join(re.findall(r"^from .*", block, re.MULTILINE)), here)


def test_what_it_names_is_there():
    named = {*re.findall(r"`(vlmprep\.[\w.]+)", PAGE), *re.findall(r"_target_: (vlmprep\.\w+)", PAGE)}
    assert len(named) > 8
    assert all(found(path) is not None for path in named)
    (recipe,) = blocks("yaml")
    assert set(yaml.safe_load(recipe)) == {"dataset", "dataloader"}
    rows = re.findall(r"^\| (?:`(\w+Processor)`|any other).*?\| `(\w+)", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for processor, function in rows:
        assert collate_fns.COLLATE_FNS[processor or "default"] is getattr(collate_fns, function)
    makers = re.findall(r"^\| `(make_\w+)` \| `hub:(\w+)`", PAGE, re.MULTILINE)
    assert len(makers) == 5
    assert all(hasattr(datasets, maker) and maker == f"make_{name}_dataset" for maker, name in makers)
