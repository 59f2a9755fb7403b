"""Every invariant of a pack's tensors, by breaking it in a real pack whose digests would all be right."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.packed import PackedDemo, pack_demo
from vlmprep.pipeline.inspect.pack import read_pack
from vlmprep.pipeline.inspect.packset import open_packset
from vlmprep.pipeline.verify.members import member_problems, owner_of
from vlmprep.pipeline.verify.run import rows_of, rules_of
from vlmprep.pipeline.verify.tensors import PackRules, tensor_problems
from vlmprep.schema.packset import SEQUENCE_FIELDS
from vlmprep.shardformat.packinfo import MediumInfo, PackInfo
from vlmprep.shards.receipts import PackRecord

Change: TypeAlias = "Callable[[Subject], object]"


@dataclass(slots=True, kw_only=True)
class Subject:
    """A pack to break."""

    info: PackInfo
    fields: dict[str, NDArray[Any]]
    row: PackRecord
    rules: PackRules

    @property
    def second(self) -> int:
        """Where the second document starts."""
        return self.info.document_lengths[0]

    @property
    def placeholder(self) -> int:
        """The first placeholder."""
        return int(np.flatnonzero(self.fields["mm_token_type_ids"])[0])

    @property
    def label(self) -> int:
        """The first token with a label."""
        return int(np.flatnonzero(self.fields["labels"] != -100)[0])

    def problems(self) -> list[str]:
        return list(tensor_problems(self.info, self.fields, self.row, self.rules))


def subject(packset: Path, suits: Callable[[PackInfo], bool]) -> Subject:
    """A copy of the first pack that suits."""
    manifest, index = open_packset(packset)
    for pack_id, row in enumerate(rows_of(index, 0, len(index))):
        info, fields = read_pack(packset, index, pack_id)
        if suits(info):
            copies = {name: array.copy() for name, array in fields.items()}
            return Subject(info=info, fields=copies, row=row, rules=rules_of(manifest))
    raise AssertionError("no pack suits")


@pytest.fixture
def pack(packed_demo: PackedDemo) -> Subject:
    """Several documents, one of them with an image and one without."""
    found = subject(packed_demo.packset, lambda info: len(info.samples) > info.num_media("image") > 0)
    assert found.problems() == []
    assert found.rules.patches_per_visual_token == 4
    return found


@pytest.fixture
def fake(packed_text: PackedDemo) -> Subject:
    """Several documents and a fake image."""
    found = subject(packed_text.packset, lambda info: info.fake is not None and len(info.samples) > 1)
    assert found.problems() == []
    return found


def edit(field: str, place: Any, value: Any) -> Change:
    def change(broken: Subject) -> None:
        at = place(broken) if callable(place) else place
        broken.fields[field][at] = value

    return change


def cast(field: str, dtype: str) -> Change:
    return lambda broken: broken.fields.update({field: broken.fields[field].astype(dtype)})


def cut(field: str) -> Change:
    return lambda broken: broken.fields.update({field: broken.fields[field][..., :-1]})


def drop(field: str) -> Change:
    return lambda broken: broken.fields.pop(field)


def say(**changes: Any) -> Change:
    """Let key.json say something else."""

    def change(broken: Subject) -> None:
        broken.info = replace(broken.info, **changes)

    return change


def one_more(kind: str, rows: dict[str, int]) -> Change:
    """Let key.json have one medium more in the first document."""
    medium = MediumInfo(document=1, kind=kind, shape=(4, 10, 10), num_tokens=0, rows=rows)

    def change(broken: Subject) -> None:
        broken.info = replace(broken.info, media=(medium, *broken.info.media))

    return change


def lengths(*changes: int) -> Change:
    """Let key.json move the documents' ends."""

    def change(broken: Subject) -> None:
        old = broken.info.document_lengths
        new = [length + change for length, change in zip(old, [*changes, *[0] * len(old)], strict=False)]
        broken.info = replace(broken.info, document_lengths=tuple(new))

    return change


