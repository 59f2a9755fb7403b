"""`verify --against`: documents made anew from their sources are the packs' bit for bit, and what differs is named."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import FamilyProcessorDir, ProcessorDir
from tests.packed import PackedDemo, pack_demo
from tests.runs import chat, count, picture, run, write_jsonl
from vlmprep.counting.ledger import open_ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.packing.document import Document, Medium
from vlmprep.pipeline.inspect.pack import read_pack
from vlmprep.pipeline.pack import source_specs
from vlmprep.pipeline.run import count_settings_of
from vlmprep.pipeline.settings import PlanSettings
from vlmprep.pipeline.verify import Against, Verification, verify
from vlmprep.pipeline.verify.account import read_account
from vlmprep.pipeline.verify.against import choose, locate
from vlmprep.pipeline.verify.compare import document_differences, first_difference
from vlmprep.pipeline.verify.rebuild import Rebuilder, RebuildJob
from vlmprep.schema.errors import StopRun
from vlmprep.schema.progress import Silent
from vlmprep.shardformat.index import map_index

EVERY = 10_000


def check(packset: Path, processor: Path, *, num_samples: int = EVERY, **against: Any) -> Verification:
    return verify(
        packset, LocalEngine(0), Silent(), Against(processor=str(processor), num_samples=num_samples, **against)
    )


class Stages(Silent):
    """Remembers how far every stage came."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.done: Counter[str] = Counter()

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.totals[stage] = total

    def advance(self, amount: int = 1) -> None:
        self.done[list(self.totals)[-1]] += amount


def test_every_document_of_a_corpus_is_what_its_source_makes(packed_demo: PackedDemo) -> None:
    progress = Stages()
    against = Against(processor=str(packed_demo.processor), num_samples=EVERY)
    found = verify(packed_demo.packset, LocalEngine(0), progress, against)
    assert (found.problems, found.differences) == ((), ())
    assert found.num_rebuilt == found.num_samples > 30
    assert progress.done == progress.totals == {"Verifying": found.num_packs, "Rebuilding": found.num_samples}


def test_fewer_are_chosen_at_random_and_the_same_for_the_same_seed(packed_demo: PackedDemo) -> None:
    account = read_account(packed_demo.packset / "samples.parquet")
    assert not isinstance(account, str)

    def chosen(seed: int) -> list[tuple[int, int]]:
        asked = Against(processor="any", num_samples=7, seed=seed)
        return [(each.pack_id, each.document) for each in choose(account, asked)]

    assert len(set(chosen(0))) == 7
    assert chosen(0) == sorted(chosen(0)) == chosen(0) != chosen(1)
    assert check(packed_demo.packset, packed_demo.processor, num_samples=7).num_rebuilt == 7


@pytest.mark.parametrize("fake_image", ["pack", "sample"])
def test_documents_without_pictures_too(tmp_path: Path, fake_image: Any) -> None:
    made = pack_demo(tmp_path, num_samples=40, text_only=True, fake_image=fake_image)
    found = check(made.packset, made.processor)
    assert (found.problems, found.differences) == ((), ())
    assert found.num_rebuilt == 5


