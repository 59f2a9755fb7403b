"""The fingerprint changes with whatever changes a token or a pixel, and with nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ProcessorDir
from tests.families.processors import build_processor as build_family_processor
from vlmprep.families import loading
from vlmprep.families.fingerprint import fingerprint
from vlmprep.families.internvl import InternVL
from vlmprep.families.loading import load_family
from vlmprep.families.phi4_multimodal import Phi4Multimodal
from vlmprep.schema.family import FamilySettings


def fingerprint_of(folder: Path, **settings: Any) -> dict[str, Any]:
    loading._LOADED.clear()
    made = FamilySettings(processor=str(folder), **settings)
    found = fingerprint(load_family(made), made)
    assert json.loads(json.dumps(found)) == found
    return found


@pytest.fixture
def folder(processor_dir: ProcessorDir, tmp_path: Path) -> Path:
    """A copy of a processor, to be changed."""
    copy = tmp_path / "copy"
    shutil.copytree(processor_dir("qwen2_5_vl", max_pixels=100_352), copy)
    return copy


def edit_json(name: str, edit: Callable[[Any], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        edit(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def edit_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return apply


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a word of the template": (edit_text("chat_template.jinja", "a helpful", "no"), "chat_template"),
    "a token's name": (edit_text("tokenizer.json", "<|object_ref_start|>", "<|object_ref_stop|>"), "tokenizer"),
    "a merge": (edit_json("tokenizer.json", lambda made: made["model"]["merges"].pop()), "tokenizer"),
    "the end of sequence": (
        edit_json("tokenizer_config.json", lambda made: made.update(eos_token="<|endoftext|>")),
        "special_tokens",
    ),
    "the largest image": (
        edit_json("processor_config.json", lambda made: made["image_processor"]["size"].update(longest_edge=50_176)),
        "image_processor",
    ),
    "the mean": (
        edit_json("processor_config.json", lambda made: made["image_processor"].update(image_mean=[0.1, 0.2, 0.3])),
        "image_processor",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_processor_is_noticed_and_named(change, folder):
    before = fingerprint_of(folder)
    apply, name = CHANGES[change]
    apply(folder)
    after = fingerprint_of(folder)
    assert {part for part in before if before[part] != after[part]} <= {name, "tokenizer"}
    assert before[name] != after[name]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"control_text": "keep"}, "control_text"),
        ({"image_backend": "pil"}, "image_processor"),
        ({"options": (("max_pixels", 50_176),)}, "image_processor"),
        ({"options": (("min_pixels", 784),)}, "image_processor"),
    ],
)
def test_a_change_of_settings_is_noticed_and_named(settings, name, folder):
    before, after = fingerprint_of(folder), fingerprint_of(folder, **settings)
    assert before[name] != after[name]
    assert {part for part in before if before[part] != after[part]} <= {name, "video_processor", "processor_calls"}


def test_another_family_is_noticed(processor_dir, folder):
    other = fingerprint_of(processor_dir("qwen2_vl", max_pixels=100_352))
    assert other["family"] != fingerprint_of(folder)["family"]


def test_another_model_config_is_noticed(folder):
    from transformers import Qwen2_5_VLConfig

    before = fingerprint_of(folder)
    config: Any = Qwen2_5_VLConfig()
    config.vision_config.tokens_per_second = 9
    config.save_pretrained(folder)
    after = fingerprint_of(folder)
    assert {part for part in before if before[part] != after[part]} == {"model_config"}


def test_a_copy_elsewhere_is_the_same(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "deep" / "down")
    assert fingerprint_of(folder) == fingerprint_of(tmp_path / "deep" / "down")


def test_files_that_no_processor_reads_do_not_count(folder):
    before = fingerprint_of(folder)
    (folder / "README.md").write_text("Hello")
    (folder / "model.safetensors").write_bytes(b"0" * 100)
    (folder / "chat_template.jinja").touch()
    assert fingerprint_of(folder) == before


def test_using_a_processor_does_not_change_it(folder):
    from tests.families.truth import AN_IMAGE, encode, full_run, image_of_size, sample_of
    from vlmprep.schema.conversation import Media

    before = fingerprint_of(folder)
    settings = FamilySettings(processor=str(folder))
    family: Any = load_family(settings)
    sample = sample_of(("user", [Media(kind="image", content=b"-"), "Q"]), ("assistant", "A"))
    encode(family, sample, [(40, 60)])
    family.tensors(image_of_size("torchvision", 40, 60), AN_IMAGE)
    full_run(family, sample, [image_of_size("torchvision", 40, 60)])
    assert fingerprint(family, settings) == before


def test_versions_of_what_decodes_and_counts_are_held(folder):
    versions = fingerprint_of(folder)["versions"]
    assert {"transformers", "tokenizers", "torch", "torchvision", "pillow"} <= set(versions)
    assert all(versions.values())


def test_what_a_processor_knows_beside_its_parts_counts():
    """How many tokens an image has, for one, is a setting of InternVL's processor itself."""
    internvl = InternVL(build_family_processor("internvl"))
    before = fingerprint(internvl, FamilySettings(processor="there"))
    internvl.processor.image_seq_length = 64
    after = fingerprint(internvl, FamilySettings(processor="there"))
    assert before["processor"] == {"image_seq_length": 256}
    assert {name for name in before if before[name] != after[name]} == {"processor"}


def test_what_hears_counts():
    phi4 = Phi4Multimodal(build_family_processor("phi4_multimodal"))
    before = fingerprint(phi4, FamilySettings(processor="there"))
    phi4.processor.audio_processor.hop_length = 80
    after = fingerprint(phi4, FamilySettings(processor="there"))
    assert {name for name in before if before[name] != after[name]} == {"audio_processor"}
