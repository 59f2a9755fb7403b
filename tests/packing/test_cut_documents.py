"""Samples that are cut: at every place, what the processor makes of the whole sample, up to there, and never half a medium."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import FamilyProcessorDir
from tests.every_family.alone import run_alone
from tests.every_family.corpus import write_audio, write_image, write_video
from tests.families.processors import FAMILY_NAMES, FamilyName
from vlmprep.families.loading import load_family
from vlmprep.packing.document import Document, build_document
from vlmprep.schema.conversation import Media, MediaKind, Sample
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.family import FamilySettings, Tokens
from vlmprep.schema.packset import IGNORE_INDEX
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.media import MediaReader
from vlmprep.sources.spec import SourceSpec

TILED: frozenset[FamilyName] = frozenset({"llava_onevision", "internvl", "idefics3", "smolvlm", "step3p7"})
TURNS: dict[FamilyName, tuple[MediaKind, ...]] = {
    "smolvlm": ("image", "image"),
    "nemotron_omni": ("image", "audio", "image"),
    "llava_onevision": ("image", "image", "video", "image"),
}
"""Which media stand in the turns of a user, one in each; all kinds of the family's and an image more where none are given."""
COLUMNS: dict[MediaKind, str] = {"image": "images", "video": "videos", "audio": "audios"}
INSIDE_TRIED = 20
"""Places deep inside media that are tried beside their borders."""


class Told:
    """A family that counts what it decodes, and decodes each medium once."""

    def __init__(self, family: Any) -> None:
        self._family = family
        self._decoded: dict[str, Any] = {}
        self._tensors: dict[tuple[str, int], Any] = {}
        self._names: dict[int, str] = {}
        self.loaded: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def load(self, medium: Media) -> Any:
        """As the family does."""
        assert medium.location is not None
        self.loaded.append(Path(medium.location).name)
        if medium.location not in self._decoded:
            self._decoded[medium.location] = self._family.load(medium)
            self._names[id(self._decoded[medium.location])] = medium.location
        return self._decoded[medium.location]

    def tensors(self, decoded: Any, count: Any) -> Any:
        """As the family does, and says how many images there are where the count does."""
        said = count.inputs.get("batch_num_images")
        key = (self._names[id(decoded)], -1 if said is None else int(said.sum()))
        if key not in self._tensors:
            self._tensors[key] = self._family.tensors(decoded, count)
        return self._tensors[key]


class Whole:
    """A sample with a question and an answer for each of its media, and what the processor makes of it."""

    def __init__(self, family: Any, kinds: Sequence[MediaKind], folder: Path) -> None:
        self.kinds = kinds
        row = self._row(folder)
        reader = RowReader(spec=SourceSpec(name="s", path=str(folder / "rows.jsonl"), media_dir=str(folder)))
        self.sample: Sample = reader.sample(0, json.dumps(row).encode())
        self.names = [Path(str(medium.location)).name for medium in self.sample.media()]
        self.truth = run_alone(family.processor, row, folder)
        self.family = Told(family)
        self.ids = self.truth["input_ids"][0].numpy()
        self.document = self.build(None)
        sizes = [MediaReader().size(medium, family.loader) for medium in self.sample.media()]
        self.spans: Any = family.encode(self.sample, family.measure(sizes)).media_spans

    def _row(self, folder: Path) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        messages: list[dict[str, str]] = []
        row: dict[str, Any] = {"id": "long", "messages": messages}
        for number, kind in enumerate(self.kinds):
            if kind == "image":
                path = write_image(folder / f"{number}.png", 60 + 50 * (number % 3), 130 - 35 * (number % 2), rng)
            elif kind == "video":
                path = write_video(folder / f"{number}.mp4", 33, 48, 64, 12, rng)
            else:
                path = write_audio(folder / f"{number}.wav", 0.5 + 0.4 * (number % 2), 16_000, rng)
            messages.append({"role": "user", "content": f"<{kind}>What is {number}?"})
            messages.append({"role": "assistant", "content": f"It is noise, {number}."})
            row.setdefault(COLUMNS[kind], []).append(path.name)
        return row

    def build(self, keep_tokens: int | None) -> Document:
        """The document of its first tokens."""
        family: Any = self.family
        family.loaded.clear()
        return build_document(
            self.sample, family=family, media=MediaReader(), num_tokens=len(self.ids), keep_tokens=keep_tokens
        )

    def places(self) -> list[int]:
        """Where it may be asked to be cut: everywhere, but only here and there deep inside media."""
        deep = np.concatenate([np.arange(start + 5, end - 4) for start, end in self.spans])
        left_out = set(np.random.default_rng(1).permutation(np.unique(deep))[INSIDE_TRIED:].tolist())
        return [at for at in range(1, len(self.ids) + 1) if at not in left_out]


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def whole(
    request: pytest.FixtureRequest, family_processor_dir: FamilyProcessorDir, tmp_path_factory: pytest.TempPathFactory
) -> Whole:
    folder = family_processor_dir(request.param, small_tiles=request.param in TILED)
    family: Any = load_family(FamilySettings(processor=str(folder)))
    kinds = TURNS.get(request.param) or (*sorted(family.kinds, reverse=True), "image")
    return Whole(family, kinds, tmp_path_factory.mktemp(request.param))


