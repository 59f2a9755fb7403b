"""Whatever is changed in a finished pack set, `verify` notices it and says where."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.packed import PackedDemo, pack_demo
from tests.packsets import signed
from vlmprep.engines.local import LocalEngine
from vlmprep.pipeline.verify import Problem, Verification, verify
from vlmprep.schema.packset import PACKS
from vlmprep.schema.progress import Silent
from vlmprep.shardformat.errors import BrokenPackSet, IncompletePackSet
from vlmprep.shardformat.index import map_index, write_index

END_OF_ARCHIVE = bytes(1024)
SHARD, RECEIPT, INDEX = "shards/000001.tar", "receipts/000001.json", "packs.arrow"


@pytest.fixture
def packset(packed_demo: PackedDemo, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(packed_demo.packset, tmp_path / "packset"))


class Counted(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.total = total

    def advance(self, amount: int = 1) -> None:
        self.done += amount


def check(packset: Path) -> Verification:
    return verify(packset, LocalEngine(0), Silent())


def found_in(packset: Path) -> list[Problem]:
    """What is wrong; never nothing."""
    problems = list(check(packset).problems)
    assert problems, "the damage went unseen"
    return problems


def about(problems: list[Problem], file: str, pack_id: int | None = None) -> str:
    """All that is said of a file as a whole, or of one pack in it."""
    return "\n".join(problem.what for problem in problems if (problem.file, problem.pack_id) == (file, pack_id))


def packs_of(packset: Path, shard: int) -> list[int]:
    return np.flatnonzero(map_index(packset / INDEX).shard == shard).tolist()


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(signed(value) if path.name == "manifest.json" else value))


def columns_of(packset: Path) -> dict[str, np.ndarray]:
    index = map_index(packset / INDEX)
    return {name: getattr(index, name).copy() for name in PACKS.names}


def test_a_whole_pack_set_has_no_problems(packed_demo: PackedDemo) -> None:
    progress = Counted()
    found = verify(packed_demo.packset, LocalEngine(0), progress)
    assert found.problems == ()
    assert found.num_shards >= 3
    assert found.num_samples > found.num_packs > 10
    assert progress.done == progress.total == found.num_packs
    rows = pq.read_table(packed_demo.packset / "samples.parquet")
    assert {"packed", "refused"} == set(rows["status"].to_pylist())
    assert "undecodable-media" in rows["reason_code"].to_pylist(), "a sample was refused while packing"


@pytest.mark.parametrize("compression", ["lz4", "none"])
def test_other_codecs_have_no_problems(compression: Any, tmp_path: Path) -> None:
    made = pack_demo(tmp_path, num_samples=12, compression=compression)
    found = check(made.packset)
    assert found.problems == ()
    assert found.num_packs > 3


def test_packs_with_fake_images_have_no_problems(packed_text: PackedDemo) -> None:
    found = check(packed_text.packset)
    assert found.problems == ()
    assert map_index(packed_text.packset / INDEX).num_images.tolist() == [0] * found.num_packs


@pytest.mark.parametrize("place", ["first header", "content", "last byte"])
def test_a_flipped_bit_names_shard_and_pack(packset: Path, place: str) -> None:
    index, pack_id = map_index(packset / INDEX), packs_of(packset, 1)[1]
    size = int(index.size[pack_id])
    at = int(index.offset[pack_id]) + {"first header": 3, "content": size // 2, "last byte": size - 1}[place]
    data = bytearray((packset / SHARD).read_bytes())
    data[at] ^= 1
    (packset / SHARD).write_bytes(data)

    problems = found_in(packset)
    assert "its SHA-256 is" in about(problems, SHARD)
    assert about(problems, SHARD, pack_id) == "its bytes do not have the digest that packs.arrow says"
    assert len(problems) == 2


def test_a_cut_shard_names_the_packs_that_are_gone(packset: Path) -> None:
    index, packs = map_index(packset / INDEX), packs_of(packset, 1)
    end = int(index.offset[packs[-1]])
    (packset / SHARD).write_bytes((packset / SHARD).read_bytes()[:end])

    problems = found_in(packset)
    assert f"it has {end} bytes, the manifest says" in about(problems, SHARD)
    assert f"the shard has {end} bytes" in about(problems, SHARD, packs[-1])
    assert about(problems, SHARD, packs[0]) == ""


def test_a_missing_shard_is_one_problem(packset: Path) -> None:
    (packset / SHARD).unlink()
    assert found_in(packset) == [Problem(file=SHARD, what="it is missing")]


def test_swapped_shards_are_named_for_what_they_are(packset: Path) -> None:
    one, other = packset / "shards/000000.tar", packset / SHARD
    one.rename(packset / "aside")
    other.rename(one)
    (packset / "aside").rename(other)

    problems = found_in(packset)
    assert "its content is that of shards/000001.tar" in about(problems, "shards/000000.tar")
    assert "its content is that of shards/000000.tar" in about(problems, SHARD)
    for shard, name in enumerate(("shards/000000.tar", SHARD)):
        assert all(about(problems, name, pack_id) for pack_id in packs_of(packset, shard))


def test_bytes_behind_the_last_pack_are_noticed(packset: Path) -> None:
    data = (packset / SHARD).read_bytes()
    (packset / SHARD).write_bytes(data + b"x" * 512)
    assert "is not the end of a tar archive and nothing else" in about(found_in(packset), SHARD)


def test_bytes_between_packs_are_noticed_though_every_digest_is_right(packset: Path) -> None:
    columns, packs = columns_of(packset), packs_of(packset, 1)
    at, later = int(columns["offset"][packs[1]]), packs[1:]
    data = (packset / SHARD).read_bytes()
    (packset / SHARD).write_bytes(data[:at] + bytes(1024) + data[at:])
    columns["offset"][later] += 1024
    write_index(packset / INDEX, columns)
    end = len(data) + 1024 - len(END_OF_ARCHIVE)
    offsets = [*columns["offset"][packs], end]
    (packset / f"{SHARD}.idx").write_bytes(np.array(offsets, dtype=np.uint64).tobytes())
    shard, index = (
        {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (packset / SHARD, packset / INDEX)
    )

    def note(receipt: Any) -> None:
        receipt.update(shard)
        for pack in receipt["packs"][1:]:
            pack["offset"] += 1024

    edit_json(packset / RECEIPT, note)
    edit_json(packset / "manifest.json", lambda m: (m["shards"][1].update(shard), m["files"][INDEX].update(index)))
    expected = f"packs.arrow puts it at byte {at + 1024}, what is before it ends at {at}"
    assert found_in(packset) == [Problem(file=SHARD, pack_id=packs[1], what=expected)]


@pytest.mark.parametrize("column", PACKS.names)
def test_an_edited_index_row_names_pack_and_column(packset: Path, column: str) -> None:
    columns, pack_id = columns_of(packset), packs_of(packset, 1)[1]
    columns[column][pack_id] += 1
    write_index(packset / INDEX, columns)

    problems = found_in(packset)
    assert "its SHA-256 is" in about(problems, INDEX) or "bytes, the manifest says" in about(problems, INDEX)
    assert f"{column} is {columns[column][pack_id]}, " in about(problems, INDEX, pack_id)


def test_a_swapped_pair_of_index_rows_is_noticed_though_all_sums_agree(packset: Path) -> None:
    columns = columns_of(packset)
    one, other = packs_of(packset, 1)[:2]
    for values in columns.values():
        values[[one, other]] = values[[other, one]]
    write_index(packset / INDEX, columns)
    problems = found_in(packset)
    assert about(problems, INDEX, one)
    assert about(problems, INDEX, other)


def test_an_unreadable_index_still_has_its_shards_checked(packset: Path) -> None:
    (packset / INDEX).write_bytes(b"not arrow")
    data = bytearray((packset / SHARD).read_bytes())
    data[600] ^= 1
    (packset / SHARD).write_bytes(data)
    problems = found_in(packset)
    assert "is no Arrow file" in about(problems, INDEX)
    assert "do not have the digest" in about(problems, SHARD, packs_of_receipt(packset)[0])


def packs_of_receipt(packset: Path) -> list[int]:
    receipt = json.loads((packset / RECEIPT).read_text())
    return list(range(receipt["first_pack"], receipt["first_pack"] + len(receipt["packs"])))


def test_a_shorter_index_is_noticed(packset: Path) -> None:
    columns = columns_of(packset)
    write_index(packset / INDEX, {name: values[:-1] for name, values in columns.items()})
    problems = found_in(packset)
    assert f"it lists {len(columns['shard']) - 1} packs" in about(problems, INDEX)
    last = f"shards/{columns['shard'][-1]:06d}.tar"
    assert "packs.arrow has" in about(problems, last)


def edit_samples(packset: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = packset / "samples.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def packed_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["status"] == "packed"]


def test_two_rows_that_traded_places_name_both_packs(packset: Path) -> None:
    places: list[tuple[int, int]] = []

    def trade(rows: list[dict[str, Any]]) -> None:
        one, *others = packed_rows(rows)
        other = next(row for row in others if row["pack_id"] != one["pack_id"])
        for name in ("pack_id", "document"):
            one[name], other[name] = other[name], one[name]
        places.extend((row["pack_id"], row["document"]) for row in (one, other))

    edit_samples(packset, trade)
    problems = found_in(packset)
    assert about(problems, "samples.parquet")
    index = map_index(packset / INDEX)
    for pack_id, document in places:
        shard = f"shards/{index.shard[pack_id]:06d}.tar"
        assert f"document {document} is " in about(problems, shard, pack_id)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows.remove(packed_rows(rows)[0]), "rows are packed, the manifest says"),
        (lambda rows: rows.append(rows[0]), " is there 2 times"),
        (lambda rows: packed_rows(rows)[0].update(status="refused"), "it is not packed, but has a pack_id"),
        (lambda rows: packed_rows(rows)[0].update(status="lost"), "its status is not packed, refused or unused"),
        (lambda rows: packed_rows(rows)[0].update(pack_id=None), "it is packed, but has no pack_id"),
        (lambda rows: packed_rows(rows)[0].update(pack_id=-1), "rows are in pack -1, there are"),
        (lambda rows: packed_rows(rows)[0].update(pack_id=10**6), "rows are in pack 1000000, there are"),
        (lambda rows: packed_rows(rows)[0].update(reason="why not"), "it is not refused, but has a reason"),
        (lambda rows: packed_rows(rows)[0].update(sample_id=None), "it has no sample_id"),
        (lambda rows: refused_row(rows, "not-json").update(reason=None), "it is refused without a reason"),
        (
            lambda rows: refused_row(rows, "undecodable-media").update(reason="made up"),
            "samples.parquet does not say so",
        ),
    ],
)
def test_an_edited_account_is_named(packset: Path, change: Any, expected: str) -> None:
    edit_samples(packset, change)
    said = about(found_in(packset), "samples.parquet")
    assert expected in said
    assert "the manifest says" in said, "the file's own digest"


def test_an_account_that_is_no_table_is_named(packset: Path) -> None:
    (packset / "samples.parquet").write_bytes(b"no table")
    assert "it cannot be read" in about(found_in(packset), "samples.parquet")


def test_an_account_with_other_columns_is_named(packset: Path) -> None:
    path = packset / "samples.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "row", table["row"].cast(pa.int32())), path)
    assert "expected ['source', 'row'," in about(found_in(packset), "samples.parquet")


def test_a_manifest_without_a_digest_of_the_index_is_named(packset: Path) -> None:
    edit_json(packset / "manifest.json", lambda manifest: manifest["files"].pop(INDEX))
    assert about(found_in(packset), "manifest.json") == f"it has no digest of {INDEX}"


def test_shards_under_other_names_are_named(packset: Path) -> None:
    edit_json(packset / "manifest.json", lambda manifest: manifest["shards"][1].update(name="shards/one.tar"))
    assert f"is named shards/one.tar, expected {SHARD}" in about(found_in(packset), "manifest.json")


def refused_row(rows: list[dict[str, Any]], code: str) -> dict[str, Any]:
    return next(row for row in rows if row["reason_code"] == code)


def test_wrong_document_numbers_name_the_pack(packset: Path) -> None:
    pack_ids: list[int] = []

    def renumber(rows: list[dict[str, Any]]) -> None:
        row = packed_rows(rows)[0]
        row["document"] = 9
        pack_ids.append(row["pack_id"])

    edit_samples(packset, renumber)
    assert "its documents are numbered" in about(found_in(packset), "samples.parquet", pack_ids[0])


def test_a_pack_with_another_sample_than_the_account_says_is_named(packset: Path) -> None:
    """The id alone is edited: no count, sum or order tells."""
    edit_samples(packset, lambda rows: packed_rows(rows)[0].update(sample_id="another"))
    row = pc.index(pq.read_table(packset / "samples.parquet")["sample_id"], "another").as_py()
    pack_id = pq.read_table(packset / "samples.parquet")["pack_id"][row].as_py()
    shard = f"shards/{map_index(packset / INDEX).shard[pack_id]:06d}.tar"
    assert "(another) there" in about(found_in(packset), shard, pack_id)


@pytest.mark.parametrize(
    "name", ["samples.parquet", INDEX, RECEIPT, f"{SHARD}.idx", ".nv-meta/.info.json", "settings.json"]
)
def test_a_missing_file_is_named(packset: Path, name: str) -> None:
    (packset / name).unlink()
    assert about(found_in(packset), name) == "it is missing"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda receipt: receipt.update(size=1), "size is 1, the manifest says"),
        (lambda receipt: receipt.update(sha256="0"), "sha256 is 0, the manifest says"),
        (lambda receipt: receipt.update(first_pack=0), "first_pack is 0, the manifest says"),
        (lambda receipt: receipt.update(shard=7), "shard is 7, the manifest says 1"),
        (lambda receipt: receipt.update(job="another"), "it is of job another..., settings.json makes"),
        (lambda receipt: receipt["packs"].pop(), "packs, the manifest"),
        (lambda receipt: receipt.pop("packs"), "it is no receipt"),
        (lambda receipt: receipt["packs"][0].update(more=1), "it is no receipt"),
    ],
)
def test_an_edited_receipt_is_named(packset: Path, change: Any, expected: str) -> None:
    edit_json(packset / RECEIPT, change)
    assert expected in about(found_in(packset), RECEIPT)


def test_swapped_receipts_are_named(packset: Path) -> None:
    one, other = packset / "receipts/000000.json", packset / RECEIPT
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    problems = found_in(packset)
    assert "shard is 1, the manifest says 0" in about(problems, "receipts/000000.json")
    assert "shard is 0, the manifest says 1" in about(problems, RECEIPT)


def test_an_edited_energon_index_is_named(packset: Path) -> None:
    path = packset / f"{SHARD}.idx"
    offsets = np.frombuffer(path.read_bytes(), np.uint64).copy()
    offsets[1] += 512
    path.write_bytes(offsets.tobytes())
    assert "offsets that packs.arrow makes" in about(found_in(packset), f"{SHARD}.idx")


def test_wrong_energon_counts_are_named(packset: Path) -> None:
    edit_json(packset / ".nv-meta/.info.json", lambda info: info["shard_counts"].update({SHARD: 1}))
    assert "the manifest's shards and packs" in about(found_in(packset), ".nv-meta/.info.json")


def test_files_that_the_manifest_does_not_know_are_named(packset: Path) -> None:
    shutil.copy(packset / SHARD, packset / "shards/000777.tar")
    assert found_in(packset) == [Problem(file="shards/000777.tar", what="the manifest does not know it")]


def test_totals_of_the_manifest_that_the_index_does_not_bear_out_are_named(packset: Path) -> None:
    edit_json(packset / "manifest.json", lambda manifest: manifest.update(num_tokens=manifest["num_tokens"] + 1))
    assert "its num_tokens add up to" in about(found_in(packset), INDEX)


def test_everything_is_collected_not_only_the_first(packset: Path) -> None:
    (packset / "shards/000000.tar").unlink()
    (packset / RECEIPT).unlink()
    edit_samples(packset, lambda rows: rows.append(rows[0]))
    files = {problem.file for problem in found_in(packset)}
    assert files >= {"shards/000000.tar", RECEIPT, "samples.parquet"}


def test_workers_find_what_one_process_finds(packset: Path) -> None:
    (packset / "shards/000000.tar").unlink()
    (packset / SHARD).write_bytes((packset / SHARD).read_bytes()[:-2000])
    alone = check(packset)
    assert len(alone.problems) > 3
    assert verify(packset, LocalEngine(2), Silent()) == alone


def test_a_pack_set_without_manifest_is_not_complete(packset: Path) -> None:
    (packset / "manifest.json").unlink()
    with pytest.raises(IncompletePackSet, match=r"has no manifest\.json"):
        check(packset)


def test_a_manifest_that_contradicts_itself_stops(packset: Path) -> None:
    edit_json(packset / "manifest.json", lambda manifest: manifest.update(num_packs=3))
    with pytest.raises(BrokenPackSet, match="3 packs, but its shards hold"):
        check(packset)
