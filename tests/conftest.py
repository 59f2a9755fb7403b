"""What tests of several packages share: tiny processors, the drawn corpus, the real data beside the checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.families.processors import FamilyName
    from tests.packed import PackedDemo
    from vlmprep.demo.processor import Family

# A first call compiles, and shared machines stall: time is no property of the code under test.
settings.register_profile("vlmprep", deadline=None)
settings.load_profile("vlmprep")


class ProcessorDir(Protocol):
    """Gives the folder of a saved tiny processor; the same arguments give the same folder."""

    def __call__(self, family: Family = "qwen2_5_vl", *, max_pixels: int | None = None) -> Path: ...


@pytest.fixture(scope="session")
def processor_dir(tmp_path_factory: pytest.TempPathFactory) -> ProcessorDir:
    """Folders for `AutoProcessor.from_pretrained`, each made once a session."""
    from vlmprep.demo.processor import save_processor

    @cache
    def save(family: Family = "qwen2_5_vl", *, max_pixels: int | None = None) -> Path:
        path = tmp_path_factory.mktemp(f"{family}-{max_pixels or 'published'}-")
        save_processor(path, family, max_pixels=max_pixels)
        return path

    return save


class FamilyProcessorDir(Protocol):
    """Gives the folder of a saved small processor of any family; the same arguments give the same folder."""

    def __call__(self, name: FamilyName, *, marked: bool = False, small_tiles: bool = False) -> Path: ...


@pytest.fixture(scope="session")
def family_processor_dir(tmp_path_factory: pytest.TempPathFactory) -> FamilyProcessorDir:
    """Folders for `AutoProcessor.from_pretrained`, each made once a session."""
    from tests.families.processors import build_processor

    @cache
    def save(name: FamilyName, *, marked: bool = False, small_tiles: bool = False) -> Path:
        path = tmp_path_factory.mktemp(f"{name}-{'marked' if marked else 'plain'}-")
        build_processor(name, marked=marked, small_tiles=small_tiles).save_pretrained(path)
        return path

    return save


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the drawn corpus with its damaged samples; read it, do not write to it."""
    from vlmprep.demo.corpus import make_corpus

    path = tmp_path_factory.mktemp("corpus")
    make_corpus(path)
    return path


@pytest.fixture(scope="session")
def packed_demo(tmp_path_factory: pytest.TempPathFactory) -> PackedDemo:
    """The drawn corpus as a pack set of several shards; read it, do not write to it."""
    from tests.packed import pack_demo

    return pack_demo(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="session")
def packed_text(tmp_path_factory: pytest.TempPathFactory) -> PackedDemo:
    """A pack set without images, so with a fake image in every pack; read it, do not write to it."""
    from tests.packed import pack_demo

    return pack_demo(tmp_path_factory.mktemp("text"), text_only=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, documents, vocabulary and lengths; never the only test of a thing."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data beside the checkout ({path})")
    return path
