from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"fsspec", "jinja2", "numba", "numpy", "pyarrow", "rich", "torch", "transformers", "typer", "webdataset"}
NOT_IN_A_TRAINING_JOB = {"jinja2", "numba", "rich", "transformers", "typer", "webdataset"}


def loaded_packages(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after the statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_vlmprep_loads_nothing_heavy():
    loaded = loaded_packages("import vlmprep; dir(vlmprep); vlmprep.__version__")
    assert "vlmprep" in loaded
    assert not loaded & HEAVY


def test_the_runtime_loads_nothing_that_a_training_job_does_not_need():
    # What torch itself loads is not ours to answer for.
    loaded = loaded_packages("import vlmprep.runtime") - loaded_packages("import torch, pyarrow, fsspec")
    assert "vlmprep" in loaded
    assert not loaded & NOT_IN_A_TRAINING_JOB


@pytest.mark.parametrize("name", ["Loader", "blend", "open", "plan_packs"])
def test_public_names_load_on_first_use(name):
    import vlmprep

    assert callable(getattr(vlmprep, name))
    assert name in vlmprep.__all__
    assert name in dir(vlmprep)


def test_an_unknown_name_is_an_attribute_error():
    import vlmprep

    with pytest.raises(AttributeError, match="'vlmprep' has no attribute 'lodaer'"):
        vlmprep.lodaer  # noqa: B018