def forget_labels(broken: Subject) -> None:
    broken.fields["labels"][: broken.second] = -100


def learn_a_placeholder(broken: Subject) -> None:
    before = broken.placeholder - 1
    broken.fields["labels"][before] = broken.fields["input_ids"][before + 1]


BROKEN: list[tuple[Change, str]] = [
    *((drop(name), f"it has no {name}") for name in ("input_ids", "labels", "mm_token_type_ids", "position_ids")),
    *((cast(name, "int64"), f"{name} is int64") for name in ("input_ids", "labels", "attention_mask", "position_ids")),
    (cast("mm_token_type_ids", "int32"), "mm_token_type_ids is int32"),
    *((cut(name), f"{name} is ") for name in ("labels", "attention_mask", "position_ids", "mm_token_type_ids")),
    (lambda b: b.fields.update(position_ids=b.fields["position_ids"][0]), "position_ids is int32"),
    (lambda b: setattr(b, "rules", replace(b.rules, pack_size=8)), "tokens, a pack has 1 to 8"),
    (lengths(1, -1), "attention_mask is 2 at token"),
    (lengths(1), "tokens by key.json, input_ids holds"),
    (lambda b: lengths(-b.second, b.second)(b), "key.json gives a document 0 tokens"),
    (edit("attention_mask", lambda b: b.second, 1), "attention_mask is 1 at token"),
    (edit("attention_mask", lambda b: b.second - 1, 0), "attention_mask is 0 at token"),
    (lambda b: np.negative(b.fields["input_ids"], out=b.fields["input_ids"]), "input_ids is -"),
    (edit("labels", lambda b: b.label, 3), "is 3, the next token of document"),
    (edit("labels", lambda b: b.label, -1), "is -1, expected a token id or -100"),
    (edit("input_ids", lambda b: b.label + 1, 3), "the next token of document"),
    (forget_labels, "document 1 has no label"),
    (learn_a_placeholder, "is a placeholder for media"),
    (edit("position_ids", lambda b: (slice(None), b.second), 7), "positions of document 2 start at [7, 7, 7]"),
    (edit("position_ids", lambda b: (1, b.second), 7), "positions of document 2 start at [0, 7, 0]"),
    (edit("position_ids", lambda b: (0, b.placeholder), -1), "is [-1, "),
    (edit("mm_token_type_ids", lambda b: b.placeholder, 0), "placeholders, its media by key.json fill"),
    (edit("mm_token_type_ids", lambda b: b.label, 2), "placeholders, its media by key.json fill"),
    (edit("image_grid_thw", (0, 1), 2), "patches, image_grid_thw makes"),
    (edit("image_grid_thw", (0, 1), 0), "of at least 1"),
    (cast("image_grid_thw", "int32"), "image_grid_thw is int32"),
    (drop("image_grid_thw"), "there is no image_grid_thw"),
    (drop("pixel_values"), "there is no pixel_values"),
    (cast("pixel_values", "float32"), "pixel_values is float32"),
    (lambda b: b.fields.update(pixel_values=b.fields["pixel_values"][:-1]), "rows, its media by key.json have"),
    (say(media=()), "placeholders, its media by key.json fill 0"),
    (say(media=()), "rows, its media by key.json have 0"),
    (one_more("image", {"image_grid_thw": 1}), "rows, its media by key.json have"),
    (one_more("video", {"video_grid_thw": 1}), "1 rows of video_grid_thw by key.json, but there is no video_grid_thw"),
    (lambda b: b.fields.update(image_grid_thw=b.fields["image_grid_thw"][:, :2]), "expected int64 [media, 3]"),
    (lambda b: b.fields.update(extra=np.zeros(3)), "extra has 3 rows, its media by key.json have 0"),
    *(
        (lambda b, name=name: setattr(b, "row", replace(b.row, **{name: 1000})), f"{name} is 1000 in the index")
        for name in ("num_tokens", "num_visual_tokens", "num_label_tokens", "num_samples", "num_images", "num_videos")
    ),
    (lambda b: setattr(b, "row", replace(b.row, cost=float("nan"))), "cost is nan"),
]


