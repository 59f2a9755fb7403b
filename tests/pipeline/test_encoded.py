"""--pixels encoded: what is read is what `uint8` would have stored, whatever a pack holds; and what is not that is an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vlmprep
from tests.conftest import ProcessorDir
from tests.runs import chat, picture, run, write_jsonl
from vlmprep.engines.local import LocalEngine
from vlmprep.families.qwen.image import ImagePatches
from vlmprep.pipeline.settings import PackSettings, PlanSettings
from vlmprep.pipeline.verify import verify
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.progress import Silent
from vlmprep.shardformat.errors import BrokenPack

ENCODED = PackSettings(pixels="encoded")


def noise(path: Path, height: int = 90, width: int = 130, **how: Any) -> str:
    levels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(path, **how)
    return path.name


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """Text, one picture, two pictures, a clip that is a list of pictures."""
    images = [noise(tmp_path / "a.jpg"), noise(tmp_path / "b.png", 61, 203), picture(tmp_path / "c.webp")]
    frames = [noise(tmp_path / f"{number}.png", 64, 64) for number in range(4)]
    clip = {
        "id": "clip",
        "messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "Noise."}],
        "videos": [frames],
    }
    return [
        chat("text", "Hi?", "Yes."),
        chat("one", "Which?", "A.", images[:1]),
        chat("two", "Which?", "B, C.", images[1:]),
        clip,
    ]


def both(rows: Sequence[dict[str, Any]], processor: Path, root: Path, planning: PlanSettings) -> tuple[Any, Any]:
    """The same rows with levels and with files."""
    source = write_jsonl(root / "rows.jsonl", rows)
    run(source, processor, root / "levels", planning=planning)
    run(source, processor, root / "files", planning=planning, writing=ENCODED)
    assert verify(root / "files", LocalEngine(0), Silent()).problems == ()
    return vlmprep.open(root / "levels"), vlmprep.open(root / "files")


def assert_same_packs(levels: Any, files: Any) -> int:
    """All packs alike; how many of them have pixels."""
    assert len(levels) == len(files) > 0
    with_pixels = 0
    for pack_id in range(len(levels)):
        one, other = levels[pack_id], files[pack_id]
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        rows, others = ([medium.rows for medium in packs.info(pack_id).media] for packs in (levels, files))
        assert rows == others
        with_pixels += "pixel_values" in one
    return with_pixels


@pytest.mark.parametrize("fake_image", ["pack", "sample"])
def test_packs_are_those_of_levels(
    fake_image: Any, rows: list[dict[str, Any]], processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    planning = PlanSettings(pack_size=128, fake_image=fake_image)
    levels, files = both(rows, processor_dir(max_pixels=50_176), tmp_path, planning)
    assert assert_same_packs(levels, files) >= 2
    assert sum(shard.size for shard in files.manifest.shards) < sum(shard.size for shard in levels.manifest.shards)


def test_a_loaders_workers_decode(rows: list[dict[str, Any]], processor_dir: ProcessorDir, tmp_path: Path) -> None:
    levels, files = both(rows, processor_dir(max_pixels=50_176), tmp_path, PlanSettings(pack_size=512))
    wanted, found = (list(vlmprep.Loader(packs, num_workers=number)) for packs, number in ((levels, 0), (files, 1)))
    assert len(wanted) == len(found) >= 1
    for one, other in zip(wanted, found, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert other["pixel_values"].dtype == torch.float32


@pytest.fixture
def cut_row(tmp_path: Path) -> dict[str, Any]:
    """A sample whose second picture does not fit into packs of 1,152 tokens."""
    return {
        "id": "cut",
        "messages": [
            {"role": "user", "content": "<image>Which?"},
            {"role": "assistant", "content": "word " * 540},
            {"role": "user", "content": "<image>And this?"},
            {"role": "assistant", "content": "word " * 300},
        ],
        "images": [noise(tmp_path / "a.jpg", 224, 224), noise(tmp_path / "b.jpg", 223, 224)],
    }


TRUNCATE = PlanSettings(pack_size=1_152, overlong="truncate")


def test_a_cut_sample_keeps_the_files_before_the_cut(
    cut_row: dict[str, Any], processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    levels, files = both([cut_row], processor_dir(max_pixels=50_176), tmp_path, TRUNCATE)
    assert assert_same_packs(levels, files) == 1
    assert files.info(0).samples[0].num_cut_tokens > 0
    assert len(files.info(0).media) == 1


def test_a_cut_that_changes_what_files_decode_to_refuses_the_sample(
    cut_row: dict[str, Any], processor_dir: ProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a processor looks at how many pictures there are; then the files that are left do not tell."""

    def other(*_: Any) -> Any:
        raise ValueError("medium 1 of the document decodes to other pixel_values")

    monkeypatch.setattr("vlmprep.pipeline.encoded.DocumentDecoder.decoded", other)
    source = write_jsonl(tmp_path / "rows.jsonl", [cut_row, chat("whole", "Hi?", "Yes.", cut_row["images"][:1])])
    run(source, processor_dir(max_pixels=50_176), tmp_path / "set", planning=TRUNCATE, writing=ENCODED)
    account = {row["sample_id"]: row for row in pq.read_table(tmp_path / "set" / "samples.parquet").to_pylist()}
    assert account["whole"]["status"] == "packed"
    assert account["cut"]["reason_code"] == "encoded-cut"
    assert "other pixel_values" in account["cut"]["reason"]


