"""Every bad source, the whole way: a refusal in the ledger with source and row, or one error with file and row."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ProcessorDir
from tests.runs import chat, count, picture, run, write_jsonl
from vlmprep.schema.errors import StopRun
from vlmprep.sources import rows as rows_module

GOOD = chat("good", "Question?", "Answer.")
LINE = json.dumps(GOOD).encode()


def but(**changes: Any) -> bytes:
    """A good row with other columns."""
    return json.dumps({**GOOD, **changes}).encode()


def said(**changes: Any) -> bytes:
    """A good row with another first message."""
    user, assistant = GOOD["messages"]
    return but(messages=[{name: value for name, value in {**user, **changes}.items() if value is not ...}, assistant])


BAD_ROWS: dict[str, tuple[bytes, str, str]] = {
    "latin-1": ('{"messages": "\xe9t\xe9"}'.encode("latin-1"), "not-utf8", "line 3"),
    "a lone half of a character": (LINE[:-20] + b"\xed\xa0\x80" + LINE[-20:], "not-utf8", "line 3"),
    "half a row": (LINE[: len(LINE) // 2], "not-json", "line 3"),
    "two rows": (LINE + LINE, "not-json", "line 3"),
    "comma behind": (LINE + b",", "not-json", "line 3"),
    "NUL bytes": (bytes(30), "not-json", "line 3"),
    "a list": (b"[1, 2]", "not-an-object", "line 3"),
    "a number": (b"7", "not-an-object", "line 3"),
    "a name twice": (LINE[:-1] + b', "id": "other"}', "duplicate-name", "'id' twice"),
    "no messages": (but(messages=[]), "no-messages", "an empty list"),
    "messages of another type": (but(messages={"a": 1}), "no-messages", "an object"),
    "messages that are null": (but(messages=None), "no-messages", "null"),
    "no column of messages": (b'{"id": "x", "talk": []}', "missing-column", "the row has 'id', 'talk'"),
    "a message that is text": (but(messages=["hello"]), "bad-message", "message 0 is text"),
    "no role": (said(role=...), "missing-role", "message 0 has no 'from'; it has 'content'"),
    "a role of another type": (said(role=5), "unknown-role", "the role 5"),
    "a role that nobody has": (said(role="wizard"), "unknown-role", "'wizard'"),
    "no content": (said(content=...), "bad-message", "message 0 has no 'value'; it has 'role'"),
    "content of another type": (said(content=5), "bad-message", "a number"),
    "images of another type": (but(images=5), "tag-mismatch", "column 'images'"),
    "an image that is a number": (
        json.dumps({**chat("x", "Q", "A", [""]), "images": [5]}).encode(),
        "bad-media-path",
        "a number",
    ),
    "an image that links to itself": (
        json.dumps(chat("x", "Q", "A", ["loop.png"])).encode(),
        "unreadable-media",
        "loop",
    ),
    "an image behind a loop": (
        json.dumps(chat("x", "Q", "A", ["loop.png/a.png"])).encode(),
        "unreadable-media",
        "loop",
    ),
    "an empty image": (json.dumps(chat("x", "Q", "A", ["empty.png"])).encode(), "empty-media", "0 bytes"),
}


def test_every_bad_row_is_refused_alone_with_its_source_row_and_reason(tmp_path, processor_dir: ProcessorDir):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "empty.png").touch()
    for number, (row, _, _) in enumerate(BAD_ROWS.values()):
        write_jsonl(tmp_path / f"{number:02d}.jsonl", [LINE, LINE, row, LINE])
    table = count(tmp_path / "*.jsonl", processor_dir(), tmp_path / "ledger").read(
        ["source", "row", "status", "reason_code", "reason"]
    )
    found = table.to_pylist()
    assert len(found) == 4 * len(BAD_ROWS) > 80
    assert [row["row"] for row in found if row["status"] == "refused"] == [2] * len(BAD_ROWS)
    refused = {row["source"]: (row["reason_code"], row["reason"]) for row in found if row["status"] == "refused"}
    for number, (name, (_, code, says)) in enumerate(BAD_ROWS.items()):
        assert refused[f"{number:02d}"][0] == code, (name, refused[f"{number:02d}"])
        assert says in refused[f"{number:02d}"][1], name


def test_the_same_rows_in_an_array_are_refused_alone_too(tmp_path, processor_dir: ProcessorDir):
    rows = [row for row, code, _ in BAD_ROWS.values() if code not in ("not-json", "unreadable-media", "empty-media")]
    (tmp_path / "a.json").write_bytes(b"[" + b",\n".join([LINE, *rows, LINE]) + b"]")
    table = count(tmp_path / "a.json", processor_dir(), tmp_path / "ledger").read(["row", "status"])
    assert table["row"].to_pylist() == [*range(len(rows) + 2)]
    assert table["status"].to_pylist() == ["ok", *["refused"] * len(rows), "ok"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_file_of_another_encoding_has_no_row_that_is_taken_for_one(encoding, tmp_path, processor_dir: ProcessorDir):
    (tmp_path / "a.jsonl").write_bytes("".join(f"{LINE.decode()}\n" for _ in range(5)).encode(encoding))
    table = count(tmp_path / "a.jsonl", processor_dir(), tmp_path / "ledger").read(["status", "reason_code"])
    assert table.num_rows >= 5
    assert set(table["status"].to_pylist()) == {"refused"}
    assert set(table["reason_code"].to_pylist()) <= {"not-utf8", "not-json"}


def test_rows_of_the_same_id_are_rows_of_their_own(tmp_path, processor_dir: ProcessorDir):
    images = [picture(tmp_path / f"{at}.png", 60 + 60 * at) for at in range(3)]
    write_jsonl(tmp_path / "a.jsonl", [chat("same", f"Q{at}", "A", [image]) for at, image in enumerate(images)])
    run(tmp_path / "a.jsonl", processor_dir(), tmp_path / "out")
    rows = pq.read_table(tmp_path / "out/samples.parquet").to_pylist()
    assert [(row["row"], row["sample_id"], row["status"]) for row in rows] == [
        (at, "same", "packed") for at in range(3)
    ]
    assert len({(row["pack_id"], row["document"]) for row in rows}) == 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (LINE + b"\n" + b'{"a": "' + b"x" * 3_000, "row 1, from byte {at} on, is longer than"),
        (b"[" + LINE + b', {"a": "' + b"x" * 3_000, "row 1, from byte {at} on, is longer than"),
    ],
    ids=["line", "element"],
)
def test_a_huge_row_stops_the_run_with_file_and_row(data, says, tmp_path, monkeypatch, processor_dir: ProcessorDir):
    monkeypatch.setattr(rows_module, "MAX_ROW_BYTES", 1_000)
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 100)
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(StopRun) as caught:
        count(tmp_path / "a.json", processor_dir(), tmp_path / "ledger")
    assert str(tmp_path / "a.json") in str(caught.value)
    assert says.format(at=data.index(LINE) + len(LINE) + 1) in str(caught.value)


def empty(path: Path) -> Path:
    """A file of its kind without rows."""
    if path.name.endswith(".parquet"):
        pq.write_table(pa.table({"messages": pa.array([], pa.string())}), path)
    elif path.suffix == ".tar":
        with tarfile.open(path, "w"):
            pass
    else:
        content = {"blank.jsonl": b"\n \n\n", "array.json": b"[ ]", "bom.jsonl": b"\xef\xbb\xbf"}.get(path.name, b"")
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


EMPTY = (
    "none.jsonl",
    "none.json",
    "blank.jsonl",
    "array.json",
    "bom.jsonl",
    "none.jsonl.gz",
    "none.parquet",
    "none.tar",
)


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_file_stops_the_run_with_its_name(name, tmp_path, monkeypatch, processor_dir: ProcessorDir):
    monkeypatch.setenv("VLMPREP_CACHE", str(tmp_path / "cache"))
    path = empty(tmp_path / name)
    with pytest.raises(StopRun, match="holds no rows") as caught:
        count(path, processor_dir(), tmp_path / "ledger")
    assert str(path) in str(caught.value)


def test_a_source_that_links_to_itself_stops_the_run_with_its_name(tmp_path, processor_dir: ProcessorDir):
    os.symlink("loop.jsonl", tmp_path / "loop.jsonl")
    with pytest.raises(StopRun, match=r"loop\.jsonl does not exist"):
        count(tmp_path / "loop.jsonl", processor_dir(), tmp_path / "ledger")