@pytest.mark.parametrize(("change", "expected"), BROKEN, ids=[expected for _, expected in BROKEN])
def test_a_broken_pack_is_told(pack: Subject, change: Change, expected: str) -> None:
    change(pack)
    said = "\n".join(pack.problems())
    assert expected in said


def test_positions_of_a_document_without_media_count_up(packed_text: PackedDemo) -> None:
    broken = subject(packed_text.packset, lambda info: len(info.samples) > 1)
    broken.fields["position_ids"][2, broken.second + 3] += 1
    assert broken.problems() == [f"the position of token {broken.second + 3} is [3, 3, 4], expected 3 in its document"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edit("labels", -1, 5), "belongs to the fake image and has the label 5"),
        (edit("attention_mask", -1, 2), "attention_mask is 2 at token"),
        (edit("position_ids", (slice(None), -5), 3), "start at [3, 3, 3], expected 0"),
        (lambda b: say(fake=replace(b.info.fake, kind="elsewhere"))(b), "unknown kind 'elsewhere'"),
        (lambda b: say(fake=replace(b.info.fake, length=4))(b), "tokens by key.json, input_ids holds"),
        (one_more("image", {}), "it has a fake image beside 1 images"),
    ],
)
def test_a_broken_fake_image_is_told(fake: Subject, change: Change, expected: str) -> None:
    change(fake)
    assert expected in "\n".join(fake.problems())


def test_a_fake_image_that_is_not_there_is_told(fake: Subject) -> None:
    length = fake.info.fake.length if fake.info.fake else 0
    fake.info = replace(fake.info, fake=None, media=())
    fake.fields = {name: fake.fields[name][..., :-length] for name in SEQUENCE_FIELDS}
    fake.row = replace(fake.row, num_tokens=fake.row.num_tokens - length, num_visual_tokens=0)
    assert fake.problems() == ["it holds neither media nor a fake image, though --fake-image pack was asked for"]
    fake.rules = replace(fake.rules, fake_image="none")
    assert fake.problems() == []


@pytest.fixture(scope="module")
def packed_inside(tmp_path_factory: pytest.TempPathFactory) -> PackedDemo:
    """A pack set with a fake image in every sample without pictures."""
    return pack_demo(tmp_path_factory.mktemp("inside"), pack_size=1024, fake_image="sample")


@pytest.fixture
def inside(packed_inside: PackedDemo) -> Subject:
    """A document with a fake image and one with a picture of its own."""
    found = subject(packed_inside.packset, lambda info: info.fake is not None and info.num_media("image") > 0)
    assert found.problems() == []
    return found


def holes(broken: Subject) -> NDArray[np.int64]:
    """Places of the first fake image's tokens."""
    assert broken.info.fake is not None
    return np.flatnonzero(broken.fields["attention_mask"] == 0)[: broken.info.fake.length]


def owner(broken: Subject) -> int:
    """The first document with a fake image."""
    return next(medium.document for medium in broken.info.media if medium.fake)


