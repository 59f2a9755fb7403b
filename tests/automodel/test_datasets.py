from __future__ import annotations

import gzip
import json
import logging
import random
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from tests.automodel.examples import processor
from tests.rank_work import load_shares
from tests.ranks import run_ranks
from tests.runs import chat, picture, write_jsonl
from vlmprep.automodel import datasets as page
from vlmprep.automodel.conversations import sample_of
from vlmprep.automodel.datasets import (
    PreTokenizedDatasetWrapper,
    _collect_sample_stats,
    _convert_sharegpt_to_conversation,
    _ExamplesWithStats,
    _load_json_or_jsonl,
    _load_jsonl_for_rank,
    _log_dataset_loading_summary,
    make_meta_dataset,
)
from vlmprep.automodel.samples import media_of_item
from vlmprep.automodel.sharegpt import row_reader
from vlmprep.schema.errors import RefuseSample, StopRun


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_sharegpt_rows_become_conversations():
    row = {
        "messages": [
            {"role": "user", "content": "<image>What?<video>"},
            {"role": "assistant", "content": "A"},
        ],
        "images": ["a.png"],
        "videos": ["b.mp4"],
        "_text_tokens": 5,
        "mm_inputs_meta": {"images_meta": [[1, 2]]},
    }
    expected = {
        "conversation": [
            {
                "role": "user",
                "content": [{"type": "image", "image": "a.png"}, text("What?"), {"type": "video", "video": "b.mp4"}],
            },
            {"role": "assistant", "content": [text("A")]},
        ],
        "_text_tokens": 5,
        "mm_inputs_meta": {"images_meta": [[1, 2]]},
    }
    assert _convert_sharegpt_to_conversation(row) == expected
    moved = _convert_sharegpt_to_conversation(row, media_dir="/data/media")
    assert [item.get("image") for item in moved["conversation"][0]["content"]] == ["/data/media/a.png", None, None]
    absolute = _convert_sharegpt_to_conversation({**row, "images": ["/else/a.png"]}, media_dir="/data/media")
    assert absolute["conversation"][0]["content"][0]["image"] == "/else/a.png"


def test_rows_have_columns_and_words_of_their_own():
    row = {"talk": [{"who": "human", "what": "<image>Q"}, {"who": "bot", "what": "A"}], "pictures": [{"path": "a.png"}]}
    columns = {"messages": "talk", "images": "pictures"}
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "human", "assistant_tag": "bot"}
    made = _convert_sharegpt_to_conversation(row, columns, tags, "m")
    assert made == {
        "conversation": [
            {"role": "user", "content": [{"type": "image", "image": "m/a.png"}, text("Q")]},
            {"role": "assistant", "content": [text("A")]},
        ]
    }


def test_nothing_of_a_row_is_lost_on_the_way():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    row = {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "<image>\nQ\n"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "R", "name": "f", "tool_call_id": "1"},
            {"role": "assistant", "content": "B", "reasoning_content": "T"},
            {"role": "assistant", "content": "C", "learn": False},
        ],
        "images": ["/a.png"],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    made = _convert_sharegpt_to_conversation(row)
    assert made["tools"] == row["tools"]
    rows = row_reader(None, None, None)
    assert sample_of(made["conversation"], 0, media_of_item).messages == rows.messages(row)
    assert made["conversation"][1]["content"][1] == text("\nQ\n"), "text around a tag stays as it stands"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat("1", "Q", "A", ["a.png"]) | {"images": []}, "more <image> tags"),
        (chat("1", "Q", "A") | {"images": ["a.png"]}, "0 <image> tags, 1 images"),
        ({"messages": [{"role": "narrator", "content": "Q"}]}, "narrator"),
        ({"talk": []}, "no column 'messages'"),
    ],
)
def test_rows_that_would_lose_something_are_refused(row: Any, reason: str):
    with pytest.raises(RefuseSample, match=reason):
        _convert_sharegpt_to_conversation(row)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"n": number} for number in range(count)]


def test_json_and_jsonl_are_loaded(tmp_path: Path):
    rows = numbered(3)
    array, lines = tmp_path / "a.json", tmp_path / "b.jsonl"
    array.write_text(json.dumps(rows))
    lines.write_text('{"n": 0}\n\n{"n": 1}\n  \n{"n": 2}')
    assert _load_json_or_jsonl(str(array)) == _load_json_or_jsonl(str(lines)) == rows
    lines.write_bytes(b'\xef\xbb\xbf{"n": 0}\n{"n": 1}\n{"n": 2}')
    assert _load_json_or_jsonl(str(lines)) == rows
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(array.read_bytes()))
    assert _load_json_or_jsonl(str(packed)) == rows
    lines.write_text('{"n": 0}\nbroken\n')
    with pytest.raises(StopRun, match=r"b\.jsonl: line 2 is not JSON"):
        _load_json_or_jsonl(str(lines))
    with pytest.raises(StopRun, match="cannot be read"):
        _load_json_or_jsonl(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.01, 0.0, 2.0, 2.5])
