"""Every kind of file gives the rows that were written to it, in order, each found again by its place; or says what is broken."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard

from tests.sources.pictures import png
from vlmprep.automodel.rank_rows import rows_of_rank
from vlmprep.schema.conversation import Media, Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.sources import arrow_rows, mentions, tar_rows
from vlmprep.sources.blobs import BlobRow, RowData
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.row_files import OpenFiles, groups_of, open_rows
from vlmprep.sources.rows import RawRow
from vlmprep.sources.spec import SourceSpec

NUM_ROWS = 700
"""Three chunks."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMPREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def chat(number: int, image: Any = None) -> dict[str, Any]:
    tag = "" if image is None else "<image>"
    messages = [{"role": "user", "content": f"{tag}Q{number}é"}, {"role": "assistant", "content": "A"}]
    return {"id": f"s{number}", "messages": messages, "images": [] if image is None else [image]}


def picture(number: int) -> bytes:
    return png() + number.to_bytes(4, "little")


def write_text(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    if path.suffix == ".gz":
        data = gzip.compress(data[:5_000]) + gzip.compress(data[5_000:])
    elif path.suffix == ".zst":
        packer = zstandard.ZstdCompressor()
        data = packer.compress(data[:5_000]) + packer.compress(data[5_000:])
    path.write_bytes(data)
    return str(path)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    table = pa.Table.from_pylist(list(rows))
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=90)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if "packed" in path.name else None)
        make = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=70)
    return str(path)


def write_tar(path: Path, groups: Sequence[tuple[str, dict[str, bytes]]]) -> str:
    with tarfile.open(path, "w") as tar:
        for key, members in groups:
            for name, data in members.items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(path)


def spec(path: str, **words: Any) -> SourceSpec:
    return SourceSpec(name="s", path=path, media_dir=str(Path(path).parent), **words)


def raw_rows(path: str) -> list[RawRow[RowData]]:
    """All rows by way of chunks, each found again by its place, in an order that files are not written in."""
    file = open_rows(path)
    found = [row for chunk in file.chunks() for row in file.rows(chunk)]
    assert [row.row for row in found] == list(range(len(found)))
    again = OpenFiles()[path]
    for row in found[::-7]:
        assert again.read(row.offset, len(row.data)) == row.data
    return found


def samples(path: str, **words: Any) -> list[Sample]:
    reader = RowReader(spec=spec(path, **words))
    return [reader.sample(row.row, row.data) for row in raw_rows(path)]


def refusal(path: str, row: int = 0, **words: Any) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        RowReader(spec=spec(path, **words)).sample(row, raw_rows(path)[row].data)
    return caught.value


def stop(path: str) -> str:
    with pytest.raises(StopRun) as caught:
        raw_rows(path)
    assert path in str(caught.value)
    return str(caught.value)


def write_members(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    groups = []
    for number, row in enumerate(rows):
        image = row["images"][0]["bytes"]
        text = json.dumps({"id": row["id"], "messages": row["messages"]}).encode()
        groups.append((f"deep/{number:04d}", {"json": text, "png": image}))
    return write_tar(path, groups)


WRITERS: dict[str, Callable[[Path, Sequence[dict[str, Any]]], str]] = {
    "a.parquet": write_table,
    "a.arrow": write_table,
    "stream.arrow": write_table,
    "packed.arrow": write_table,
    "packed-stream.arrow": write_table,
    "a.tar": write_members,
}


@pytest.mark.parametrize("name", WRITERS)
def test_rows_with_bytes_come_back_in_order(name, tmp_path):
    rows = [chat(number, {"bytes": picture(number), "path": None}) for number in range(NUM_ROWS)]
    found = samples(WRITERS[name](tmp_path / name, rows))
    assert [sample.sample_id for sample in found] == [f"s{number}" for number in range(NUM_ROWS)]
    assert [sample.media() for sample in found] == [
        [Media(kind="image", content=picture(number))] for number in range(NUM_ROWS)
    ]
    assert found[5].messages[0].parts[1].text == "Q5é"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "a.parquet", "a.arrow"])
def test_the_same_rows_are_the_same_samples_in_every_file(name, tmp_path):
    rows = [chat(number, f"pictures/{number}.png") for number in range(NUM_ROWS)]
    truth = samples(write_text(tmp_path / "truth.jsonl", rows))
    assert len(truth) == NUM_ROWS
    write = write_text if ".json" in name else write_table
    assert samples(write(tmp_path / name, rows)) == truth


