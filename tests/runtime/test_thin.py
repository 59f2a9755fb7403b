"""What a training job imports, and nothing more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packsets import text_pack, write_pack_set

HEAVY = ("PIL", "jinja2", "numba", "pandas", "rich", "torchvision", "transformers", "typer", "webdataset", "yaml")


def imported(code: str) -> set[str]:
    """Top-level names of every module that a fresh interpreter holds after running code."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_the_format_needs_numpy_pyarrow_and_xxhash() -> None:
    names = imported("import vlmprep.shardformat.pack, vlmprep.shardformat.manifest, vlmprep.shardformat.index")
    assert {"numpy", "pyarrow", "xxhash"} <= names
    assert names.isdisjoint({*HEAVY, "torch", "fsspec"})


def test_importing_the_package_costs_nothing() -> None:
    assert imported("import vlmprep").isdisjoint({*HEAVY, "torch", "numpy", "pyarrow"})


def test_training_from_a_local_pack_set_loads_nothing_heavy(tmp_path: Path) -> None:
    root = write_pack_set(tmp_path / "set", [text_pack(k) for k in range(4)], compression="zstd")
    own = imported(f"import vlmprep; [dict(batch) for batch in vlmprep.Loader(vlmprep.open({str(root)!r}))]")
    torchs = imported("import torch, torch.utils.data, numpy, pyarrow, xxhash")
    assert "vlmprep" in own
    assert own.isdisjoint({"jinja2", "numba", "rich", "transformers", "typer", "webdataset", "torchvision"} - torchs)
    assert own - torchs <= {"vlmprep"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", ["Batch", "Loader", "PackSet", "open", "pixels"])
def test_public_names_are_there(name: str) -> None:
    import vlmprep.runtime

    assert hasattr(vlmprep.runtime, name)
    assert name in vlmprep.runtime.__all__


ONLY_THESE = """
import importlib.abc, sys
import torch, torch.utils.data, torch.distributed, numpy, pyarrow, pyarrow.ipc, xxhash
there = {name.partition(".")[0] for name in sys.modules} | set(sys.stdlib_module_names) | {"vlmprep"}

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in there:
            raise ModuleNotFoundError(f"not installed here: {name}", name=name)

sys.meta_path.insert(0, Refuse())
import vlmprep
"""


def test_training_needs_torch_numpy_pyarrow_and_xxhash_alone(tmp_path: Path) -> None:
    roots = [
        str(write_pack_set(tmp_path / name, [text_pack(k) for k in range(6)], compression=name))
        for name in ("zstd", "lz4")
    ]
    use = f"""
packs = vlmprep.blend([vlmprep.open(root) for root in {roots!r}], weights=[1, 2])
num_batches = 0
for collate in ("neat", "hf", "documents", "flat", "thd"):
    for workers in (0, 1):
        loader = vlmprep.Loader(packs, collate=collate, num_workers=workers, packs_per_rank=4, tail="carry")
        loader.load_state_dict(loader.state_dict())
        num_batches += len(list(loader))
print(num_batches)
try:
    import rich
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", ONLY_THESE + use], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["30", "not installed here: rich"]
