"""Cuts of long samples as the ledger tells them: against trying every place, and against documents that are really cut there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.conftest import ProcessorDir
from tests.runs import picture, write_jsonl
from vlmprep.counting.ledger import Ledger
from vlmprep.engines.local import LocalEngine
from vlmprep.families.loading import load_family
from vlmprep.packing.document import build_document
from vlmprep.pipeline.estimate import estimate, row_reader
from vlmprep.pipeline.pack import source_specs
from vlmprep.pipeline.plan.cuts import CUT_COUNTS, Cuts, cut_samples
from vlmprep.pipeline.settings import CountSettings
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.ledger import CUTTABLE_TOKENS, ENCODER_WORK, LEDGER
from vlmprep.schema.progress import Silent
from vlmprep.sources.rows import read_row

FAKE_TOKENS = 100
"""What a pack without pictures has less room."""


@dataclass(frozen=True)
class TableLedger:
    """Rows of a ledger that no file holds, in chunks."""

    rows: Sequence[dict[str, Any]]
    chunk: int = 3

    def chunks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """As a ledger's."""
        for first in range(0, len(self.rows), self.chunk):
            table = pa.Table.from_pylist(list(self.rows[first : first + self.chunk]), schema=LEDGER)
            yield table.select(list(columns))


def room_of(pack_size: int) -> Any:
    def room(num_visual_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return pack_size - np.where(num_visual_tokens > 0, 0, FAKE_TOKENS)

    return room


def cut(rows: Sequence[dict[str, Any]], pack_size: int, gets_fake: Sequence[bool] | None = None) -> Cuts:
    """Cut all rows."""
    ledger: Any = TableLedger(rows)
    fakes = np.array([False] * len(rows) if gets_fake is None else gets_fake, dtype=np.bool_)
    return cut_samples(ledger, np.arange(len(rows)), room_of(pack_size), fakes)


def medium(start: int, end: int, kind: str = "image") -> dict[str, Any]:
    """A medium whose counts tell it from others."""
    visual = 0 if kind == "audio" else end - start
    work = {name: number * 7 + start for number, name in enumerate(ENCODER_WORK)}
    return {"start": start, "end": end, "kind": kind, "num_visual_tokens": visual, "num_patches": 4 * visual} | {
        "stored_bytes": 1_000 + start,
        **work,
    }


def row(num_tokens: int, first_label: int, media: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    return {"num_tokens": num_tokens, "first_label": first_label, "media": media}


@st.composite
def long_rows(draw: st.DrawFn) -> dict[str, Any]:
    """Media one behind the other, also with nothing between them, and also joined by a family that may not part them."""
    num_tokens = draw(st.integers(1_100, 4_000))
    borders = sorted(draw(st.lists(st.integers(1, num_tokens - 1), unique=True, max_size=14)))
    pairs = list(itertools.pairwise(borders))[:: draw(st.integers(1, 2))]
    media = [medium(start, end, draw(st.sampled_from(["image", "video", "audio"]))) for start, end in pairs]
    if len(media) > 2 and draw(st.booleans()):
        media[0] = medium(media[0]["start"], media[1]["end"])
        media[1] = dict(media[0])
    return row(num_tokens, draw(st.integers(1, num_tokens - 1)), media)


def best_cut(row: dict[str, Any], pack_size: int) -> tuple[int, list[dict[str, Any]]]:
    """The longest beginning that fits and cuts through no medium, by trying all."""
    for keep in range(row["num_tokens"], 0, -1):
        if any(medium["start"] < keep <= medium["end"] for medium in row["media"]):
            continue
        kept = [medium for medium in row["media"] if medium["end"] < keep]
        if keep - 1 <= room_of(pack_size)(np.array(sum(medium["num_visual_tokens"] for medium in kept))):
            return keep, kept
    return 0, []


@given(rows=st.lists(long_rows(), min_size=1, max_size=7), pack_size=st.integers(300, 1_050))
def test_samples_keep_as_much_as_fits_and_cuts_through_no_medium(rows: list[dict[str, Any]], pack_size: int) -> None:
    cuts = cut(rows, pack_size)
    refused = {unfit.sample: unfit for unfit in cuts.refused}
    assert sorted([*cuts.rows.tolist(), *refused]) == list(range(len(rows)))
    assert cuts.rows.tolist() == sorted(cuts.rows.tolist())
    for number, each in enumerate(rows):
        keep, kept = best_cut(each, pack_size)
        if each["first_label"] >= keep:
            assert refused[number].code == "overlong"
            assert f"first {keep} tokens" in refused[number].reason
            continue
        at = cuts.rows.tolist().index(number)
        assert cuts.counts["num_tokens"][at] == keep
        assert cuts.num_cut_tokens[at] == each["num_tokens"] - keep
        assert cuts.num_cut_media[at] == len(each["media"]) - len(kept)
        for name in ("num_visual_tokens", "num_patches", "stored_bytes", *ENCODER_WORK):
            assert cuts.counts[name][at] == sum(medium[name] for medium in kept), name
        for name, kind in (("num_images", "image"), ("num_videos", "video"), ("num_audios", "audio")):
            assert cuts.counts[name][at] == sum(medium["kind"] == kind for medium in kept)
    assert set(cuts.counts) == set(CUT_COUNTS)


def test_a_sample_of_which_the_ledger_does_not_know_its_media_is_refused() -> None:
    cuts = cut([row(2_000, 10, None), row(2_000, 10, [])], 500)
    assert cuts.rows.tolist() == [1]
    assert [(unfit.sample, unfit.code) for unfit in cuts.refused] == [(0, "overlong")]
    assert "cannot be told" in cuts.refused[0].reason


def test_a_sample_too_short_to_have_been_looked_at_is_refused() -> None:
    cuts = cut([{"num_tokens": CUTTABLE_TOKENS, "first_label": None, "media": None}], 500)
    assert "1023 tokens after the shift, a pack holds 400; the ledger says where samples of more than 1024" in (
        cuts.refused[0].reason
    )


def test_a_cut_that_takes_the_last_picture_leaves_room_for_a_fake_image() -> None:
    rows = [row(2_000, 10, [medium(450, 1_500)]), row(2_000, 10, [medium(20, 40), medium(450, 1_500)])]
    cuts = cut(rows, 500)
    assert cuts.counts["num_tokens"].tolist() == [401, 450]
    assert cuts.num_cut_media.tolist() == [1, 1]


def test_a_medium_stays_only_with_a_token_behind_it_which_the_shift_takes() -> None:
    assert cut([row(2_000, 10, [medium(20, 500)])], 500).counts["num_tokens"].tolist() == [501]
    gone = cut([row(2_000, 10, [medium(20, 501)])], 500)
    assert (gone.counts["num_tokens"].tolist(), gone.num_cut_media.tolist()) == ([20], [1])


def test_with_a_fake_image_in_it_a_sample_is_cut_by_the_counts_that_include_the_image_and_keeps_it() -> None:
    bare = row(2_000, 10, [])
    fakes = {"num_tokens_with_fake": 2_020, "first_label_with_fake": 40, "media_with_fake": [medium(5, 25)]}
    behind = {"num_tokens_with_fake": 2_020, "first_label_with_fake": 40, "media_with_fake": [medium(600, 620)]}
    cuts = cut([bare | fakes, bare, bare | behind, row(1_500, 3, [medium(4, 9)])], 500, [True, False, True, False])
    assert cuts.rows.tolist() == [0, 1, 3]
    assert cuts.counts["num_tokens"].tolist() == [501, 401, 501]
    assert cuts.counts["num_images"].tolist() == [1, 0, 1]
    assert cuts.num_cut_tokens.tolist() == [1_519, 1_599, 999]
    assert [(unfit.sample, unfit.reason.rpartition("keep ")[2]) for unfit in cuts.refused] == [
        (2, "no place for its fake image")
    ]


def test_nothing_to_cut_gives_nothing() -> None:
    ledger: Any = TableLedger([row(2_000, 10, [])])
    cuts = cut_samples(ledger, np.zeros(0, np.int64), room_of(500), np.zeros(0, np.bool_))
    assert (len(cuts.rows), cuts.refused) == (0, ())
    assert {name: len(column) for name, column in cuts.counts.items()} == dict.fromkeys(CUT_COUNTS, 0)


WORDS = "It shows a field, a river and three boats under a grey sky. "


@pytest.fixture(scope="module")
def counted(processor_dir: ProcessorDir, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ledger, CountSettings]:
    """A ledger of long talks about several pictures, and of one that is text alone."""
    folder = tmp_path_factory.mktemp("long")
    names = [picture(folder / f"{number}.png", 200 + 60 * number, 300, "navy") for number in range(4)]
    rows: list[dict[str, Any]] = []
    for number in range(5):
        messages: list[dict[str, str]] = []
        for turn, _ in enumerate(names):
            tag = "<image>" if number else ""
            messages.append({"role": "user", "content": f"{tag}What is it? {WORDS * (6 + number)}"})
            messages.append({"role": "assistant", "content": WORDS * (6 + turn)})
        rows.append({"messages": messages, **({"images": names} if number else {})})
    source = write_jsonl(folder / "rows.jsonl", rows)
    settings = CountSettings(family=FamilySettings(processor=str(processor_dir("qwen2_5_vl"))), count_with_fake=True)
    return estimate([str(source)], settings, folder / "ledger", LocalEngine(0), Silent()), settings


@pytest.mark.parametrize("with_fake", [False, True])
@pytest.mark.parametrize("pack_size", [340, 611, 900, 1_024])
def test_documents_are_what_the_cuts_say(
    counted: tuple[Ledger, CountSettings], pack_size: int, with_fake: bool
) -> None:
    ledger, settings = counted
    table = ledger.read(["num_tokens", "num_tokens_with_fake", "num_images", "row", "row_offset", "row_bytes"])
    rows = table.to_pylist()
    assert min(each["num_tokens"] for each in rows) > CUTTABLE_TOKENS
    gets_fake = np.array([with_fake and not each["num_images"] for each in rows])
    cuts = cut_samples(ledger, np.arange(len(rows)), room_of(pack_size), gets_fake)
    family: Any = load_family(settings.family)
    (spec,) = source_specs(ledger)
    assert len(cuts.rows) >= 3
    for at, number in enumerate(cuts.rows.tolist()):
        each, keep = rows[number], int(cuts.counts["num_tokens"][at])
        with open(spec.path, "rb") as file:
            data = read_row(file, each["row_offset"], each["row_bytes"])
        white = family.fake_image()[2] if gets_fake[number] else None
        num_tokens = each["num_tokens_with_fake"] if gets_fake[number] else each["num_tokens"]
        document = build_document(
            row_reader(spec, settings).sample(each["row"], data),
            family=family,
            media=settings.media_reader(),
            num_tokens=num_tokens,
            white=white,
            keep_tokens=keep,
        )
        assert len(document) == keep - 1 <= pack_size
        assert keep + cuts.num_cut_tokens[at] == num_tokens
        assert document.num_label_tokens > 0
        assert document.num_visual_tokens == cuts.counts["num_visual_tokens"][at]
        assert len(document.media) == cuts.counts["num_images"][at]
        assert document.hidden.any() == gets_fake[number]
        fields = family.pixel_rules()
        stored = sum(
            tensor.nbytes for medium in document.media for name, tensor in medium.tensors.items() if name in fields
        )
        assert stored == cuts.counts["stored_bytes"][at]