@pytest.mark.parametrize("name", [*WRITERS, "a.jsonl", "a.json", "a.jsonl.gz", "a.jsonl.zst"])
def test_places_are_those_of_the_rows(name, tmp_path):
    rows = [chat(number, {"bytes": picture(number), "path": None}) for number in range(40)]
    path = WRITERS[name](tmp_path / name, rows) if name in WRITERS else write_text(tmp_path / name, [chat(7)] * 40)
    found = raw_rows(path)
    assert len(found) == 40
    file = open_rows(path)
    places = list(file.places())
    assert [(place.row, place.offset) for place in places] == [(row.row, row.offset) for row in found]
    assert [file.read(place.offset, place.size) for place in places] == [row.data for row in found]


def test_one_of_many_ranks_reads_a_tars_headers_and_its_own_members(tmp_path, monkeypatch):
    rows = [chat(number, {"bytes": picture(number) + bytes(60_000), "path": None}) for number in range(64)]
    path = WRITERS["a.tar"](tmp_path / "a.tar", rows)
    read = []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real(descriptor, size, offset)

    real = os.pread
    monkeypatch.setattr(os, "pread", pread)
    mine, count, total = rows_of_rank(path, 1.0, 5, 32)
    assert ([row.row for row in mine], count, total) == ([5, 37], 2, 64)
    assert 2 * 60_000 < sum(read) < 2 * 61_000 + 2_000 * (2 * 64 + 10)


def test_a_rows_digest_is_that_of_the_bytes_that_stand_for_it(tmp_path):
    row = {"id": "a", "when": None, "images": [{"bytes": b"one", "path": None}], "more": [[b"two"], [b""]]}
    (found,) = raw_rows(write_table(tmp_path / "a.parquet", [row]))
    header = (
        b'{"kind":"record","key":"","record":{"id":"a","when":null,"images":[{"bytes":null}],"more":[[null],[null]]},'
        b'"blobs":[[["images",0,"bytes"],3],[["more",0,0],3],[["more",1,0],0]]}'
    )
    data = b"\0vlmprep row\0" + len(header).to_bytes(4, "little") + header + b"onetwo"
    assert (len(found.data), found.xxh3) == (len(data), xxhash.xxh3_64_intdigest(data))
    assert isinstance(found.data, BlobRow)
    assert found.data.values() == {**row, "images": [{"bytes": b"one"}]}


def test_plain_arrow_is_read_where_it_lies(tmp_path, cache):
    raw_rows(write_table(tmp_path / "a.arrow", [chat(0)]))
    assert not cache.exists()
    raw_rows(write_table(tmp_path / "packed.arrow", [chat(0)] * 100))
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_copy_is_made_once_and_again_when_the_file_changes(name, tmp_path, cache):
    write = write_text if ".json" in name else write_table
    path = write(tmp_path / name, [chat(1)])
    assert len(raw_rows(path)) == 1
    (copy,) = cache.iterdir()
    made = copy.stat().st_mtime_ns
    assert len(raw_rows(path)) == 1
    assert copy.stat().st_mtime_ns == made
    write(tmp_path / name, [chat(1), chat(2)])
    assert len(raw_rows(path)) == 2
    for each in cache.iterdir():
        each.unlink()
    assert len(raw_rows(path)) == 2


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.tar"])
def test_a_file_that_changes_under_the_reader_stops_the_run(name, tmp_path):
    rows = [chat(number, {"bytes": picture(number), "path": None}) for number in range(3)]
    path = WRITERS[name](tmp_path / name, rows)
    file = open_rows(path)
    (chunk,) = file.chunks()
    assert len(list(file.rows(chunk))) == 3
    os.utime(path, ns=(0, 0))
    with pytest.raises(StopRun, match="changed while it was read"):
        list(file.rows(chunk))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow", "stream.arrow", "a.tar"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.97])
