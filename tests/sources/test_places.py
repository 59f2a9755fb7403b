"""SOURCE arguments that name more than a file: folders, patterns, saved data sets, dataset_info.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vlmprep.schema.conversation import Sample
from vlmprep.schema.errors import RefuseSample, StopRun
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.folders import expanded
from vlmprep.sources.row_files import open_rows
from vlmprep.sources.spec import SourceSpec, find_sources

ROW = {
    "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
}


def line(path: Path, row: dict[str, Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row or ROW) + "\n")
    return path


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def stop(argument: str) -> str:
    with pytest.raises(StopRun) as caught:
        find_sources([argument])
    return str(caught.value)


def samples(spec: SourceSpec) -> list[Sample]:
    file = open_rows(spec.path)
    return [RowReader(spec=spec).sample(row.row, row.data) for chunk in file.chunks() for row in file.rows(chunk)]


def talk(sample: Sample) -> list[tuple[str, str]]:
    return [
        (message.role, "".join(part.text for part in message.parts if hasattr(part, "text")))
        for message in sample.messages
    ]


def test_a_folder_is_all_files_of_rows_in_it(tmp_path):
    for name in ("d/b.jsonl", "d/a/x.jsonl", "d/a/y.json", "d/.hidden.jsonl", "d/notes.txt", "d/meta.json"):
        line(tmp_path / name)
    found = find_sources([str(tmp_path / "d")])
    assert [spec.name for spec in found] == ["d/b", "d/a/x", "d/a/y"]
    assert {spec.media_dir for spec in found} == {str(tmp_path / "d")}
    assert talk(samples(found[1])[0]) == [("user", "Q"), ("assistant", "A")]


def test_links_make_no_loops_and_no_second_rows(tmp_path):
    line(tmp_path / "d/a.jsonl")
    os.symlink(tmp_path / "d", tmp_path / "d/again")
    os.symlink(tmp_path / "d/a.jsonl", tmp_path / "d/b.jsonl")
    os.symlink("loop.jsonl", tmp_path / "d/loop.jsonl")
    assert "loop.jsonl does not exist" in stop(str(tmp_path / "d"))
    (tmp_path / "d/loop.jsonl").unlink()
    assert [spec.name for spec in find_sources([str(tmp_path / "d")])] == ["d/a"]
    assert [spec.name for spec in find_sources([str(tmp_path / "d/**/*.jsonl")])] == ["a"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("s-{00..03}.tar", ["s-00.tar", "s-01.tar", "s-02.tar", "s-03.tar"]),
        ("s-{9..11}.tar", ["s-9.tar", "s-10.tar", "s-11.tar"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_name_every_file(pattern, names):
    assert expanded(pattern) == names


def test_a_shard_that_braces_name_and_that_is_not_there_stops_the_run(tmp_path):
    line(tmp_path / "s-0.jsonl")
    assert "s-1.jsonl does not exist" in stop(str(tmp_path / "s-{0..1}.jsonl"))
    with pytest.raises(StopRun, match="more than"):
        expanded("{0..999}{0..999}")


def test_an_entry_of_a_meta_file_may_name_a_pattern_or_a_folder(tmp_path):
    line(tmp_path / "d/a.jsonl")
    line(tmp_path / "d/b.jsonl")
    entry = {"columns": {"messages": "talk"}, "media_dir": "media", "sample_ratio": 0.5}
    for file_name in ("d", "d/*.jsonl", "d/{a,b}.jsonl"):
        found = find_sources([write(tmp_path / "m.json", {"birds": {"file_name": file_name, **entry}})])
        assert [spec.name for spec in found] == ["birds/a", "birds/b"]
        assert {(spec.media_dir, spec.sample_ratio) for spec in found} == {(str(tmp_path / "media"), 0.5)}


def info(tmp_path: Path, **entries: Any) -> str:
    return write(tmp_path / "dataset_info.json", entries)


def test_alpaca_is_what_an_entry_of_dataset_info_is_unless_it_says_otherwise(tmp_path):
    row = {"instruction": "I", "input": "X", "output": "O", "history": [["a", "b"]], "rules": "R", "images": []}
    line(tmp_path / "a.jsonl", row)
    line(tmp_path / "b.jsonl")
    path = info(
        tmp_path,
        one={"file_name": "a.jsonl", "columns": {"history": "history", "system": "rules"}},
        two={"file_name": "b.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}},
        far={"hf_hub_url": "x/y"},
    )
    one, two = find_sources([f"{path}#one,two"])
    assert talk(samples(one)[0]) == [
        ("system", "R"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "I\nX"),
        ("assistant", "O"),
    ]
    assert talk(samples(two)[0]) == [("user", "Q"), ("assistant", "A")]
    assert "'far' has no file_name" in stop(path)
    assert "has no 'none'" in stop(f"{path}#none")
    assert "which names 'one', 'two', 'far'" in stop(str(tmp_path))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"ranking": True}, "'ranking', which is not read"),
        ({"num_samples": 5}, "'num_samples', which is not read"),
        ({"formatting": "other"}, "formatting 'other'"),
        ({"columns": {"chosen": "a"}}, "unknown columns chosen"),
    ],
)
def test_what_an_entry_says_and_would_be_lost_stops_the_run(entry, says, tmp_path):
    line(tmp_path / "a.jsonl")
    assert says in stop(info(tmp_path, one={"file_name": "a.jsonl", **entry}))


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"instruction": "I", "output": "O"}, "missing-column"),
        ({"instruction": 5, "input": "", "output": "O"}, "bad-message"),
    ],
)
def test_an_alpaca_row_that_lacks_something_is_refused(row, code, tmp_path):
    line(tmp_path / "a.jsonl", row)
    (spec,) = find_sources([info(tmp_path, one={"file_name": "a.jsonl"})])
    with pytest.raises(RefuseSample) as caught:
        samples(spec)
    assert caught.value.code == code


def saved(folder: Path, numbers: list[int]) -> None:
    """As `Dataset.save_to_disk` leaves it: Arrow streams and a list of them."""
    folder.mkdir(parents=True)
    names = [f"data-{at:05d}-of-{len(numbers):05d}.arrow" for at in range(len(numbers))]
    for name, number in zip(names, numbers, strict=True):
        table = pa.Table.from_pylist([{"id": f"{number}", **ROW}])
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    write(folder / "state.json", {"_data_files": [{"filename": name} for name in names], "_split": "train"})
    write(folder / "dataset_info.json", {"features": {"id": {"dtype": "string"}}, "splits": None})


def test_a_saved_data_set_is_its_files_in_order(tmp_path):
    saved(tmp_path / "one", [2, 1])
    line(tmp_path / "one/other.jsonl")
    found = find_sources([str(tmp_path / "one")])
    assert [samples(spec)[0].sample_id for spec in found] == ["2", "1"]
    saved(tmp_path / "both/test", [3])
    saved(tmp_path / "both/train", [4])
    write(tmp_path / "both/dataset_dict.json", {"splits": ["train", "test"]})
    found = find_sources([str(tmp_path / "both")])
    assert [spec.name.split("/")[1] for spec in found] == ["train", "test"]
    assert [samples(spec)[0].sample_id for spec in found] == ["4", "3"]


def test_a_saved_data_set_that_lost_a_file_stops_the_run(tmp_path):
    saved(tmp_path / "one", [1, 2])
    (tmp_path / "one/data-00001-of-00002.arrow").unlink()
    assert "data-00001-of-00002.arrow does not exist" in stop(str(tmp_path / "one"))


def test_what_datasets_saves_and_loads_is_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    from PIL import Image

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    talk_ = [{"role": "user", "content": "<image>Q"}, {"role": "assistant", "content": "A"}]
    rows = [{"id": f"{at}", "messages": talk_, "image": Image.new("RGB", (20 + at, 10), "navy")} for at in range(3)]
    data = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": data, "test": data.select([2, 0])}).save_to_disk(str(tmp_path / "saved"))
    train, test = find_sources([str(tmp_path / "saved")])
    assert [sample.sample_id for sample in samples(test)] == ["2", "0"]
    assert all(sample.media()[0].content[1:4] == b"PNG" for sample in samples(train))  # type: ignore[index]
    data.to_parquet(str(tmp_path / "hub/train.parquet"))
    (spec,) = find_sources([f"hf:{tmp_path / 'hub'}:train"])
    assert [sample.messages for sample in samples(spec)] == [sample.messages for sample in samples(train)]
    assert "cannot be loaded" in stop(f"hf:{tmp_path / 'hub'}:none")
