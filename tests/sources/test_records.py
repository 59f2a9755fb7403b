"""Rows that are no JSON object, or not one object, or one that means two things."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.records import parse_record, sample_id


def refusal(data: bytes, row: int = 6) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        parse_record(row, data)
    assert len(caught.value.reason) < 500
    return caught.value


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a": \n', "not-json"),
        (b"", "not-json"),
        (b"{} {}", "not-json"),
        (b"{'a': 1}", "not-json"),
        (b'{"a": 1,}', "not-json"),
        (b'\xef\xbb\xbf{"a": 1}', "not-json"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not-json"),
        (b'{"a": "\x01"}', "not-json"),
        (b'{"a": "\xff\xfe"}', "not-utf8"),
        (b'{"a": "\xed\xa0\x80"}', "not-utf8"),
        ('{"a": 1}'.encode("utf-16"), "not-utf8"),
        (b"[1]", "not-an-object"),
        (b"null", "not-an-object"),
        (b'"text"', "not-an-object"),
        (b"1.5", "not-an-object"),
        (b'{"a": 1, "b": 2, "a": 1}', "duplicate-name"),
        (b'{"a": [{"b": 1, "b": 2}]}', "duplicate-name"),
        (rb'{"a": "\ud800"}', "not-unicode"),
        (rb'{"a": ["\uD83D \uDE00"]}', "not-unicode"),
        (rb'{"\udfff": 1}', "not-unicode"),
        (rb'{"a": "\ude00\ud83d"}', "not-unicode"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_its_line(data, code):
    found = refusal(data)
    assert found.code == code
    assert "line 7" in found.reason


NESTINGS = [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"\\ud83d\\ude00":', b"}]")]


@pytest.mark.parametrize("depth", [100_000, 1_000_000])
@pytest.mark.parametrize(("open_", "close"), NESTINGS)
def test_a_bomb_of_brackets_is_refused(depth, open_, close):
    assert refusal(b'{"bomb": ' + open_ * depth + b"1" + close * depth + b"}").code == "not-json"


@pytest.mark.parametrize("depth", range(100, 1_500, 50))
@pytest.mark.parametrize(("open_", "close"), NESTINGS)
def test_deep_nesting_is_read_or_refused_whatever_gives_in_first(depth, open_, close):
    with suppress(RefuseSample):
        assert set(parse_record(0, b'{"bomb": ' + open_ * depth + b"1" + close * depth + b"}")) == {"bomb"}


def test_a_bomb_of_brackets_that_does_not_close_is_refused():
    assert refusal(b'{"bomb": ' + b"[" * 1_000_000).code == "not-json"


@pytest.mark.parametrize("ascii_only", [True, False])
def test_whole_characters_are_whole_however_they_are_spelled(ascii_only):
    record = {"a": "𐍈 é \U0001f600 \ue000\ue001 \x00", "b\U0001f600": [r"\ud800", "\\ud800"]}
    assert parse_record(0, json.dumps(record, ensure_ascii=ascii_only).encode()) == record


def test_numbers_that_json_lacks_are_read_as_python_reads_them():
    assert parse_record(0, b'{"a": Infinity, "b": 1e999}') == {"a": float("inf"), "b": float("inf")}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"id": "a"}, "a"),
        ({"id": 5}, "5"),
        ({"id": 0}, "0"),
        ({"id": ""}, ""),
        ({"id": None, "uid": "u"}, "u"),
        ({"id": ["x"], "sample_id": 7}, "7"),
        ({"id": {"a": 1}}, "3"),
        ({"id": 1.5}, "3"),
        ({}, "3"),
    ],
)
def test_an_id_is_the_rows_own_or_its_number(record, expected):
    assert sample_id(record, 3) == expected