@pytest.mark.parametrize("world_size", [None, 1, 3])
def test_ranks_take_every_nth_of_the_rows_that_are_drawn(tmp_path: Path, ratio: float, world_size: int | None):
    rows = numbered(23)
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    drawn = rows * int(ratio) + random.Random(42).sample(rows, int(len(rows) * (ratio % 1)) or int(0 < ratio < 1))
    found = []
    for rank in range(world_size or 1):
        own, total = _load_jsonl_for_rank(str(path), ratio, rank, world_size)
        assert total == 23
        assert own == drawn[rank :: world_size or 1]
        found += own
    assert len(found) == len(drawn)


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (None, 2), (0, 0)])
def test_ranks_that_are_not_there_are_told(tmp_path: Path, rank: int | None, world_size: int):
    path = str(write_jsonl(tmp_path / "a.jsonl", numbered(3)))
    with pytest.raises(ValueError, match="rank must be one of"):
        _load_jsonl_for_rank(path, 1.0, rank, world_size)
    assert _load_jsonl_for_rank(path, 1.0, rank, None)[0] == numbered(3)


@pytest.mark.parametrize("ratio", [-0.5, float("nan"), float("inf")])
def test_ratios_that_say_nothing_are_told(tmp_path: Path, ratio: float):
    with pytest.raises(ValueError, match="sample_ratio must be a number of at least 0"):
        _load_jsonl_for_rank(str(write_jsonl(tmp_path / "a.jsonl", numbered(3))), ratio, 0, 1)


def test_arrays_are_shared_like_lines(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(numbered(7), indent=1))
    assert _load_jsonl_for_rank(str(path), 1.0, 1, 3) == ([{"n": 1}, {"n": 4}], 7)
    drawn = random.Random(42).sample(numbered(7), 3)
    assert _load_jsonl_for_rank(str(path), 0.5, 1, 2) == (drawn[1::2], 7)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_lines_of_other_ranks_are_not_parsed(tmp_path: Path, ratio: float):
    rows: list[Any] = numbered(20)
    mine = range(20)[0::2] if ratio == 1 else random.Random(42).sample(range(20), 10)[0::2]
    lines = [row if number in mine else b"{broken" for number, row in enumerate(rows)]
    path = write_jsonl(tmp_path / "a.jsonl", lines)
    own, total = _load_jsonl_for_rank(str(path), ratio, 0, 2)
    assert own == [rows[number] for number in mine]
    assert total == 20
    with pytest.raises(StopRun, match="is not JSON"):
        _load_jsonl_for_rank(str(path), ratio, 1, 2)


STATS_ROWS: list[dict[str, Any]] = [
    {"conversation": [{"role": "user", "content": [{"type": "image", "image": "a"}, text("x" * 10)]}]},
    {"conversation": [{"role": "user", "content": "x" * 9}]},
    {"conversation": [{"role": "user", "content": [{"type": "video", "video": "a"}, {"type": "image", "image": "a"}]}]},
]


def test_statistics_count_media_and_tokens():
    assert _collect_sample_stats(STATS_ROWS) == {
        "n_images": 2,
        "n_videos": 1,
        "n_text_only": 1,
        "n_text_tokens": 3 + 3,
        "n_media_tokens": 3 * 500,
        "n_missing_text_tokens": 3,
        "n_missing_mm_inputs_meta": 2,
    }
    sizes = {"images_meta": [[56, 84], None], "videos_meta": None}
    exact = {"images_meta": [[56, 84]], "images_tokens": [7]}
    of_dicts = {"images_meta": [{"n_tokens": 9}], "videos_meta": [{"n_tokens": 11}]}
    recorded = [
        {**row, "_text_tokens": 4, "mm_inputs_meta": meta}
        for row, meta in zip(STATS_ROWS, (sizes, exact, of_dicts), strict=True)
    ]
    stats = _collect_sample_stats(recorded)
    assert stats["n_text_tokens"] == 12
    assert stats["n_media_tokens"] == 2 * 3 + 7 + 20
    assert stats["n_missing_text_tokens"] == stats["n_missing_mm_inputs_meta"] == 0
    assert set(_collect_sample_stats([]).values()) == {0}


