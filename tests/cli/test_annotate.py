from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import ProcessorDir
from tests.runs import chat, write_jsonl


def test_estimate_writes_annotated_copies_when_asked(
    tmp_path: Path, processor_dir: ProcessorDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlmprep.cli.main import main

    rows = write_jsonl(tmp_path / "rows.jsonl", [chat("1", "Q", "A"), chat("2", "Q", "B")])
    arguments = [
        "estimate",
        rows,
        "--processor",
        processor_dir(),
        "-o",
        tmp_path / "ledger",
        "--annotate",
        tmp_path / "out",
    ]
    monkeypatch.setattr(sys, "argv", ["vlmprep", *map(str, arguments), "-j", "0"])
    with pytest.raises(SystemExit) as left:
        main()
    assert (left.value.code or 0) == 0, capsys.readouterr().err
    copies = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in copies] == ["1", "2"]
    assert all(row["_text_tokens"] > 0 for row in copies)
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["rows"]["file_name"] == "rows.jsonl"