def test_a_file_that_was_cut_short_stops_the_run_or_is_empty(name, share, tmp_path):
    rows = [chat(number, {"bytes": picture(number) * 20, "path": None}) for number in range(120)]
    if name in WRITERS:
        path = WRITERS[name](tmp_path / name, rows)
    else:
        path = write_text(tmp_path / name, [chat(number) for number in range(120)])
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])
    if share == 0.0 and ".json" in name:
        assert raw_rows(path) == []  # which the run that reads it reports by the file's name
    else:
        stop(path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow", "a.tar"])
def test_a_file_of_something_else_stops_the_run(name, tmp_path):
    (tmp_path / name).write_bytes(b"no such thing" * 200)
    stop(str(tmp_path / name))


def test_a_tar_whose_header_is_broken_stops_the_run_instead_of_ending_there(tmp_path):
    path = write_tar(tmp_path / "a.tar", [(f"{number}", {"json": b"{}"}) for number in range(9)])
    data = bytearray(Path(path).read_bytes())
    data[4 * 1024] ^= 0xFF
    Path(path).write_bytes(data)
    assert "header at byte 4096 is broken" in stop(path)


def test_tars_joined_by_cat_stop_the_run(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a", {"json": b"{}"})])
    Path(path).write_bytes(Path(path).read_bytes() * 2)
    assert "something follows its end" in stop(path)


def test_a_row_above_the_limit_is_refused_and_its_neighbours_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_rows, "MAX_ROW_BYTES", 3_000)
    monkeypatch.setattr(tar_rows, "MAX_ROW_BYTES", 3_000)
    rows = [chat(n, {"bytes": b"x" * (5_000 if n == 1 else 10), "path": None}) for n in range(3)]
    for name in ("a.parquet", "a.tar"):
        path = WRITERS[name](tmp_path / name, rows)
        assert refusal(path, 1).code == "row-too-large"
        reader = RowReader(spec=spec(path))
        assert [reader.sample(at, raw_rows(path)[at].data).sample_id for at in (0, 2)] == ["s0", "s2"]


def test_base64_above_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(mentions, "MAX_INLINE_BYTES", 1_000)
    monkeypatch.setattr("base64.b64decode", None)
    path = write_text(tmp_path / "a.jsonl", [chat(0, "data:image/png;base64," + "A" * 2_000)])
    assert refusal(path).code == "media-too-large"


def test_text_of_a_table_that_is_not_utf8_is_refused_alone(tmp_path):
    texts = pa.array([b"fine", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"messages": texts}), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert [refusal(path, row).code for row in range(3)] == ["no-messages", "not-utf8", "no-messages"]


def test_a_wrong_column_name_lists_the_columns_that_exist(tmp_path):
    path = write_table(tmp_path / "a.parquet", [{"talk": [], "picture": b"x"}])
    found = refusal(path)
    assert found.code == "missing-column"
    assert "'talk', 'picture'" in found.reason


def test_columns_of_the_same_name_stop_the_run(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert "columns of the same name: 'text'" in stop(str(tmp_path / "a.arrow"))


def test_messages_may_be_json_in_a_cell_and_names_that_other_rows_have_are_no_content(tmp_path):
    rows = [chat(0), chat(1)]
    rows[1]["messages"][1] |= {"reasoning_content": "Hm."}
    table = samples(write_table(tmp_path / "a.parquet", rows))
    for row in rows:
        row["messages"] = json.dumps(row["messages"])
    assert samples(write_table(tmp_path / "b.parquet", rows)) == table
    assert [sample.messages[1].reasoning for sample in table] == [None, "Hm."]


@pytest.mark.parametrize("value", [picture(3), {"bytes": picture(3), "path": "x.png"}])
@pytest.mark.parametrize("column", ["image", "images"])
def test_media_of_a_table_are_bytes_or_structs_alone_or_in_lists(value, column, tmp_path):
    row = chat(0, "x")
    del row["images"]
    row[column] = [value] if column == "images" else value
    (sample,) = samples(write_table(tmp_path / "a.parquet", [row]))
    assert sample.media() == [Media(kind="image", content=picture(3))]


TALK = json.loads(json.dumps(chat(0, "x")["messages"]))
GROUPS: dict[str, dict[str, bytes]] = {
    "media in order": {"json": json.dumps({"messages": TALK}).encode(), "png": picture(1)},
    "by the rest of the name": {"json": json.dumps({"messages": TALK, "images": ["png"]}).encode(), "png": picture(1)},
    "by its name": {"json": json.dumps({"messages": TALK, "image": "k.png"}).encode(), "png": picture(1)},
    "by its whole name": {"json": json.dumps({"messages": TALK, "image": "deep/k.png"}).encode(), "png": picture(1)},
    "by the name it once had": {
        "json": json.dumps({"messages": TALK, "image": "coco/7.jpg"}).encode(),
        "jpg": picture(1),
    },
    "a list of messages": {"json": json.dumps(TALK).encode(), "png": picture(1)},
    "in a part": {
        "json": json.dumps(
            [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "1.png"}}]},
                {"role": "assistant", "content": "A"},
            ]
        ).encode(),
        "1.png": picture(1),
    },
    "a caption": {"txt": b"A <image> of it", "jpg": picture(1)},
}