def test_every_cut_is_the_beginning_of_the_whole_sample(whole: Whole) -> None:
    built: list[int] = []
    for at in whole.places():
        through = [start < at <= end for start, end in whole.spans]
        labelled = (whole.document.labels[: max(0, at - 1)] != IGNORE_INDEX).any()
        if any(through) or not labelled:
            with pytest.raises(RefuseSample, match="falls into its medium" if any(through) else "no label token"):
                whole.build(at)
            assert not whole.family.loaded
            continue
        document = whole.build(at)
        assert_is_beginning(document, whole, at)
        built.append(len(document.media))
    fewest = 2 if "batch_num_images" in whole.truth else 1
    assert set(built) == set(range(fewest, len(whole.kinds) + 1))
    assert len(built) > 10 * len(set(built))


def assert_is_beginning(document: Document, whole: Whole, at: int) -> None:
    """A document of the first `at` tokens holds what the whole sample's has of them, and of the media among them."""
    size = at - 1
    assert document.input_ids.tolist() == whole.ids[:size].tolist()
    learned = document.labels != IGNORE_INDEX
    assert document.labels[learned].tolist() == whole.ids[1:at][learned].tolist()
    assert document.labels.tolist() == whole.document.labels[:size].tolist()
    assert np.array_equal(document.position_ids, whole.document.position_ids[..., :size])
    if "mm_token_type_ids" in whole.truth:
        assert document.mm_token_type_ids.tolist() == np.asarray(whole.truth["mm_token_type_ids"][0])[:size].tolist()
    stay = [number for number, (_, end) in enumerate(whole.spans) if end < at]
    assert whole.family.loaded == [whole.names[number] for number in stay]
    assert len(document.media) == len(stay)
    assert np.count_nonzero(document.mm_token_type_ids) == sum(
        medium.num_placeholders + medium.num_framing for medium in document.media
    )
    assert document.num_visual_tokens == sum(medium.num_visual_tokens for medium in document.media)
    for number, medium in zip(stay, document.media, strict=True):
        expected = whole.document.media[number]
        assert medium.tensors.keys() == expected.tensors.keys()
        for name, tensor in medium.tensors.items():
            if name != "batch_num_images":
                assert np.array_equal(tensor, expected.tensors[name]), name


def test_positions_of_a_beginning_do_not_depend_on_what_follows(whole: Whole) -> None:
    """The family's own positions of the kept tokens and media alone."""
    checked = 0
    for number, (_, end) in enumerate(whole.spans):
        if any(start < end + 2 <= stop for start, stop in whole.spans):
            continue
        try:
            document = whole.build(int(end) + 2)
        except RefuseSample:
            continue
        tokens = Tokens(
            input_ids=document.input_ids,
            is_label=document.labels != IGNORE_INDEX,
            mm_token_type_ids=document.mm_token_type_ids,
        )
        names = dict.fromkeys(name for medium in document.media for name in medium.tensors)
        small = {
            name: np.concatenate([medium.tensors[name] for medium in document.media if name in medium.tensors])
            for name in names
            if name not in whole.family.pixel_rules()
        }
        assert np.array_equal(whole.family.positions(tokens, small), document.position_ids), number
        checked += 1
    assert checked


@pytest.mark.parametrize("whole", ["llava_onevision"], indirect=True)
def test_a_cut_sample_of_llava_onevision_says_how_many_images_it_keeps(whole: Whole) -> None:
    assert whole.truth["batch_num_images"].tolist() == [3]
    assert whole.spans[0].tolist() == whole.spans[1].tolist(), "of several images one is never left alone"
    document = whole.build(int(whole.spans[0][1]) + 2)
    said = [medium.tensors["batch_num_images"].tolist() for medium in document.media]
    assert said == [[2], []]


def test_whoever_would_cut_a_sample_whose_media_cannot_be_found_is_told_so(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = whole.family._turns_of(whole.sample)
    for kind in set(whole.kinds):
        monkeypatch.setitem(turns._literals, kind, "")
    with pytest.raises(RefuseSample, match="cannot be told"):
        whole.build(len(whole.ids) - 1)
