"""`inspect --pack` without its processor shows ids at once: nobody asked it to look in the hub, which waits for a network."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoProcessor

from tests.packed import PackedDemo
from vlmprep.families.loading import load_config
from vlmprep.pipeline.inspect.decoder import find_decoder, may_be_folder
from vlmprep.pipeline.inspect.pack import view_pack
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.shardformat.manifest import Manifest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Servers that were looked for; none is found."""
    found: list[Any] = []

    def nowhere(*given: Any, **_: Any) -> Any:
        found.append(given)
        raise socket.gaierror(-2, "no network here")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    return found


def manifest_naming(packset: Path, name: str) -> Manifest:
    """Of a pack set, but its processor lay elsewhere."""
    manifest = Manifest.from_bytes((packset / "manifest.json").read_bytes(), str(packset))
    processor = {**manifest.settings["processor"], "processor": name}
    return replace(manifest, settings={**manifest.settings, "processor": processor})


@pytest.mark.parametrize("name", ["runs/processor", "./processor", "processor/", "/gone/processor", "Qwen/Qwen2-VL-0B"])
def test_the_manifests_processor_is_looked_for_on_this_machine_alone(
    name: str, packed_demo: PackedDemo, asked: list[Any]
) -> None:
    decoder, note = find_decoder(manifest_naming(packed_demo.packset, name), None)
    assert decoder is None
    assert f"the processor {name!r} cannot be loaded: there is no such folder" in note
    assert asked == []


def test_of_the_manifests_processor_the_hubs_cache_is_read_and_the_hub_is_not_asked(
    packed_demo: PackedDemo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models--Qwen--Qwen2-VL-0B").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    load, wanted = AutoProcessor.from_pretrained, []

    def load_cached(name: str, **how: Any) -> Any:
        wanted.append((name, how.get("local_files_only")))
        return load(packed_demo.processor, **how)

    monkeypatch.setattr(AutoProcessor, "from_pretrained", load_cached)
    monkeypatch.setattr("vlmprep.families.loading.load_config", lambda settings: None)
    decoder, note = find_decoder(manifest_naming(packed_demo.packset, "Qwen/Qwen2-VL-0B"), None)
    assert decoder is not None, note
    assert note == ""
    assert wanted == [("Qwen/Qwen2-VL-0B", True)]


def test_a_named_processor_in_a_folder_that_is_there_is_not_looked_for_elsewhere(
    packed_demo: PackedDemo, tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert "no such folder" in view_pack(packed_demo.packset, 0, "runs/processor").note
    assert asked == []
    shutil.copytree(packed_demo.processor, tmp_path / "runs" / "processor")
    assert view_pack(packed_demo.packset, 0, "runs/processor").note == ""


def test_a_named_hub_processor_is_asked_for(packed_demo: PackedDemo, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[dict[str, Any]] = []

    def refuse(name: str, **how: Any) -> Any:
        wanted.append(how)
        raise OSError("no network here")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", refuse)
    assert "no network here" in view_pack(packed_demo.packset, 0, "Qwen/Qwen2-VL-0B").note
    assert [how.get("local_files_only", False) for how in wanted] == [False]


def test_a_config_is_not_fetched_where_a_processor_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[dict[str, Any]] = []

    def refuse(name: str, **how: Any) -> Any:
        wanted.append(how)
        raise OSError("not cached")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    for options in ((), (("local_files_only", True),)):
        with pytest.raises(StopRun, match="not cached"):
            load_config(FamilySettings(processor="Qwen/Qwen2-VL-0B", options=options))
    assert [how["local_files_only"] for how in wanted] == [False, True]


def test_names_that_read_as_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(map(may_be_folder, ("./p", "../p", "/p", "~/p", "p/", "a/b/c")))
    assert not any(map(may_be_folder, ("p", "a/b")))
    (tmp_path / "a").mkdir()
    assert may_be_folder("a/b")
