"""From the user's --processor to a family, or to a message that says what is wrong with it."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ProcessorDir
from vlmprep.families import loading
from vlmprep.families.loading import load_family
from vlmprep.families.qwen.vl import Qwen25VL
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings


@pytest.fixture
def folder(processor_dir: ProcessorDir, tmp_path: Path) -> Path:
    """A copy of a processor, to be spoiled."""
    shutil.copytree(processor_dir("qwen2_5_vl"), tmp_path / "copy")
    return tmp_path / "copy"


def stop(folder: Path | str, **settings: Any) -> str:
    loading._LOADED.clear()
    with pytest.raises(StopRun) as caught:
        load_family(FamilySettings(processor=str(folder), **settings))
    assert len(str(caught.value)) < 1_000
    return str(caught.value)


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    part = content["image_processor"] if name == "processor_config.json" else content
    part.update(changes)
    path.write_text(json.dumps(content))


def test_a_folder_becomes_its_family_once(folder):
    settings = FamilySettings(processor=str(folder))
    family = load_family(settings)
    assert isinstance(family, Qwen25VL)
    assert load_family(FamilySettings(processor=str(folder))) is family
    assert family.pad_token_id == family.processor.tokenizer.pad_token_id
    assert (family.position_axes, family.kinds) == (3, frozenset({"image", "video"}))


def test_an_end_of_sequence_pads_where_nothing_else_does(folder):
    edit(folder, "tokenizer_config.json", pad_token=None)
    family = load_family(FamilySettings(processor=str(folder)))
    assert family.decode([family.pad_token_id]) == "<|im_end|>"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"model": 5}', "\x00\xff"])
def test_a_spoiled_folder_never_ends_in_a_traceback(name, content, folder):
    (folder / name).write_text(content)
    loading._LOADED.clear()
    with suppress(StopRun):  # or it holds enough without this file
        load_family(FamilySettings(processor=str(folder)))


def test_a_folder_without_a_processor_stops_the_run(tmp_path):
    assert "cannot be loaded" in stop(tmp_path)
    assert "cannot be loaded" in stop(tmp_path / "none")


def test_a_processor_of_another_family_stops_the_run(tmp_path, folder):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "text")
    assert "text" in stop(tmp_path / "text")


@pytest.mark.parametrize("setting", ["do_resize", "do_rescale", "do_normalize"])
def test_a_processor_whose_pixels_are_not_the_usual_ones_stops_the_run(setting, folder):
    edit(folder, "processor_config.json", **{setting: False})
    assert f"has {setting} off" in stop(folder)


def test_a_config_of_another_model_stops_the_run(folder, tmp_path):
    from transformers import LlamaConfig, Qwen2_5_VLConfig

    LlamaConfig().save_pretrained(tmp_path / "llama")
    assert "config (llama) merges None x None patches" in stop(folder, model_config=str(tmp_path / "llama"))
    config: Any = Qwen2_5_VLConfig()
    config.vision_config.spatial_merge_size = 4
    config.save_pretrained(tmp_path / "coarse")
    assert "merges 4 x 4 patches" in stop(folder, model_config=str(tmp_path / "coarse"))


def test_a_config_that_cannot_be_read_stops_the_run(folder, tmp_path):
    assert "config" in stop(folder, model_config=str(tmp_path / "none"))
    (folder / "config.json").write_text("{")
    assert "config" in stop(folder)


def test_a_template_is_asked_for(folder):
    (folder / "chat_template.jinja").unlink()
    for name in ("tokenizer_config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text())
        content.pop("chat_template", None)
        (folder / name).write_text(json.dumps(content))
    assert "no chat template" in stop(folder)
