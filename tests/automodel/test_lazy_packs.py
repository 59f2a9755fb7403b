from __future__ import annotations

import logging
import multiprocessing
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import vlmprep
from tests.automodel.lazy import PACK_SIZE, BothWays, pack_both_ways
from tests.conftest import ProcessorDir
from vlmprep.automodel.collate_fns import neat_packed_vlm_collater
from vlmprep.automodel.neat_packing_vlm import PackedDatasetWrapper, neat_pack_dataset_vlm
from vlmprep.automodel.tokenized import PreTokenizedDatasetWrapper
from vlmprep.runtime.pixels import restore_all
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.shardformat.index import PackIndex

Fake = Literal["pack", "sample", "none"]


@pytest.fixture(scope="module")
def with_pack_fakes(tmp_path_factory: pytest.TempPathFactory, processor_dir: ProcessorDir) -> BothWays:
    return pack_both_ways(tmp_path_factory.mktemp("pack"), processor_dir(max_pixels=50_176), "pack")


@pytest.fixture(scope="module")
def with_sample_fakes(tmp_path_factory: pytest.TempPathFactory, processor_dir: ProcessorDir) -> BothWays:
    return pack_both_ways(tmp_path_factory.mktemp("sample"), processor_dir(max_pixels=50_176), "sample")


@pytest.fixture(scope="module")
def with_text_fakes(tmp_path_factory: pytest.TempPathFactory, processor_dir: ProcessorDir) -> BothWays:
    return pack_both_ways(tmp_path_factory.mktemp("text"), processor_dir(max_pixels=50_176), "pack", text_only=True)


def lazy(made: BothWays, fake_image: Fake = "pack", **options: Any) -> PackedDatasetWrapper:
    tokenized = PreTokenizedDatasetWrapper(made.examples, made.processor, fake_image=fake_image, **options)
    return neat_pack_dataset_vlm(tokenized, PACK_SIZE)


@pytest.mark.parametrize(("corpus", "fake_image"), [("pack", "pack"), ("sample", "sample"), ("text", "pack")])
@pytest.mark.parametrize("planned", [True, False])
def test_packs_equal_those_on_disk_bit_for_bit(
    corpus: str, fake_image: Fake, planned: bool, request: pytest.FixtureRequest
):
    made: BothWays = request.getfixturevalue(f"with_{corpus}_fakes")
    disk = vlmprep.open(made.packset)
    tokenized = PreTokenizedDatasetWrapper(made.examples, made.processor, fake_image=fake_image)
    packed = (
        neat_pack_dataset_vlm(tokenized, PACK_SIZE)
        if planned
        else PackedDatasetWrapper(tokenized, made.bins, PACK_SIZE)
    )
    assert packed.bins == made.bins
    assert len(packed) == len(disk) > (3 if corpus != "text" else 0)
    for pack_id in range(len(disk)):
        written, found = disk[pack_id], packed.packs[pack_id]
        assert list(found) == list(written)
        for field, values in written.items():
            assert found[field].dtype == values.dtype
            assert torch.equal(found[field], values), field
    hides = [bool((disk[pack_id]["attention_mask"] == 0).any()) for pack_id in range(len(disk))]
    assert any(hides) is (corpus != "pack"), "fake images are hidden"


@pytest.mark.parametrize(("corpus", "fake_image"), [("pack", "pack"), ("sample", "sample"), ("text", "pack")])
def test_what_is_known_of_packs_equals_the_index_on_disk(corpus: str, fake_image: Fake, request: pytest.FixtureRequest):
    made: BothWays = request.getfixturevalue(f"with_{corpus}_fakes")
    disk = vlmprep.open(made.packset).index
    tokenized = PreTokenizedDatasetWrapper(made.examples, made.processor, fake_image=fake_image)
    planned = lazy(made, fake_image).packs.index
    counted = PackedDatasetWrapper(tokenized, made.bins, PACK_SIZE).packs.index
    nowhere = {"shard", "offset", "size", "xxh3"}
    names = set(PackIndex.__dataclass_fields__) - nowhere
    assert len(names) == 7
    for name in names:
        for index in (planned, counted):
            assert np.array_equal(getattr(index, name), getattr(disk, name)), name
            assert getattr(index, name).dtype == getattr(disk, name).dtype