def test_documents_that_were_cut_and_rows_that_are_used_twice(processor_dir: ProcessorDir, tmp_path: Path) -> None:
    name = picture(tmp_path / "a.png")
    rows = [chat(f"s{n}", "What?", "That and more. " * (30 * n + 1), [name] * (n % 2)) for n in range(12)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    planning = PlanSettings(pack_size=1024, overlong="truncate", weights={"rows": 2.0})
    processor = processor_dir(max_pixels=50_176)
    run(source, processor, tmp_path / "set", planning=planning)
    found = check(tmp_path / "set", processor)
    assert (found.problems, found.differences) == ((), ())
    assert found.num_rebuilt == 24
    cut = [each.sample.num_cut_tokens for each in places_of(tmp_path / "set")]
    assert 0 < np.count_nonzero(cut) < 24


def places_of(packset: Path) -> list[Any]:
    account = read_account(packset / "samples.parquet")
    assert not isinstance(account, str)
    ledger = open_ledger(packset / "ledger")
    return locate(choose(account, Against(processor="any", num_samples=EVERY)), ledger, "pack")


@pytest.mark.parametrize("family", ["gemma4", "smolvlm", "phi4_multimodal"])
def test_other_families(family_processor_dir: FamilyProcessorDir, tmp_path: Path, family: Any) -> None:
    names = [picture(tmp_path / f"{n}.png", 60 + 30 * n, 90) for n in range(3)]
    rows = [chat(f"s{n}", "What?", "That.", names[n : n + 2]) for n in range(3)] + [chat("t", "What?", "Text.")]
    processor = family_processor_dir(family)
    run(write_jsonl(tmp_path / "rows.jsonl", rows), processor, tmp_path / "set", planning=PlanSettings(pack_size=4096))
    found = check(tmp_path / "set", processor)
    assert (found.problems, found.differences) == ((), ())
    assert found.num_rebuilt == 4


@pytest.fixture
def small(processor_dir: ProcessorDir, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Source, processor and pack set of four rows, two with pictures."""
    names = [picture(tmp_path / f"{n}.png", 60, 90 + n) for n in range(2)]
    rows = [chat(f"s{n}", "What is it?", f"It is {n}.", names[n : n + 1]) for n in range(4)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    processor = processor_dir(max_pixels=50_176)
    run(source, processor, tmp_path / "set", planning=PlanSettings(pack_size=256))
    return source, processor, tmp_path / "set"


def said(found: Verification) -> str:
    assert found.problems == ()
    assert found.differences, "the difference went unseen"
    return "\n".join(problem.what for problem in found.differences)


def test_a_picture_of_the_same_size_with_another_pixel_names_its_first_difference(
    small: tuple[Path, Path, Path],
) -> None:
    source, processor, packset = small
    picture(source.parent / "1.png", 60, 91, colour="red")
    what = said(check(packset, processor))
    assert "rows row 1 (s1): medium 1: pixel_values[0, 0, 0, 0] is 0, made anew 255" in what
    assert "entries differ" in what
    assert "s0" not in what


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda source: (source.parent / "1.png").unlink(), "it cannot be made anew: "),
        (
            lambda source: source.write_bytes(source.read_bytes().replace(b"It is 2.", b"It was.")),
            "not the row that was counted",
        ),
        (lambda source: picture(source.parent / "1.png", 300, 400), "tokens were counted"),
    ],
)
def test_sources_that_changed_are_named(small: tuple[Path, Path, Path], change: Any, expected: str) -> None:
    source, processor, packset = small
    change(source)
    what = said(check(packset, processor))
    assert expected in what
    assert "document " in what


def test_a_source_that_moved_stops_with_its_place(small: tuple[Path, Path, Path]) -> None:
    source, processor, packset = small
    source.rename(source.with_name("aside"))
    with pytest.raises(StopRun, match=rf"the source 'rows' is no longer where it was packed from: {source}"):
        check(packset, processor)


def test_another_processor_is_told_from_the_one_it_was_packed_with(
    small: tuple[Path, Path, Path], processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    _, processor, packset = small
    other = Path(shutil.copytree(processor, tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("You are a helpful assistant.", "You are a careful assistant."))
    assert "careful" in template.read_text()
    what = said(check(packset, other))
    assert "other is not what it was packed with: chat_template was" in what
    assert "input_ids[" in what or "tokens were counted" in what


def test_a_set_packed_from_a_ledger_elsewhere_needs_it(processor_dir: ProcessorDir, tmp_path: Path) -> None:
    processor = processor_dir(max_pixels=50_176)
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes.")])
    ledger = count(source, processor, tmp_path / "ledger").root
    run(ledger, processor, tmp_path / "set")
    with pytest.raises(StopRun, match="was packed from a ledger that lies elsewhere"):
        check(tmp_path / "set", processor)
    assert check(tmp_path / "set", processor, ledger=ledger).num_rebuilt == 1
    count(source, processor_dir(max_pixels=12_544), tmp_path / "another")
    with pytest.raises(StopRun, match=r"was not packed from the ledger .*image_processor"):
        check(tmp_path / "set", processor, ledger=tmp_path / "another")


def test_workers_find_what_one_process_finds(small: tuple[Path, Path, Path]) -> None:
    source, processor, packset = small
    picture(source.parent / "0.png", 60, 90, colour="red")
    against = Against(processor=str(processor), num_samples=EVERY)
    alone = verify(packset, LocalEngine(0), Silent(), against)
    assert said(alone)
    assert verify(packset, LocalEngine(1), Silent(), against) == alone


@pytest.mark.parametrize("broken", ["packs.arrow", "samples.parquet", "shards/000000.tar"])
def test_nothing_is_made_anew_from_what_is_broken(small: tuple[Path, Path, Path], broken: str) -> None:
    _, processor, packset = small
    data = bytearray((packset / broken).read_bytes())
    data[len(data) // 2] ^= 8
    (packset / broken).write_bytes(data)
    found = check(packset, processor)
    assert broken in {problem.file for problem in found.problems}
    assert found.num_rebuilt == (4 if broken.startswith("shards") else 0)
    assert all("cannot be held against its sources" in each.what for each in found.differences)


@dataclass(frozen=True)
class Pair:
    """A pack and one of its documents, made anew."""

    info: Any
    fields: dict[str, NDArray[Any]]
    number: int
    document: Document

    def differences(self, **changes: Any) -> list[str]:
        return list(document_differences(self.info, self.fields, self.number, replace(self.document, **changes)))


@pytest.fixture(scope="module")
def pair(packed_demo: PackedDemo) -> Pair:
    """A document with a picture that is not the first of its pack."""
    ledger = open_ledger(packed_demo.ledger)
    job = RebuildJob(
        place=packed_demo.packset,
        root=packed_demo.packset,
        specs=source_specs(ledger),
        counts=count_settings_of(ledger),
        fake_image="pack",
        pixels="uint8",
    )
    make = Rebuilder(job)
    for place in places_of(packed_demo.packset):
        info, fields = read_pack(packed_demo.packset, map_index(packed_demo.packset / "packs.arrow"), place.pack_id)
        before = [medium for medium in info.media if medium.document < place.document]
        if before and any(medium.document == place.document for medium in info.media):
            return Pair(info, fields, place.document, make._build(place.locator).document)
    raise AssertionError("no such document")


@pytest.mark.parametrize("name", ["input_ids", "labels", "position_ids", "mm_token_type_ids"])
def test_one_other_token_is_noticed_in_every_field(pair: Pair, name: str) -> None:
    assert pair.differences() == []
    array = getattr(pair.document, name).copy()
    array[..., 3] += 1
    (what, *more) = pair.differences(**{name: array})
    assert what.startswith(f"{name}[{'0, ' if array.ndim > 1 else ''}3] is ")
    assert more == []
    (cut,) = pair.differences(**{name: array[..., :-1]})
    assert f"{name} is {array.dtype.name} {list(array.shape)}, made anew" in cut


def test_hidden_tokens_are_noticed(pair: Pair) -> None:
    hidden = pair.document.hidden.copy()
    hidden[2] = True
    assert pair.differences(hidden=hidden) == [
        f"attention_mask[2] is {pair.number}, made anew 0; 1 of {len(hidden)} entries differ"
    ]


def test_other_media_are_noticed(pair: Pair) -> None:
    first: Medium = pair.document.media[0]
    assert pair.differences(media=()) == [f"it has {len(pair.document.media)} media, made anew 0"]
    (what,) = pair.differences(media=(replace(first, num_placeholders=1), *pair.document.media[1:]))
    assert what == f"medium 1: its num_tokens is {first.num_placeholders}, made anew 1"
    for name in first.tensors:
        tensors = {**first.tensors, name: first.tensors[name] + first.tensors[name].dtype.type(1)}
        found = pair.differences(media=(replace(first, tensors=tensors), *pair.document.media[1:]))
        assert len(found) == 1
        assert found[0].startswith(f"medium 1: {name}[")
    assert len(first.tensors) == 2


def test_bits_are_compared_not_values() -> None:
    zeros, nans = np.zeros(3, np.float32), np.full(3, np.nan, np.float32)
    assert first_difference("x", nans, nans.copy()) is None
    assert first_difference("x", zeros, -zeros) == "x[0] is 0.0, made anew -0.0; 3 of 3 entries differ"
    assert first_difference("x", zeros, zeros.astype(np.float64)) == "x is float32 [3], made anew float64 [3]"


@pytest.mark.parametrize(
    ("true", "forged", "expected"),
    [
        (b"It is 2.", b"It is 7.", "input_ids["),
        (
            b"cc-2",
            b"cc-7",
            'its kept columns are {"license":"cc-7"} in samples.parquet, {"license":"cc-2"} in its source',
        ),
        (b'"license": "cc-2"', b'"licence": "cc-2"', "its kept columns are None in samples.parquet"),
    ],
)
def test_a_forged_set_is_seen_by_its_sources_alone(
    processor_dir: ProcessorDir, tmp_path: Path, true: bytes, forged: bytes, expected: str
) -> None:
    """Somebody who rewrites every file that has a digest makes a sound pack set, whose documents no source makes."""
    rows = [chat(f"s{n}", "What is it?", f"It is {n}.") | {"license": f"cc-{n}"} for n in range(4)]
    source, processor = write_jsonl(tmp_path / "rows.jsonl", rows), processor_dir(max_pixels=50_176)
    planning = PlanSettings(pack_size=256, weights={"rows": 2.0})
    run(source, processor, tmp_path / "true", planning=planning, keep=("license",))
    assert check(tmp_path / "true", processor).differences == ()
    before = source.read_bytes()
    source.write_bytes(before.replace(true, forged))
    run(source, processor, tmp_path / "forged", planning=planning, keep=("license",))
    source.write_bytes(before)
    shutil.rmtree(tmp_path / "forged" / "ledger")
    shutil.copytree(tmp_path / "true" / "ledger", tmp_path / "forged" / "ledger")
    assert verify(tmp_path / "forged", LocalEngine(0), Silent()).problems == ()
    what = said(check(tmp_path / "forged", processor))
    assert what.count(f"rows row 2 (s2): {expected}") == 2, "in both of its places"
    assert not {"(s0)", "(s1)", "(s3)"} & set(what.split())
