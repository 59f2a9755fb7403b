from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ProcessorDir
from tests.runs import chat, picture, write_jsonl
from vlmprep.schema.packset import receipt_name, shard_name

ROOT = Path(__file__).resolve().parents[2]
EVERY = 14
"""A run of this size makes some forty requests; all of them, killed before and behind, take minutes."""


def killed_runs(processor: Path, source: Path, url: str, which: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """What an undisturbed run writes, and what killed ones leave and write in the end; whatever has a name is whole."""
    command = [sys.executable, "-m", "tests.stores.kills", str(processor), str(source), url, which]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    first, *killed = (json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{"))
    whole: dict[str, str] = first["whole"]["files"]
    assert {receipt_name(0), receipt_name(1), "manifest.json"} <= set(whole)
    for each in killed:
        marks = {".lease", ".work"}
        left = {name: digest for name, digest in each["left"]["files"].items() if name not in marks}
        assert left.items() <= whole.items(), "whatever has a name is whole"
        assert each["resumed"] == {"files": whole, "uploads": 0}
    return whole, killed


def test_a_run_that_is_killed_at_a_request_is_gone_on_with_and_nothing_half_has_a_name(
    processor_dir: ProcessorDir, bucket: str, tmp_path: Path
) -> None:
    names = [picture(tmp_path / f"{number}.png", 140, 190) for number in range(4)]
    rows = [chat(f"s{n}", "What is it?", "It is this. " * (n + 1), names[n : n + 1]) for n in range(7)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    _, killed = killed_runs(processor_dir(max_pixels=50_176), source, f"{bucket}/sets", str(EVERY))
    assert len(killed) >= 3
    assert {each["behind"] for each in killed} == {True, False}
    left = [each["left"]["files"] for each in killed]
    assert any(receipt_name(0) in files and "manifest.json" not in files for files in left)


def test_a_run_that_is_killed_while_parts_of_a_shard_go_up_leaves_no_half_shard_and_no_upload_behind(
    processor_dir: ProcessorDir, bucket: str, tmp_path: Path
) -> None:
    names = [picture(tmp_path / f"{number}.png", 224, 224) for number in range(20)]
    rows = [chat(name, "What is it?", "It is this.", [name]) for name in names]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    _, killed = killed_runs(processor_dir(max_pixels=50_176), source, f"{bucket}/sets", "parts")
    assert [each["what"] for each in killed] == [
        "upload_part",
        "complete_multipart_upload",
        "complete_multipart_upload",
    ]
    for each in killed:
        left = each["left"]
        completed = each["what"] == "complete_multipart_upload" and each["behind"]
        assert receipt_name(0) in left["files"], "what was finished is kept"
        assert (shard_name(1) in left["files"]) == completed
        assert receipt_name(1) not in left["files"]
        assert left["uploads"] == (0 if completed else 1), "the kill came while parts were going up"