def mark(fake: bool) -> Change:
    """Let key.json call every medium so."""
    return lambda b: say(media=tuple(replace(medium, fake=fake) for medium in b.info.media))(b)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda b: edit("attention_mask", holes(b), owner(b))(b), "has a fake image by key.json, and hides no token"),
        (lambda b: edit("attention_mask", holes(b)[1], owner(b))(b), "belongs to its fake image and is not hidden"),
        (lambda b: edit("attention_mask", holes(b)[0], owner(b))(b), "tokens from its token"),
        (lambda b: edit("attention_mask", holes(b)[-1] + 1, 0)(b), "tokens from its token"),
        (
            lambda b: edit("labels", holes(b) - 1, b.fields["input_ids"][holes(b)])(b),
            "learns a token of its fake image",
        ),
        (lambda b: edit("labels", holes(b), 3)(b), "and has the label 3"),
        (lambda b: say(fake=None)(b), "a fake image of the kind None, its documents do not bear it out"),
        (lambda b: say(fake=replace(b.info.fake, length=1))(b), "its fake image has 1"),
        (mark(fake=False), "attention_mask is 0 at token"),
        (mark(fake=True), "hides no token"),
        (lambda b: setattr(b, "rules", replace(b.rules, fake_image="pack")), "--fake-image sample was not asked for"),
        (
            lambda b: say(media=tuple(medium for medium in b.info.media if not medium.fake))(b),
            "has neither pictures nor a fake image, though --fake-image sample was asked for",
        ),
        (
            lambda b: say(media=tuple(replace(medium, document=owner(b)) for medium in b.info.media))(b),
            "fake images beside",
        ),
    ],
)
def test_a_broken_fake_image_inside_a_document_is_told(inside: Subject, change: Change, expected: str) -> None:
    change(inside)
    assert expected in "\n".join(inside.problems())


def test_placeholders_of_one_image_in_two_documents_are_told(packed_demo: PackedDemo) -> None:
    broken = subject(packed_demo.packset, lambda info: info.num_media("image") > 1 and len(info.samples) > 1)
    assert broken.problems() == []
    first, *others = broken.info.media
    broken.info = replace(broken.info, media=(replace(first, document=first.document % 2 + 1), *others))
    assert any("placeholders, its media by key.json fill" in problem for problem in broken.problems())


def test_a_grid_of_other_patches_is_told(packed_demo: PackedDemo) -> None:
    broken = subject(packed_demo.packset, lambda info: info.num_media("image") > 1)
    patches = broken.fields["image_grid_thw"].prod(axis=1)
    patches[:2] += 4, -4  # as many in all, but the first image takes a token of the second's
    broken.fields["image_grid_thw"] = np.array([[1, 2, count // 2] for count in patches])
    assert sum("patches, image_grid_thw makes" in problem for problem in broken.problems()) == 2
    first, *others = broken.info.media
    broken.info = replace(broken.info, media=(replace(first, num_tokens=first.num_tokens + 1), *others))
    assert any("fill" in problem for problem in broken.problems())


def tar_of(**attributes: Any) -> memoryview:
    """A pack of three members, of which the second is made otherwise."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for suffix in ("json", "input_ids.npy", "labels.npy"):
            member = tarfile.TarInfo(f"000000007.{suffix}")
            member.size, member.mode, member.uname = 700, 0o444, "vlmprep"
            if suffix.startswith("input"):
                for name, value in attributes.items():
                    setattr(member, name, value)
            tar.addfile(member, io.BytesIO(b"x" * 700))
    return memoryview(bytearray(file.getbuffer()[: 3 * (512 + 1024)]))


def test_plain_members_have_no_problems() -> None:
    raw = tar_of()
    assert list(member_problems(raw, 7, owner_of(raw))) == []


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"mtime": 5}, "has time 5, expected 0"),
        ({"mode": 0o644}, "mode 644, others to"),
        ({"uid": 1000}, "belongs to"),
        ({"uname": "root"}, "belongs to root:"),
        ({"gname": "root"}, ":root mode 444"),
    ],
)
def test_members_that_differ_are_named(attributes: dict[str, Any], expected: str) -> None:
    raw = tar_of(**attributes)
    (problem,) = member_problems(raw, 7, owner_of(raw))
    assert problem.startswith("member 000000007.input_ids.npy")
    assert expected in problem


def test_bytes_in_the_padding_are_noticed() -> None:
    raw = tar_of()
    raw[512 + 1000] = 1
    assert list(member_problems(raw, 7, owner_of(raw))) == [
        "there are bytes behind member 000000007.json that belong to nothing"
    ]


def test_another_first_member_is_noticed() -> None:
    raw = tar_of()[512 + 1024 :]
    (problem,) = member_problems(raw, 7, owner_of(raw))
    assert problem == "its first member is 000000007.input_ids.npy, expected 000000007.json"