@pytest.mark.parametrize(
    "meta", [3, [], {"images_meta": [["a"]]}, {"images_meta": [[1]]}, {"images_meta": [[0, 0]]}, {"images_meta": 3}]
)
def test_what_was_recorded_and_is_no_count_is_missing(meta: Any):
    stats = _collect_sample_stats([{**STATS_ROWS[0], "_text_tokens": "many", "mm_inputs_meta": meta}])
    assert stats == _collect_sample_stats(STATS_ROWS[:1])
    assert stats["n_missing_text_tokens"] == stats["n_missing_mm_inputs_meta"] == 1


def test_the_summary_is_a_table_slowest_first(caplog):
    timing = {
        "io": 1.0,
        "convert": 0.5,
        "total": 1.5,
        "n_samples": 1234,
        "n_images": 5,
        "n_videos": 6,
        "n_text_only": 7,
    }
    with caplog.at_level(logging.INFO):
        _log_dataset_loading_summary({"fast": {**timing, "total": 0.1}, "slow": timing}, 1.6, 2468, rank=3)
    table = caplog.text
    for words in ("(rank 3)", "slow", "1,234", "1.5 s", "2,468", "wall clock 1.6 s", "Images", "Text only", "10", "━"):
        assert words in table
    assert table.index("slow") < table.index("fast")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        _log_dataset_loading_summary({}, 0.0, 0)
        assert not caplog.records
        _log_dataset_loading_summary({"bare": {"io": 0, "convert": 0, "total": 0, "n_samples": 0}}, 0.0, 0)
    assert "Images" not in caplog.text


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    name = picture(tmp_path / "a.png")
    (tmp_path / "deep").mkdir()
    write_jsonl(tmp_path / "deep" / "first.jsonl", [chat(str(n), f"Q{n}", "A", [name]) for n in range(5)])
    (tmp_path / "second.json").write_text(json.dumps([chat(str(n), f"R{n}", "A") for n in range(4)]))
    meta = tmp_path / "meta.json"
    entries = {
        "one": {"file_name": "deep/first.jsonl", "media_dir": str(tmp_path)},
        "an_array": {"file_name": str(tmp_path / "second.json"), "sample_ratio": 0.5},
    }
    meta.write_text(json.dumps(entries))
    return meta


def asked(examples: Any) -> list[str]:
    return [example["conversation"][0]["content"][-1]["text"] for example in examples]


def test_meta_files_become_one_list_with_statistics(meta: Path, caplog):
    with caplog.at_level(logging.INFO):
        examples = make_meta_dataset(str(meta))
    drawn = [f"R{n}" for n in random.Random(42).sample(range(4), 2)]
    assert asked(examples) == ["Q0", "Q1", "Q2", "Q3", "Q4", *drawn]
    assert isinstance(examples, _ExamplesWithStats)
    assert isinstance(examples, list)
    assert examples.stats["n_images"] == 5
    assert examples.stats["n_text_only"] == 2
    assert set(examples.stats) == {"n_images", "n_videos", "n_text_only", "n_text_tokens", "n_media_tokens"}
    assert examples[0]["conversation"][0]["content"][0]["image"] == str(meta.parent / "a.png")
    assert "Dataset loading summary" in caplog.text
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [("_text_tokens" in message, "mm_inputs_meta" in message) for message in warned] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert "'one': 5 of 5 examples have no mm_inputs_meta" in warned[1]


def test_data_sets_are_chosen_by_name(meta: Path):
    assert asked(make_meta_dataset(str(meta), ["an_array"])) == asked(make_meta_dataset(str(meta)))[5:]
    assert asked(make_meta_dataset(meta, ["an_array", "one"]))[2:] == ["Q0", "Q1", "Q2", "Q3", "Q4"]
    assert make_meta_dataset(str(meta), [], split="test", anything=1) == []
    with pytest.raises(ValueError, match="nobody; it has one, an_array"):
        make_meta_dataset(str(meta), ["one", "nobody"])
    for names in ("one", ["one", "one"]):
        with pytest.raises(ValueError, match="expected a list of names, each once"):
            make_meta_dataset(str(meta), names)


