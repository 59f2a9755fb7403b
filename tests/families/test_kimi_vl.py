"""Kimi-VL against code of the published interface that comes with a processor's folder, loaded as such."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlmprep
from tests.families import kimi_vl_remote
from tests.families.processors import build_tokenizer, template
from tests.families.tiled import EDGE_SIZES, noise, random_sizes, restored
from tests.families.truth import sample_of
from tests.runs import chat, picture, run, write_jsonl
from vlmprep.engines.local import LocalEngine
from vlmprep.families.fingerprint import fingerprint
from vlmprep.families.kimi_vl import KimiVL
from vlmprep.families.loading import load_family
from vlmprep.pipeline.verify.run import verify
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.media import ImageSize
from vlmprep.schema.progress import Silent

IMAGE = Media(kind="image", content=b"")
TOKENS = {
    "media_start": "<|media_start|>",
    "media_content": "<|media_content|>",
    "media_pad": "<|media_pad|>",
    "media_end": "<|media_end|>",
    "user": "<|im_user|>",
    "assistant": "<|im_assistant|>",
    "system": "<|im_system|>",
    "middle": "<|im_middle|>",
    "end_of_turn": "<|im_end|>",
}


def build(*, marked: bool = False, **images: Any) -> Any:
    roles = {role: f"<|im_{role}|>{role}" for role in ("user", "assistant", "system")}
    media = {"image": "<|media_start|>image<|media_content|><|media_pad|><|media_end|>"}
    text = template("ROLE<|im_middle|>", "<|im_end|>", media, marked=marked, roles=roles)
    return kimi_vl_remote.KimiVLProcessor(
        kimi_vl_remote.KimiVLImageProcessor(**{"pad_input": True, **images}),
        build_tokenizer(text, **TOKENS),
        chat_template=text,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A processor with its code beside it, as on the hub."""
    path: Path = tmp_path_factory.mktemp("kimi-vl")
    save_with_code(path)
    return path


def save_with_code(path: Path) -> None:
    """Save a processor with its code beside it."""
    parts = (kimi_vl_remote.KimiVLImageProcessor, kimi_vl_remote.KimiVLProcessor)
    try:
        kimi_vl_remote.KimiVLImageProcessor.register_for_auto_class("AutoImageProcessor")
        kimi_vl_remote.KimiVLProcessor.register_for_auto_class("AutoProcessor")
        build().save_pretrained(path)
    finally:
        for part in parts:
            part._auto_class = None


