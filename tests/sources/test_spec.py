"""SOURCE arguments: what is read, and what stops the run before anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sources.web import serve
from vlmprep.schema.errors import StopRun
from vlmprep.sources.spec import SourceSpec, find_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name in ("a.jsonl", "b.json", "deep/c.jsonl"):
        (tmp_path / name).write_text('{"messages": []}\n')
    return tmp_path


def meta(folder: Path, content: Any) -> str:
    path = folder / "meta.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def stop(*arguments: str) -> str:
    with pytest.raises(StopRun) as caught:
        find_sources(arguments)
    return str(caught.value)


def test_files_are_named_after_themselves_and_hold_their_media_beside_them(folder):
    (a, c) = find_sources([str(folder / "a.jsonl"), str(folder / "deep" / "c.jsonl")])
    assert (a.name, a.path, a.media_dir) == ("a", str(folder / "a.jsonl"), str(folder))
    assert (c.name, c.media_dir) == ("c", str(folder / "deep"))


def test_globs_are_expanded_in_order(folder):
    assert [spec.name for spec in find_sources([str(folder / "**" / "*.json*")])] == ["a", "b", "c"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(folder):
    (folder / "x[1].jsonl").write_text("{}\n")
    assert [spec.name for spec in find_sources([str(folder / "x[1].jsonl")])] == ["x[1]"]


def test_relative_arguments_become_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_sources(["a.jsonl"])[0].path == str(folder / "a.jsonl")


def test_a_meta_file_names_sources_relative_to_itself(folder):
    entry = {
        "file_name": "../a.jsonl",
        "media_dir": "pictures",
        "columns": {"messages": "talk"},
        "tags": {"role_tag": "who"},
        "sample_ratio": 0.25,
    }
    one, two = find_sources([meta(folder / "deep", {"one": entry, "two": {"file_name": str(folder / "b.json")}})])
    assert (one.name, one.path, one.media_dir) == ("one", str(folder / "a.jsonl"), str(folder / "deep" / "pictures"))
    assert (dict(one.columns), dict(one.tags), one.sample_ratio) == ({"messages": "talk"}, {"role_tag": "who"}, 0.25)
    assert (two.name, two.media_dir, two.sample_ratio) == ("two", str(folder / "deep"), 1.0)


def test_a_meta_file_may_name_a_media_folder_elsewhere(folder):
    (spec,) = find_sources([meta(folder, {"one": {"file_name": "a.jsonl", "media_dir": "s3://bucket/media"}})])
    assert spec.media_dir == "s3://bucket/media"


@pytest.mark.parametrize(
    "text",
    [
        '{"messages": [1]}\n{"messages": [2]}',
        '{"messages": [1]}',
        '{"a": {"b": 1}}',
        "[]",
        "{}",
        "",
        "{broken",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": {"x": 1, "x": 2}}',
    ],
)
def test_a_json_file_that_is_no_meta_file_is_data(text, folder):
    (folder / "d.json").write_text(text)
    assert [spec.path for spec in find_sources([str(folder / "d.json")])] == [str(folder / "d.json")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"one": {"file_name": "a.jsonl"}, "two": {}}, "no file_name in 'two'"),
        ({"one": {"file_name": "a.jsonl"}, "two": {"file_name": 5}}, "no file_name in 'two'"),
        ({"one": {"file_name": "none.jsonl"}}, "does not exist"),
        ({"one": {"file_name": "a.jsonl", "media_dir": 5}}, "media_dir is 5"),
        ({"one": {"file_name": "a.jsonl", "columns": ["messages"]}}, "columns is"),
        ({"one": {"file_name": "a.jsonl", "columns": {"image": "x"}}}, "unknown columns image"),
        ({"one": {"file_name": "a.jsonl", "columns": {"images": None}}}, "columns is"),
        ({"one": {"file_name": "a.jsonl", "tags": {"role": "x"}}}, "unknown tags role"),
        ({"one": {"file_name": "a.jsonl", "tags": {"role_tag": ["x"]}}}, "tags is"),
        ({"one": {"file_name": "a.jsonl", "sample_ratio": -1.5}}, "sample_ratio is -1.5"),
        ({"one": {"file_name": "a.jsonl", "sample_ratio": "half"}}, "sample_ratio is 'half'"),
        ({"one": {"file_name": "a.jsonl", "sample_ratio": True}}, "sample_ratio is True"),
        ({"one": {"file_name": "a.jsonl", "sample_ratio": float("nan")}}, "sample_ratio is nan"),
        ({"one": {"file_name": "a.jsonl", "colums": {"images": "x"}}}, "'colums', which is not read"),
        ({"one": {"file_name": "a.jsonl", "sample_rate": 0.5}}, "'sample_rate', which is not read"),
        ({"": {"file_name": "a.jsonl"}}, "names no folder"),
        ({"..": {"file_name": "a.jsonl"}}, "names no folder"),
        ({"a\nb": {"file_name": "a.jsonl"}}, "names no folder"),
        ('{"\\ud800": {"file_name": "a.jsonl"}}', "names no folder"),
        ('{"one": {"file_name": "a.jsonl"}, "one": {"file_name": "b.json"}}', "'one' twice"),
        ('{"one": {"file_name": "a.jsonl", "file_name": "b.json"}}', "'file_name' twice"),
    ],
)
def test_a_meta_file_that_would_lose_or_guess_something_stops_the_run(content, says, folder):
    assert says in stop(meta(folder, content))


def test_an_entry_may_hold_notes_of_ones_own(folder):
    (spec,) = find_sources([meta(folder, {"one": {"file_name": "a.jsonl", "license": "CC0", "length": 3}})])
    assert spec.name == "one"


def test_two_sources_of_one_name_stop_the_run(folder):
    (folder / "deep" / "a.jsonl").write_text("{}\n")
    assert "two sources are called 'a'" in stop(str(folder / "a.jsonl"), str(folder / "deep" / "a.jsonl"))
    assert "two sources are called 'a'" in stop(str(folder / "a.jsonl"), str(folder / "a.jsonl"))


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("none.jsonl", "does not exist"),
        ("*.parquet", "no file matches"),
        ("empty", "holds no file of rows"),
        ("x.txt", "unknown kind of source"),
    ],
)
def test_an_argument_that_names_no_source_stops_the_run(argument, says, folder):
    (folder / "x.txt").touch()
    (folder / "empty").mkdir()
    assert says in stop(str(folder / argument))


def test_a_source_checks_itself():
    with pytest.raises(StopRun, match="sample_ratio"):
        SourceSpec(name="s", path="/s.jsonl", media_dir="/", sample_ratio=-0.1)


def test_a_web_page_is_no_file_of_rows():
    with serve() as address, pytest.raises(StopRun, match="no file of rows"):
        find_sources([f"{address}/a.png"])
