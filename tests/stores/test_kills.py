from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ProcessorDir
from tests.runs import chat, picture, write_jsonl
from vlmprep.schema.packset import receipt_name

ROOT = Path(__file__).resolve().parents[2]
EVERY = 14
"""A run of this size makes some forty requests; all of them, killed before and behind, take minutes."""


def test_a_run_that_is_killed_at_a_request_is_gone_on_with_and_nothing_half_has_a_name(
    processor_dir: ProcessorDir, bucket: str, tmp_path: Path
) -> None:
    names = [picture(tmp_path / f"{number}.png", 140, 190) for number in range(4)]
    rows = [chat(f"s{n}", "What is it?", "It is this. " * (n + 1), names[n : n + 1]) for n in range(7)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    words = [processor_dir(max_pixels=50_176), source, f"{bucket}/sets", EVERY]
    command = [sys.executable, "-m", "tests.stores.kills", *map(str, words)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    first, *killed = (json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{"))
    whole = first["whole"]
    assert {receipt_name(0), receipt_name(1), "manifest.json"} <= set(whole)
    assert len(killed) >= 3
    assert {each["behind"] for each in killed} == {True, False}
    for each in killed:
        marks = {".lease", ".work"}
        left = {name: digest for name, digest in each["left"].items() if name not in marks}
        assert left.items() <= whole.items(), "whatever has a name is whole"
        assert each["resumed"] == whole
    assert any(receipt_name(0) in each["left"] and "manifest.json" not in each["left"] for each in killed)