@pytest.fixture
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that is loaded is copied here, not into the user's cache."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def check(family: KimiVL, sizes: list[tuple[int, int]]) -> None:
    """A conversation with images of these heights and widths: ids, labels and every field, against one call."""
    images = [noise("pil", *size) for size in sizes]
    sample = sample_of(("user", [*[IMAGE] * len(sizes), "Look."]), ("assistant", "Yes."))
    counts = family.measure([ImageSize(height=height, width=width, num_bytes=1) for height, width in sizes])
    tokens = family.encode(sample, counts).expand()
    parts = [*[{"type": "image"}] * len(sizes), {"type": "text", "text": "Look."}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
    text = family.processor.apply_chat_template([{"role": "user", "content": parts}, answer])
    truth = family.processor(images=images, text=text, return_tensors="pt")
    assert tokens.input_ids.tolist() == truth["input_ids"][0].tolist()
    pads = tokens.input_ids == family.processor.tokenizer.convert_tokens_to_ids("<|media_pad|>")
    assert tokens.mm_token_type_ids.tolist() == pads.astype(int).tolist()
    assert pads.sum() == sum(entry.num_visual_tokens for entry in counts)
    tensors = [family.tensors(image, entry) for image, entry in zip(images, counts, strict=True)]
    for each, entry in zip(tensors, counts, strict=True):
        assert np.array_equal(each["image_grid_hws"], entry.inputs["image_grid_hws"])
        assert each["pixel_values"].nbytes == entry.stored_bytes
    found = restored(family, tensors)
    assert found.keys() == {"pixel_values", "image_grid_hws"}
    for name, tensor in found.items():
        assert tensor.dtype == truth[name].dtype
        assert torch.equal(tensor, truth[name]), name


def test_images_of_every_shape_are_the_processors() -> None:
    family = KimiVL(build(in_token_limit=300))
    left = [*EDGE_SIZES, (700, 561), (3, 6_000), *random_sizes(8, most=700)]
    while left:
        check(family, left[:3])
        left = left[3:]


def test_the_published_settings_and_others_count_alike() -> None:
    check(KimiVL(build()), [(1_100, 900), (20, 7_100)])
    uneven = KimiVL(
        build(merge_kernel_size=(1, 3), patch_size=8, image_mean=(0.1, 0.2, 0.3), image_std=(0.9, 0.7, 0.6))
    )
    check(uneven, [(50, 70), (9, 300), (100, 100)])


@pytest.mark.usefixtures("_own_modules")
def test_code_beside_the_processor_runs_only_where_it_is_trusted(folder: Path) -> None:
    with pytest.raises(StopRun, match="cannot be loaded"):
        load_family(FamilySettings(processor=str(folder)))
    family = load_family(FamilySettings(processor=str(folder), trust_remote_code=True))
    assert isinstance(family, KimiVL)
    assert type(family.processor).__module__.startswith("transformers_modules")
    check(family, [(100, 60), (300, 301)])


@pytest.mark.usefixtures("_own_modules")
def test_the_fingerprint_holds_the_code(folder: Path, tmp_path: Path) -> None:
    made = fingerprint_of(folder)
    assert made["own_code"].keys() == {"KimiVLProcessor", "KimiVLImageProcessor"}
    same, changed = tmp_path / "same", tmp_path / "changed"
    for copy in (same, changed):
        shutil.copytree(folder, copy)
    code = changed / "kimi_vl_remote.py"
    code.write_text(code.read_text() + "\n# another version\n")
    assert fingerprint_of(same) == made
    other = fingerprint_of(changed)
    assert {part for part in made if made[part] != other[part]} == {"own_code"}


def fingerprint_of(folder: Path) -> dict[str, Any]:
    settings = FamilySettings(processor=str(folder), trust_remote_code=True)
    return fingerprint(load_family(settings), settings)


@pytest.mark.usefixtures("_own_modules")
def test_rows_become_packs(folder: Path, tmp_path: Path) -> None:
    rows = [chat(f"{n}", "What?", "A picture.", [picture(tmp_path / f"{n}.png", 60 + 9 * n)] * n) for n in range(3)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    run(source, folder, tmp_path / "set", trust_remote_code=True, max_refused=0.0)
    packs = vlmprep.open(tmp_path / "set")
    assert len(packs) == 1
    pack = packs[0]
    assert len(pack["image_grid_hws"]) == 3
    assert len(pack["pixel_values"]) == pack["image_grid_hws"].prod(dim=1).sum()
    batch = next(iter(vlmprep.Loader(packs, dp_rank=0, dp_world_size=1, collate="neat")))
    assert batch.keys() & {"mm_token_type_ids", "pixel_values", "image_grid_hws"} == {"pixel_values", "image_grid_hws"}
    assert batch["n_images_per_sample"].tolist() == [3]
    assert batch["pixel_values"].dtype == torch.float32
    assert verify(tmp_path / "set", LocalEngine(0), Silent()).problems == ()


def test_labels_are_those_of_marks_in_the_template() -> None:
    sample = sample_of(
        ("system", "Brief."), ("user", [IMAGE, "What?"]), ("assistant", "A cat."), ("user", "?"), ("assistant", "\n!")
    )
    encoded = []
    for marked in (False, True):
        family = KimiVL(build(marked=marked))
        counts = family.measure([ImageSize(height=64, width=64, num_bytes=1)])
        encoded.append(family.encode(sample, counts).expand())
    own, truth = encoded
    assert own.input_ids.tolist() == truth.input_ids.tolist()
    assert own.is_label.tolist() == truth.is_label.tolist()
    assert family.decode(own.input_ids[own.is_label].tolist()) == "A cat.<|im_end|>\n!<|im_end|>"


def test_shapes_that_the_processor_refuses_are_refused() -> None:
    family = KimiVL(build())
    with pytest.raises(RefuseSample, match="a side has at most 511"):
        family.measure([ImageSize(height=30, width=7_300, num_bytes=1)])
    with pytest.raises(ValueError, match="Exceed pos emb"):
        family.processor.image_processor(images=[Image.new("RGB", (7_300, 30))])


def test_the_fake_image_is_the_processors() -> None:
    family = KimiVL(build())
    encoded, entry, pixels = family.fake_image()
    wrapped = "<|media_start|>image<|media_content|><|media_pad|><|media_end|>"
    made = family.processor(text=[wrapped], images=[pixels], return_tensors="pt")
    assert encoded.expand().input_ids.tolist() == made["input_ids"][0].tolist()
    assert (entry.num_visual_tokens, entry.num_patches) == (4, 16)
    assert (family.tensors(pixels, entry)["pixel_values"] == 255).all()


def test_without_padding_patches_that_do_not_merge_are_refused() -> None:
    family = KimiVL(build(pad_input=False))
    check(family, [(56, 84), (60, 57)])
    with pytest.raises(RefuseSample, match="do not merge"):
        family.measure([ImageSize(height=42, width=84, num_bytes=1)])
    with pytest.raises(RefuseSample, match="at least 1"):
        family.measure([ImageSize(height=13, width=84, num_bytes=1)])


def test_code_that_does_something_else_stops_the_run() -> None:
    processor = build()
    fitted = type(processor.image_processor)._fitted
    processor.image_processor._fitted = lambda image: fitted(processor.image_processor, image.resize((77, 77)))
    with pytest.raises(StopRun, match="patches of a"):
        KimiVL(processor)
    family = KimiVL(build())
    (entry,) = family.measure([ImageSize(height=28, width=28, num_bytes=1)])
    family._images.image_std = [0.25] * 3
    with pytest.raises(StopRun, match="not \\(level / 255 - mean\\) / std"):
        family.tensors(noise("pil", 28, 28), entry)
    processor = build()
    del processor.image_processor.merge_kernel_size
    with pytest.raises(StopRun, match="has no merge_kernel_size"):
        KimiVL(processor)
