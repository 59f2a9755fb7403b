"""A few hundred broken items through the real stages; scripts/fuzz.py runs ten thousand. And that the watch watches."""

from __future__ import annotations

import mmap
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import Qwen2VLVideoProcessor

from tests.conftest import FamilyProcessorDir
from tests.fuzz import watch
from tests.fuzz.batch import Batch, Outcome, run_batch
from tests.fuzz.bombs import BOMBS
from tests.fuzz.corpus import WHOLE
from tests.fuzz.seeds import SEEDS, seed_bytes
from tests.fuzz.watch import Watcher, batches
from vlmprep.families.media.clips import load_clip
from vlmprep.families.media.images import load_image
from vlmprep.families.media.sounds import load_sound
from vlmprep.schema.conversation import Media, MediaKind
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import AudioSize, Loader
from vlmprep.sources.media import MediaReader

NUM_ITEMS = 384
BATCH = 64


@pytest.fixture(scope="module")
def watcher() -> Iterator[Watcher]:
    found = Watcher(seconds_per_item=20, max_bytes=800 << 20)
    yield found
    found.close()


def test_broken_media_and_rows_are_refused_or_what_the_processor_makes_of_them(
    watcher: Watcher, family_processor_dir: FamilyProcessorDir
) -> None:
    kinds = [
        Batch(numbers=(), seed=11, processor=family_processor_dir("qwen2_5_vl"), image_backend="torchvision"),
        Batch(numbers=(), seed=11, processor=family_processor_dir("qwen3_omni"), image_backend="pil"),
        Batch(numbers=(), seed=11, processor=family_processor_dir("qwen2_5_vl"), verify_media=True, inside=True),
    ]
    outcomes = [outcome for batch in batches(kinds, NUM_ITEMS, BATCH) for outcome in watcher.run(batch).outcomes]
    assert [outcome for outcome in outcomes if outcome.wrong] == []
    assert sorted(outcome.number for outcome in outcomes) == list(range(NUM_ITEMS))
    results = Counter(outcome.result for outcome in outcomes)
    assert results["packed"] > NUM_ITEMS / 4
    assert results["packing: undecodable-media"] > NUM_ITEMS / 20
    assert len(results) > 15
    assert sum(outcome.how == WHOLE for outcome in outcomes) == NUM_ITEMS / 8
    assert {outcome.kind for outcome in outcomes} == {"image", "video", "audio", "row"}


def test_other_pixels_are_noticed(
    family_processor_dir: FamilyProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(numbers=(0, 1, 2, 3, 4, 5, 6), seed=11, processor=family_processor_dir("idefics3"))
    assert [outcome.wrong for outcome in run_batch(batch, tmp_path / "right")] == [""] * 7
    monkeypatch.setattr("vlmprep.families.base.load_image", lambda *given: 255 - load_image(*given))
    wrong = run_batch(batch, tmp_path / "wrong")
    packed = [outcome for outcome in wrong if outcome.result == "packed" and outcome.kind == "image"]
    assert len(packed) > 1
    assert all("pixel_values is not the processor's" in outcome.wrong for outcome in packed)


@pytest.mark.parametrize("loader", ["torchvision", "pil"])
@pytest.mark.parametrize("name", BOMBS["image"])
def test_a_bomb_claims_too_much_or_is_as_small_as_it_says(name: str, loader: Loader) -> None:
    medium = Media(kind="image", content=BOMBS["image"][name]())
    start = time.process_time()
    with suppress(RefuseSample):
        size = MediaReader(max_image_pixels=1 << 20).image_size(medium, loader)
        assert size.height * size.width <= 1 << 20
    assert time.process_time() - start < 5


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in ("video", "audio") for name in BOMBS[kind]])
def test_a_lie_about_time_is_refused_or_as_long_as_it_says(kind: MediaKind, name: str) -> None:
    reader = MediaReader(max_image_pixels=1 << 20, max_clip_frames=1_000, max_audio_seconds=30.0)
    medium = Media(kind=kind, content=BOMBS[kind][name]())
    start = time.process_time()
    with suppress(RefuseSample):
        size = reader.size(medium, "torchvision")
        if isinstance(size, AudioSize):
            assert len(load_sound(medium, size.sampling_rate)) == size.num_samples <= 30 * size.sampling_rate
        else:
            frames = load_clip(Qwen2VLVideoProcessor(), medium).frames
            assert frames.shape[0] == size.shape[0] <= 1_000
    assert time.process_time() - start < 5


def test_every_seed_is_a_file() -> None:
    for kind, names in SEEDS.items():
        assert len(names) > 5
        assert all(seed_bytes(kind, name) for name in names)


def blamed(batch: Batch, folder: Path) -> list[Outcome]:
    """A run that ends badly with item 3 in it, in one of three ways."""
    if 3 in batch.numbers:
        {"dies": lambda: os._exit(9), "hangs": lambda: time.sleep(60), "swells": swell}[batch.processor.name]()
    return [Outcome(number=number, kind="image", how="", seed="", result="packed") for number in batch.numbers]


def swell() -> None:
    """Fill memory in pieces that are not taken from what the process has lying idle."""
    kept = []
    for _ in range(5):
        piece = mmap.mmap(-1, 40 << 20)
        piece.write(b"x" * len(piece))
        kept.append(piece)
    time.sleep(1)


@pytest.mark.parametrize(("end", "said"), [("dies", "died"), ("hangs", "not done"), ("swells", "MiB")])
def test_a_process_that_ends_badly_is_noticed_and_the_item_named(
    end: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "runner", lambda: (lambda _: None, blamed))
    seconds = 0.6 if end == "hangs" else 60
    with_fork = Watcher(seconds_per_item=seconds, max_bytes=50 << 20, start_method="fork", items_waited_for=2)
    found = with_fork.run(Batch(numbers=(0, 1, 3, 4), seed=0, processor=Path(end)))
    with_fork.close()
    assert [outcome.number for outcome in found.outcomes] == [0, 1, 3, 4]
    assert [outcome.number for outcome in found.outcomes if said in outcome.wrong] == [3]