def test_a_picture_that_does_not_decode_is_refused_by_its_name(processor_dir: ProcessorDir, tmp_path: Path) -> None:
    noise(tmp_path / "broken.jpg")
    whole = (tmp_path / "broken.jpg").read_bytes()
    (tmp_path / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    rows = [chat("broken", "Which?", "A.", ["broken.jpg"]), chat("text", "Hi?", "Yes.")]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    run(source, processor_dir(max_pixels=50_176), tmp_path / "set", writing=ENCODED)
    account = {row["sample_id"]: row for row in pq.read_table(tmp_path / "set" / "samples.parquet").to_pylist()}
    assert account["broken"]["reason_code"] == "undecodable-media"
    assert "broken.jpg does not decode" in account["broken"]["reason"]


@pytest.fixture
def packed(rows: list[dict[str, Any]], processor_dir: ProcessorDir, tmp_path: Path) -> Path:
    processor = shutil.copytree(processor_dir(max_pixels=50_176), tmp_path / "processor")
    run(write_jsonl(tmp_path / "rows.jsonl", rows[:2]), processor, tmp_path / "set", writing=ENCODED)
    return tmp_path / "set"


def test_a_decoder_that_finds_other_pixels_is_noticed(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ImagePatches.tensors

    def other(self: Any, decoded: Any) -> dict[str, Any]:
        made = whole(self, decoded)
        made["pixel_values"] = made["pixel_values"].copy()
        made["pixel_values"][0, 0, 0, 0] ^= 1
        return made

    monkeypatch.setattr(ImagePatches, "tensors", other)
    with pytest.raises(
        BrokenPack, match=r"pack 000000000: medium 1 .* decodes to other pixel_values than when it was packed"
    ):
        vlmprep.open(packed)[0]


def test_the_processor_may_have_moved(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmprep.families.loading._LOADED", {})
    before = vlmprep.open(packed)[0]
    shutil.move(packed.parent / "processor", packed.parent / "moved")
    monkeypatch.setattr("vlmprep.families.loading._LOADED", {})
    with pytest.raises(StopRun, match=rf"there is no folder {packed.parent}/processor on this machine\n.*processor="):
        vlmprep.open(packed)[0]
    with pytest.raises(StopRun, match=r"'\./gone' cannot be loaded: there is no such folder"):
        vlmprep.open(packed, processor="./gone")[0]
    after = vlmprep.open(packed, processor=str(packed.parent / "moved"))[0]
    assert torch.equal(before["pixel_values"], after["pixel_values"])


def test_a_name_that_the_hub_does_not_know_is_told_with_what_to_pass(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings: FamilySettings) -> None:
        raise StopRun(f"the processor {settings.processor!r} cannot be loaded", "Give --processor.")

    monkeypatch.setattr("vlmprep.pipeline.encoded.load_family", refuse)
    packs = vlmprep.open(packed)
    packs.manifest.settings["processor"]["processor"] = "folder/processor"  # where it was packed; or on the hub
    with pytest.raises(StopRun, match=r"'folder/processor' cannot be loaded\n.*vlmprep.open\(..., processor="):
        packs[0]


def test_a_pack_set_does_not_say_whether_code_may_run(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote the manifest is not whom the reader trusts."""
    asked: list[bool] = []
    manifest = vlmprep.open(packed).manifest
    assert json.loads((packed / "manifest.json").read_bytes())["settings"]["processor"]["trust_remote_code"] is False
    manifest.settings["processor"]["trust_remote_code"] = True
    monkeypatch.setattr(
        "vlmprep.pipeline.encoded.load_family", lambda settings: asked.append(settings.trust_remote_code)
    )
    from vlmprep.pipeline.encoded import pack_decoder

    for trusted in (False, True):
        pack_decoder(manifest, None, trust_remote_code=trusted)
    assert asked == [False, True]