@pytest.mark.parametrize("name", GROUPS)
def test_members_of_a_tar_find_their_places(name, tmp_path):
    (sample,) = samples(write_tar(tmp_path / "a.tar", [("deep/k", GROUPS[name])]))
    assert sample.sample_id == "deep/k"
    assert sample.media() == [Media(kind="image", content=picture(1))]
    assert sample.messages[-1].role == "assistant"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"png": picture(1)}, "bad-member"),
        ({"json": b"{}", "txt": b"x", "png": picture(1)}, "bad-member"),
        ({"cls": b"7", "png": picture(1)}, "bad-member"),
        ({"json": b"{broken", "png": picture(1)}, "not-json"),
        ({"json": b"7"}, "not-an-object"),
        ({"txt": b"\xff", "png": picture(1)}, "not-utf8"),
        (
            {"json": json.dumps({"messages": TALK, "images": ["0.png"]}).encode(), "0.png": b"a", "1.png": b"b"},
            "unused-member",
        ),
        (
            {"json": json.dumps({"messages": TALK, "images": ["x"]}).encode(), "0.png": b"a", "1.png": b"b"},
            "unused-member",
        ),
        ({"json": json.dumps({"messages": TALK}).encode(), "0.png": b"a", "1.png": b"b"}, "tag-mismatch"),
    ],
)
def test_members_that_do_not_make_a_row_are_refused(members, code, tmp_path):
    path = write_tar(tmp_path / "a.tar", [("k", members)])
    assert refusal(path).code == code


def test_a_link_in_a_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("k.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert refusal(str(tmp_path / "a.tar")).code == "bad-member"


def test_long_names_and_folders_of_a_tar_are_read_in_every_dialect(tmp_path):
    for dialect in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=dialect) as tar:
            for number in range(3):
                folder = tarfile.TarInfo(f"{'d' * 150}{number}")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
                for name, data in GROUPS["media in order"].items():
                    info = tarfile.TarInfo(f"{folder.name}/{'k' * 120}.{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        found = samples(str(tmp_path / "a.tar"))
        assert [sample.sample_id for sample in found] == [f"{'d' * 150}{number}/{'k' * 120}" for number in range(3)]


def test_a_line_that_pretends_to_be_a_row_with_blobs_is_refused(tmp_path):
    magic = b"\0vlmprep row\0"
    lines = [
        magic,
        magic + b"\xff\xff\xff\xff",
        magic + b"\x02\0\0\0{}",
        magic + b"\x02\0\0\0[]",
        magic + b"\x01\0\0\0xy",
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    codes = ["not-json", "not-utf8", "not-json", "not-json", "not-json"]
    assert [refusal(str(path), row).code for row in range(len(lines))] == codes


def test_large_rows_make_smaller_groups():
    rows = [RawRow(row=n, offset=n, data=b"x" * size) for n, size in enumerate([1, 1, 1, 70 << 20, 1, 1])]
    assert [[row.row for row in group] for group in groups_of(iter(rows), 2)] == [[0, 1], [2, 3], [4, 5]]
    assert [[row.row for row in group] for group in groups_of(iter(rows), 9)] == [[0, 1, 2, 3], [4, 5]]


MEMORY = """
import resource, sys
from vlmprep.sources.row_files import open_rows
file = open_rows(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for chunk in file.chunks() for row in file.rows(chunk))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_a_large_array_streams_in_flat_memory(tmp_path):
    path, row = tmp_path / "a.json", json.dumps({"text": "x" * 30_000}).encode()
    with path.open("wb") as file:
        file.write(b"[" + row)
        for _ in range(2_999):
            file.write(b",\n" + row)
        file.write(b"]")
    assert path.stat().st_size > 85 << 20
    out = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    count, megabytes = map(int, out.stdout.split())
    assert count == 3_000
    assert megabytes < 40