def test_a_meta_file_at_a_url_is_read_like_one_at_hand(meta: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLMPREP_CACHE", str(meta.parent / "cache"))
    store = fsspec.filesystem("memory")
    for name in ("a.png", "deep/first.jsonl", "second.json"):
        store.pipe(f"/from_here/{name}", (meta.parent / name).read_bytes())
    entries = json.loads(meta.read_text())
    entries["one"]["media_dir"], entries["an_array"]["file_name"] = ".", "second.json"
    store.pipe("/from_here/meta.json", json.dumps(entries).encode())
    there, here = make_meta_dataset("memory://from_here/meta.json"), make_meta_dataset(str(meta))
    assert asked(there) == asked(here)
    assert there[0]["conversation"][0]["content"][0]["image"] == "memory://from_here/a.png"
    of_rank = make_meta_dataset("memory://from_here/meta.json", ["one"], shard_data=True, rank=1, world_size=2)
    assert asked(of_rank) == ["Q1", "Q3"]
    tokenized = [PreTokenizedDatasetWrapper(rows, processor("qwen2_5_vl"))[0] for rows in (there, here)]
    assert torch.equal(tokenized[0]["pixel_values"], tokenized[1]["pixel_values"])
    with pytest.raises(StopRun, match="from_here"):
        make_meta_dataset("memory://from_here/none.json")


def test_ranks_share_the_rows_of_every_data_set(meta: Path, caplog):
    whole = asked(make_meta_dataset(str(meta)))
    with caplog.at_level(logging.WARNING):
        shares = [asked(make_meta_dataset(str(meta), shard_data=True, rank=rank, world_size=2)) for rank in range(2)]
    assert shares[0] == [*whole[:5][0::2], whole[5]]
    assert shares[1] == [*whole[:5][1::2], whole[6]]
    few = [make_meta_dataset(str(meta), ["an_array"], shard_data=True, rank=rank, world_size=3) for rank in range(3)]
    assert [len(share) for share in few] == [1, 1, 0]
    assert "'an_array' gives rank 2 nothing" in caplog.text


def test_ranks_are_asked_of_torch_distributed(meta: Path, tmp_path: Path):
    whole = asked(make_meta_dataset(str(meta)))
    first, drawn = whole[:5], whole[5:]
    ways: list[dict[str, Any]] = [
        {"shard_data": True},
        {},
        {"shard_data": True, "world_size": 3},
        {"shard_data": True, "rank": 0},
        {"shard_data": True, "dataset_names": ["an_array"]},
    ]
    outcomes = run_ranks(load_shares, 2, tmp_path / "ranks", meta, ways)
    assert [outcome.kind for outcome in outcomes] == ["done"] * 2, outcomes
    assert outcomes[0].value == outcomes[1].value
    shared, unshared, of_three, all_first, one_set = outcomes[0].value
    assert shared == [[*first[0::2], drawn[0]], [*first[1::2], drawn[1]]]
    assert unshared == [whole, whole], "nobody asked for shards"
    assert of_three == [[*first[0::3], drawn[0]], [*first[1::3], drawn[1]]]
    assert all_first == [shared[0]] * 2
    assert one_set == [drawn[:1], drawn[1:]]


def test_without_ranks_all_rows_are_loaded_and_told(meta: Path, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(make_meta_dataset(str(meta), shard_data=True)) == 7
    assert "torch.distributed is not initialized" in caplog.text
    with pytest.raises(ValueError, match="rank must be one of"):
        make_meta_dataset(str(meta), shard_data=True, rank=2, world_size=2)


def test_rows_that_make_no_example_stop_the_load_or_are_left_out_and_told(meta: Path, caplog):
    path = meta.parent / "deep" / "first.jsonl"
    path.write_bytes(path.read_bytes() + b'{"messages": 3}\n')
    with pytest.raises(StopRun, match=r"first\.jsonl, row 5: "):
        make_meta_dataset(str(meta))
    with caplog.at_level(logging.WARNING):
        assert len(make_meta_dataset(str(meta), failures="refuse")) == 7
    assert "'one': 1 of 6 rows are left out; the first is row 5" in caplog.text
    with pytest.raises(ValueError, match="failures must be one of raise, refuse"):
        make_meta_dataset(str(meta), failures="substitute")
    (meta.parent / "none.json").write_text("[]")
    with pytest.raises(ValueError, match="is no meta JSON"):
        make_meta_dataset(str(meta.parent / "none.json"))


def test_constants_are_the_references():
    assert _ExamplesWithStats.__slots__ == ("stats",)
    for wrapper in (page.PreTokenizedDatasetWrapper, page.RobustDatasetWrapper):
        assert issubclass(wrapper, torch.utils.data.Dataset)
