"""Rows as byte ranges: nothing lost, nothing merged, nothing read as what it is not, whatever the file looks like."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmprep.schema.errors import StopRun
from vlmprep.sources import rows as rows_module
from vlmprep.sources.rows import BOM, RawRow, chunk_rows, read_row, rows_of, scan_chunks

BLOCK_SIZES = (1, 2, 3, 7, 64, 4 << 20)


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def read_all(path: str) -> list[RawRow[bytes]]:
    """Every row, by way of chunks, each read back by its offset as well."""
    found = [row for chunk in scan_chunks(path) for row in rows_of(path, chunk)]
    with open(path, "rb") as file:
        for row in found:
            assert read_row(file, row.offset, len(row.data)) == row.data
    return found


def values(path: str) -> list[Any]:
    return [json.loads(row.data) for row in read_all(path)]


def stop(path: str) -> StopRun:
    with pytest.raises(StopRun) as caught:
        list(scan_chunks(path))
    return caught.value


SAMPLES: list[Any] = [
    {"id": 1, "text": 'brackets ]}[{ and "quotes\\" \\\\'},
    {"id": 2, "nested": [[1, [2, {"a": "]"}]], {}]},
    {"id": 3, "text": "é𐍈\ue000 \x00 \x7f", "number": -1.5e-7},
    "a text, with a comma",
    "\\",
    '"',
    12345,
    None,
    True,
    [],
    {},
    [[], [{}]],
]


@pytest.mark.parametrize("block", BLOCK_SIZES)
@pytest.mark.parametrize("indent", [None, 0, 1, 4])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_an_array_gives_its_elements_wherever_blocks_cut_it(block, indent, ascii_only, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", block)
    path = write(tmp_path / "a.json", json.dumps(SAMPLES, indent=indent, ensure_ascii=ascii_only).encode())
    assert values(path) == SAMPLES


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b" \r\n \n"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n \n"])
@pytest.mark.parametrize("start", [b"", BOM, b"\n \n", BOM + b"\r\n"])
def test_lines_give_rows_whatever_ends_them(end, last, start, tmp_path):
    samples = SAMPLES[:9]
    path = write(tmp_path / "a.jsonl", start + end.join(json.dumps(value).encode() for value in samples) + last)
    assert values(path) == samples


@pytest.mark.parametrize("start", [b"", BOM, b" \n\t", BOM + b"\r\n  "])
@pytest.mark.parametrize("end", [b"", b"\n", b" \r\n\t "])
@pytest.mark.parametrize("block", BLOCK_SIZES)
def test_space_around_an_array_is_space(start, end, block, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", block)
    path = write(tmp_path / "a.json", start + b'[ {"a": 1} , {"b": "]"} ]' + end)
    assert values(path) == [{"a": 1}, {"b": "]"}]


def test_rows_of_lines_are_numbered_as_lines_are(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"a":1}\n\n \r\n{"b":2}\n{broken\n{"c":3}')
    assert [(row.row, row.data) for row in read_all(path)] == [
        (0, b'{"a":1}\n'),
        (3, b'{"b":2}\n'),
        (4, b"{broken\n"),
        (5, b'{"c":3}'),
    ]


def test_a_json_file_of_lines_is_lines(tmp_path):
    assert values(write(tmp_path / "a.json", b'{"a":1}\n{"b":2}\n')) == [{"a": 1}, {"b": 2}]


def test_a_jsonl_file_that_is_an_array_is_an_array(tmp_path):
    assert values(write(tmp_path / "a.jsonl", b'[\n{"a":1},\n{"b":2}\n]\n')) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("data", [b"", b"\n \n", BOM, b"[]", b" [ \n ] ", BOM + b"[]"])
def test_a_file_without_rows_has_no_chunks(data, tmp_path):
    assert list(scan_chunks(write(tmp_path / "a.json", data))) == []


@pytest.mark.parametrize("block", BLOCK_SIZES)
@pytest.mark.parametrize("data", [b"[", b'[{"a": 1}', b'[{"a": 1},', b'[{"a": "]', b'[{"a": 1]', b'["a"b"]', b'["\\"]'])
def test_an_array_that_does_not_close_stops_the_run(data, block, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", block)
    assert "does not close" in str(stop(write(tmp_path / "a.json", data)))


@pytest.mark.parametrize("block", BLOCK_SIZES)
@pytest.mark.parametrize(
    "data", [b"[1]x", b"[1][2]", b"[1]\n[2]\n", b"[1]" + b" " * 100 + b"]", b'[{"a":1}], {"b":2}]', b"[],"]
)
def test_what_follows_an_array_is_not_lost_without_a_word(data, block, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", block)
    assert "something follows" in str(stop(write(tmp_path / "a.json", data)))


@pytest.mark.parametrize("data", [b'{\n  "a": 1\n}', BOM + b'{ \r\n\t"a": [1]\n}\n'])
def test_one_object_spread_over_lines_stops_the_run(data, tmp_path):
    assert "one JSON object spread over lines" in str(stop(write(tmp_path / "a.json", data)))


def test_a_first_line_that_is_broken_spoils_nothing_else(tmp_path):
    assert [row.row for row in read_all(write(tmp_path / "a.jsonl", b'{\n{"a":1}\n'))] == [0, 1]


def test_elements_that_are_broken_inside_spoil_nothing_else(tmp_path):
    path = write(tmp_path / "a.json", b'[{"a":1}}, {"b":2], nonsense, , {"c":3} {"d":4}, {"e":5}]')
    assert [row.data for row in read_all(path)] == [
        b'{"a":1}}',
        b'{"b":2]',
        b"nonsense",
        b'{"c":3} {"d":4}',
        b'{"e":5}',
    ]


@pytest.mark.parametrize("block", [1 << 10, 4 << 20])
@pytest.mark.parametrize("make", [lambda rows: b"[" + b",".join(rows) + b"]", b"\n".join])
def test_a_huge_row_is_one_row(make, block, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", block)
    huge = json.dumps({"image": "A" * 9_000_000, "escapes": '\\"' * 100_000}).encode()
    path = write(tmp_path / "a.json", make([b'{"a":1}', huge, b'{"b":2}']))
    assert [row.data.strip() for row in read_all(path)] == [b'{"a":1}', huge, b'{"b":2}']


@pytest.mark.parametrize("data", [b'[{"a": "' + b"x" * 3_000 + b'"}]', b'{"a": "' + b"x" * 3_000 + b'"}\n{}'])
def test_a_row_without_an_end_stops_the_run_before_memory_does(data, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_ROW_BYTES", 1_000)
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 100)
    error = stop(write(tmp_path / "a.json", data))
    assert "row 0" in str(error)
    assert "is longer than" in str(error)


def test_chunks_tile_the_rows_and_grow(tmp_path):
    path = write(tmp_path / "a.jsonl", b"".join(b'{"row":%d}\n' % number for number in range(8_000)))
    chunks = list(scan_chunks(path))
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.num_rows for chunk in chunks[:-1]] == [chunk_rows(number) for number in range(len(chunks) - 1)]
    assert chunks[0].num_rows == 256 < chunks[9].num_rows == 512 < chunks[-2].num_rows
    assert chunk_rows(10**6) == 8_192
    ends = [0, *itertools.accumulate(chunk.num_rows for chunk in chunks)]
    assert [chunk.first_row for chunk in chunks] == ends[:-1]
    assert ends[-1] == 8_000
    assert all(chunk.start == before.start + before.size for before, chunk in itertools.pairwise(chunks))


@pytest.mark.parametrize(
    "make", [lambda rows: b"[" + b",\n".join(rows) + b"]", lambda rows: b"".join(r + b"\n" for r in rows)]
)
def test_rows_added_at_the_end_leave_earlier_chunks_as_they_were(make, tmp_path):
    rows = [b'{"row":%d}' % number for number in range(1_600)]
    before = list(scan_chunks(write(tmp_path / "a.json", make(rows))))
    after = list(scan_chunks(write(tmp_path / "b.json", make([*rows, b'{"new":1}']))))
    assert len(before) > 5
    assert after[: len(before) - 1] == before[:-1]
    assert after[-1] != before[-1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"a":1}\n{"b":2}\n', b'{"a":1}\n\n{"b":2}\n'),  # a blank line moves rows
        (b'[{"a":1}, {"b":2}]', b'[{"a":1},  {"b":2}]'),  # a blank moves bytes
        (b'[{"a":1}, {"b":2}]', b'[ {"a":1},{"b":2}]'),
        (b"[1, 23]", b"[12, 3]"),
        (b'{"a":1}\n', b'{"a":2}\n'),
        (b'{"a":1}', b'{"a":1}\n'),
    ],
)
def test_a_chunk_whose_rows_moved_is_another_chunk(old, new, tmp_path):
    (before,), (after,) = scan_chunks(write(tmp_path / "a", old)), scan_chunks(write(tmp_path / "b", new))
    assert before.digest != after.digest


@pytest.mark.parametrize(
    "change", [lambda data: data.replace(b"7", b"8"), lambda data: data[:-9], lambda data: b"\n" + data]
)
def test_rows_that_change_under_the_reader_stop_the_run(change, tmp_path):
    data = b"".join(b'{"row":%d}\n' % number for number in range(10))
    path = write(tmp_path / "a.jsonl", data)
    (chunk,) = scan_chunks(path)
    assert len(list(rows_of(path, chunk))) == 10
    write(tmp_path / "a.jsonl", change(data))
    with pytest.raises(StopRun, match="changed while it was read"):
        list(rows_of(path, chunk))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(
    samples=st.lists(JSON_VALUES, max_size=12),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    block=st.integers(1, 50),
    start=st.sampled_from([b"", BOM, b" \n"]),
)
def test_any_list_of_values_comes_back_from_an_array(samples, indent, ascii_only, block, start, tmp_path_factory):
    data = start + json.dumps(samples, indent=indent, ensure_ascii=ascii_only).encode("utf-8")
    path = write(tmp_path_factory.mktemp("array") / "a.json", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_BYTES", block)
        patch.setattr(rows_module, "FIRST_CHUNK_ROWS", 2)
        assert values(path) == samples


@settings(max_examples=150)
@given(
    samples=st.lists(JSON_VALUES, max_size=12),
    ascii_only=st.booleans(),
    end=st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    start=st.sampled_from([b"", BOM]),
    closed=st.booleans(),
)
def test_any_list_of_values_comes_back_from_lines(samples, ascii_only, end, start, closed, tmp_path_factory):
    samples = [{"first": "is no list"}, *samples]
    lines = [json.dumps(sample, ensure_ascii=ascii_only).encode("utf-8") for sample in samples]
    path = write(tmp_path_factory.mktemp("lines") / "a.jsonl", start + end.join(lines) + (end if closed else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "FIRST_CHUNK_ROWS", 2)
        assert values(path) == samples


@settings(max_examples=300)
@given(
    data=st.binary(max_size=60) | st.text(alphabet='[]{},"\\ \n1', max_size=60).map(str.encode), block=st.integers(1, 9)
)
def test_any_bytes_give_rows_or_stop_the_run(data, block, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("bytes") / "a.json", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_BYTES", block)
        try:
            found = read_all(path)
        except StopRun:
            return
    assert all(row.data.strip() for row in found)
    assert [row.row for row in found] == sorted({row.row for row in found})
    ends = [row.offset + len(row.data) for row in found]
    assert all(end <= row.offset for end, row in zip(ends, found[1:], strict=False))