def test_the_reference_form_holds_what_the_processor_gives(with_pack_fakes: BothWays):
    made = with_pack_fakes
    disk, packed = vlmprep.open(made.packset), lazy(made)
    with_images = 0
    for pack_id in range(len(disk)):
        stored: dict[str, Any] = dict(disk[pack_id])
        restored = restore_all(stored, disk.manifest.pixels)
        pack = packed[pack_id]
        assert set(pack) == {*restored, "n_images", "n_videos"}
        for field, values in restored.items():
            assert torch.equal(pack[field], values.to(pack[field].dtype)), field
        assert pack["input_ids"].dtype == pack["attention_mask"].dtype == pack["position_ids"].dtype == torch.int64
        assert pack["n_images"] == len(pack["image_grid_thw"])
        assert pack["n_videos"] == 0
        with_images += pack["pixel_values"].dtype == torch.float32
    assert with_images == len(disk)
    batch = neat_packed_vlm_collater([packed[0], packed[1]], attn_implementation="flash_attention_2")
    assert batch["n_images_per_sample"].tolist() == [packed[0]["n_images"], packed[1]["n_images"]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_takes_them_and_resumes_where_it_stood(with_pack_fakes: BothWays, num_workers: int):
    made = with_pack_fakes
    options: dict[str, Any] = {"seed": 3, "packs_per_rank": 1, "collate": "neat"}
    truth = list(vlmprep.Loader(vlmprep.open(made.packset), **options))
    packs = lazy(made).packs
    first = vlmprep.Loader(packs, num_workers=num_workers, **options)
    batches = iter(first)
    seen = [next(batches), next(batches)]
    resumed = vlmprep.Loader(lazy(made).packs, num_workers=num_workers, **options)
    resumed.load_state_dict(first.state_dict())
    seen += list(resumed)
    assert len(seen) == len(truth) > 3
    for batch, expected in zip(seen, truth, strict=True):
        assert list(batch) == list(expected)
        for field, values in expected.items():
            assert torch.equal(batch[field], values), field
        assert batch.pack_ids == expected.pack_ids
        assert batch.num_label_tokens_in_step == expected.num_label_tokens_in_step


def test_a_state_of_other_samples_or_another_plan_is_refused(with_pack_fakes: BothWays):
    made = with_pack_fakes
    state = vlmprep.Loader(lazy(made).packs).state_dict()
    other = [{"conversation": [*made.examples[0]["conversation"][:-1], {"role": "assistant", "content": "Another."}]}]
    changed = PreTokenizedDatasetWrapper([*other, *made.examples[1:]], made.processor, fake_image="pack")
    others = [
        neat_pack_dataset_vlm(changed, PACK_SIZE).packs,
        neat_pack_dataset_vlm(changed, PACK_SIZE, seed=1).packs,
    ]
    for packs in others:
        with pytest.raises(ValueError, match="pack_set"):
            vlmprep.Loader(packs).load_state_dict(state)


def test_forked_workers_make_the_same_packs(with_pack_fakes: BothWays):
    packed = lazy(with_pack_fakes)
    made = list(DataLoader(packed, batch_size=None, num_workers=2))
    assert len(made) == len(packed) > 3
    for pack_id in (0, len(packed) - 1):
        for field, value in packed[pack_id].items():
            assert torch.equal(torch.as_tensor(made[pack_id][field]), torch.as_tensor(value))


def test_they_pickle(with_pack_fakes: BothWays):
    packed = lazy(with_pack_fakes)
    before = packed[1]
    again = pickle.loads(pickle.dumps(packed))
    assert torch.equal(again[1]["pixel_values"], before["pixel_values"])
    assert again.packs.manifest == packed.packs.manifest


def spoiled(made: BothWays, folder: Path, how: str) -> tuple[list[dict[str, Any]], int]:
    """The examples, with one of them that fails only when its image is decoded, or already when it is counted."""
    at = next(number for number, example in enumerate(made.examples) if images_of(example))
    path = Path(images_of(made.examples[at])[0])
    broken = folder / path.name
    data = path.read_bytes()
    if how == "late":
        broken.write_bytes(data[: len(data) // 2])
    content = [
        {**item, "image": str(broken)} if item.get("image") == str(path) else item
        for item in made.examples[at]["conversation"][-2]["content"]
    ]
    rows = [dict(example) for example in made.examples]
    conversation = [dict(message) for message in rows[at]["conversation"]]
    for message in conversation:
        message["content"] = [
            {**item, "image": str(broken)} if item.get("image") == str(path) else item for item in message["content"]
        ]
    rows[at] = {"conversation": conversation}
    assert content is not None
    return rows, at


def images_of(example: dict[str, Any]) -> list[str]:
    return [item["image"] for message in example["conversation"] for item in message["content"] if "image" in item]


@pytest.mark.parametrize("how", ["late", "early"])
def test_by_default_a_failing_sample_raises_and_is_named(with_pack_fakes: BothWays, tmp_path: Path, how: str):
    rows, bad = spoiled(with_pack_fakes, tmp_path, how)
    tokenized = PreTokenizedDatasetWrapper(rows, with_pack_fakes.processor, fake_image="pack")
    with pytest.raises(RefuseSample, match=f"sample {bad}: "):
        tokenized[bad]
    if how == "early":
        with pytest.raises(RefuseSample, match=f"sample {bad}: .*does not exist.*failures='refuse'"):
            neat_pack_dataset_vlm(tokenized, PACK_SIZE)
        return
    packed = neat_pack_dataset_vlm(tokenized, PACK_SIZE)
    holds = next(number for number, samples in enumerate(packed.bins) if bad in samples)
    with pytest.raises(RefuseSample, match=f"pack {holds}, sample {bad}: .*does not decode"):
        packed[holds]


def test_refused_samples_are_left_out_counted_and_told_once(with_pack_fakes: BothWays, tmp_path: Path, caplog):
    rows, bad = spoiled(with_pack_fakes, tmp_path, "late")
    tokenized = PreTokenizedDatasetWrapper(rows, with_pack_fakes.processor, fake_image="pack", failures="refuse")
    packed = neat_pack_dataset_vlm(tokenized, PACK_SIZE)
    holds = next(number for number, samples in enumerate(packed.bins) if bad in samples)
    with caplog.at_level(logging.WARNING):
        served = [packed[holds], packed[holds]]
    assert [record.message for record in caplog.records if f"sample {bad} fails" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1
    whole = lazy(with_pack_fakes)
    planned = int(packed.packs.index.num_label_tokens[holds])
    lost = planned - int((served[0]["labels"] != -100).sum())
    assert lost > 0
    assert f"pack {holds} goes without it; num_label_tokens_in_step still counts its {lost} label tokens" in caplog.text
    others = [number for number in packed.bins[holds] if number != bad]
    assert int(served[0]["attention_mask"].max()) == len(others) or not others
    kept = PackedDatasetWrapper(whole.inner, [others], PACK_SIZE)[0]
    for field, value in kept.items():
        assert torch.equal(torch.as_tensor(served[1][field]), torch.as_tensor(value)), field
    assert packed.failures.samples == [bad]
    assert packed.failures.codes == {"undecodable-media": 1}


def test_spawned_workers_make_the_same_packs_and_their_failures_are_counted_here(
    with_pack_fakes: BothWays, tmp_path: Path
):
    rows, bad = spoiled(with_pack_fakes, tmp_path, "late")
    tokenized = PreTokenizedDatasetWrapper(rows, with_pack_fakes.processor, fake_image="pack", failures="refuse")
    packed = neat_pack_dataset_vlm(tokenized, PACK_SIZE)
    context: Any = multiprocessing.get_context("spawn")
    made = list(DataLoader(packed, batch_size=None, num_workers=1, multiprocessing_context=context))
    assert len(made) == len(packed) > 3
    assert packed.failures.samples == [bad]
    other = next(number for number, samples in enumerate(packed.bins) if bad not in samples)
    for field, value in packed[other].items():
        assert torch.equal(torch.as_tensor(made[other][field]), torch.as_tensor(value))


def test_samples_that_cannot_be_counted_are_left_out_of_the_plan(with_pack_fakes: BothWays, tmp_path: Path, caplog):
    rows, bad = spoiled(with_pack_fakes, tmp_path, "early")
    rows.append({"conversation": []})
    tokenized = PreTokenizedDatasetWrapper(rows, with_pack_fakes.processor, fake_image="pack", failures="refuse")
    with caplog.at_level(logging.WARNING):
        packed = neat_pack_dataset_vlm(tokenized, PACK_SIZE)
    planned = sorted(number for samples in packed.bins for number in samples)
    assert planned == [number for number in range(len(rows) - 1) if number != bad]
    assert packed.failures.samples == [bad, len(rows) - 1]
    assert "2 of 33 samples are left out of every pack: 1 missing-media, 1 no-messages" in caplog.text


def test_a_substitute_fits_and_is_named(with_pack_fakes: BothWays, tmp_path: Path, caplog):
    rows, bad = spoiled(with_pack_fakes, tmp_path, "late")
    tokenized = PreTokenizedDatasetWrapper(
        rows, with_pack_fakes.processor, fake_image="pack", failures="substitute", max_retries=200
    )
    packed = neat_pack_dataset_vlm(tokenized, PACK_SIZE)
    holds = next(number for number, samples in enumerate(packed.bins) if bad in samples)
    packed.packs._max_retries = 200
    with caplog.at_level(logging.WARNING):
        pack = packed[holds]
    assert len(pack["input_ids"]) <= PACK_SIZE
    assert int(pack["attention_mask"].max()) == len(packed.bins[holds])
    assert f"sample {bad} fails" in caplog.text
    assert "takes its place" in caplog.text


def test_long_samples_fail_unless_they_may_be_left_out(with_pack_fakes: BothWays, caplog):
    long = {"conversation": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "word " * PACK_SIZE}]}
    tokenized = PreTokenizedDatasetWrapper(
        [*with_pack_fakes.examples, long], with_pack_fakes.processor, fake_image="pack"
    )
    number = len(with_pack_fakes.examples)
    with pytest.raises(RefuseSample, match=f"sample {number}: .* tokens after the shift"):
        neat_pack_dataset_vlm(tokenized, PACK_SIZE)
    with caplog.at_level(logging.WARNING):
        packed = neat_pack_dataset_vlm(tokenized, PACK_SIZE, drop_long_samples=True)
    assert packed.bins == lazy(with_pack_fakes).bins
    assert "1 of 33 samples are left out of every pack: 1 overlong" in caplog.text
    with pytest.raises(StopRun, match="no sample"):
        neat_pack_dataset_vlm(
            PreTokenizedDatasetWrapper([long], with_pack_fakes.processor), PACK_SIZE, drop_long_samples=True
        )


def test_max_length_holds_in_packs_too(with_pack_fakes: BothWays):
    made = with_pack_fakes
    lengths = [
        len(PreTokenizedDatasetWrapper(made.examples, made.processor)[number]["input_ids"]) for number in range(8)
    ]
    longest = lengths.index(max(lengths))
    short = PreTokenizedDatasetWrapper(made.examples[:8], made.processor, max(lengths) - 1)
    with pytest.raises(
        RefuseSample, match=f"sample {longest}: {max(lengths)} tokens, max_length is {max(lengths) - 1}"
    ):
        neat_pack_dataset_vlm(short, PACK_SIZE)
    packed = neat_pack_dataset_vlm(short, PACK_SIZE, drop_long_samples=True)
    left_out = [number for number, length in enumerate(lengths) if length == max(lengths)]
    assert sorted(number for samples in packed.bins for number in samples) == sorted({*range(8)} - {*left_out})
    with pytest.raises(RefuseSample, match="max_length is"):
        PackedDatasetWrapper(short, [[longest]], PACK_SIZE)[0]


def test_bins_that_overflow_are_not_cut_in_silence(with_pack_fakes: BothWays):
    tokenized = PreTokenizedDatasetWrapper(with_pack_fakes.examples, with_pack_fakes.processor, fake_image="pack")
    packed = PackedDatasetWrapper(tokenized, [list(range(12))], PACK_SIZE)
    with pytest.raises(RefuseSample, match="its pack has room for"):
        packed[0]
    served = PackedDatasetWrapper(tokenized, [list(range(12))], PACK_SIZE, failures="refuse")
    assert len(served[0]["input_ids"]) <= PACK_SIZE
    assert 0 < len(served.failures) < 12


def test_settings_are_those_of_the_planner(with_pack_fakes: BothWays):
    tokenized = PreTokenizedDatasetWrapper(with_pack_fakes.examples, with_pack_fakes.processor, fake_image="pack")
    whole = neat_pack_dataset_vlm(tokenized, PACK_SIZE)
    assert neat_pack_dataset_vlm(tokenized, PACK_SIZE, max_packs=2).bins == whole.bins[:2]
    assert neat_pack_dataset_vlm(tokenized, PACK_SIZE, ds_raw=with_pack_fakes.examples).bins == whole.bins
    assert len(neat_pack_dataset_vlm(tokenized, PACK_SIZE, packing_ratio=0.6)) > len(whole)
    assert neat_pack_dataset_vlm(tokenized, PACK_SIZE, seed=1).bins != whole.bins
    with pytest.raises(ValueError, match="ds_raw has 1 samples"):
        neat_pack_dataset_vlm(tokenized, PACK_SIZE, ds_raw=[0])
    with pytest.raises(IndexError):
        whole[len(whole)]
