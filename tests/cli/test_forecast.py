"""The forecast as people and machines get it: one page for `plan` and `inspect`, within the terminal, every number explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.running import run
from tests.ledgers import made_up_ledger, made_up_rows
from vlmprep.cli.forecast import advice_part, waiting

HEADINGS = (
    "Plan",
    "What the places of the packs hold",
    "Sources",
    "Waiting for the slowest rank",
    "Fill against balance",
    "Visual tokens per pack",
    "Tokens per pack",
    "Largest packs",
    "Refused",
    "What would improve it",
)
ODD = ("--pack-size", "512", "--document-alignment", "16", "--packing-ratio", "0.9", "--max-packs", "150")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    visual = random.integers(20, 300, 800) * (random.random(800) < 0.4)
    lengths = visual + random.integers(5, 100, 800)
    lengths[3], lengths[4:9] = 2000, 450
    root = tmp_path_factory.mktemp("forecast") / "ledger"
    made_up_ledger(root, {"a source with a long name, and\x1b[31m more": made_up_rows(lengths, visual)})
    return root


@pytest.mark.parametrize("width", [80, 120, 200])
def test_plan_and_inspect_show_one_page_within_the_terminal(
    ledger: Path, tmp_path: Path, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmprep.cli.console.results._width", width)
    planned = run("plan", str(ledger), "-o", str(tmp_path / "plan"), *ODD, capsys=capsys)
    assert (planned.code, planned.err) == (0, "")
    assert planned.out == run("inspect", str(tmp_path / "plan"), capsys=capsys).out
    lines = planned.out.splitlines()
    assert 60 < max(map(len, lines)) <= width
    for heading in HEADINGS:
        assert heading in planned.out
    assert "…" not in planned.out
    for text in ("--document-alignment", "--packing-ratio", "fake images", "for --max-packs", "(0.12%) of the rows"):
        assert text in planned.out
    for text in ("best fit,", "mean of its ranks:", "  similar packs", "nobody waits", "← this plan", "--pack-size 2"):
        assert text in planned.out
    assert width == 80 or "a source with a long name" in planned.out
    assert "\x1b" not in planned.out


def test_plan_and_inspect_give_one_json_document(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = run("plan", str(ledger), "-o", str(tmp_path / "plan"), *ODD, "--json", capsys=capsys)
    document = json.loads(planned.out)
    assert document == json.loads(run("inspect", str(tmp_path / "plan"), "--json", capsys=capsys).out)
    numbers = document["statistics"]
    assert (document["complete"], numbers["num_packs"]) == (True, 150)
    assert sum(document["spread"]["tokens_per_pack"]["counts"]) == 150
    assert numbers == json.loads((tmp_path / "plan" / "plan.json").read_text())["statistics"]
    assert {"straggler_ratio", "trials", "advice", "sources", "places", "lower_bound"} <= set(numbers)


def test_without_work_to_balance_tokens_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = np.random.default_rng(0).integers(5, 300, 300)
    made_up_ledger(tmp_path / "ledger", {"text": made_up_rows(lengths, np.zeros(300, int))})
    out = run("plan", str(tmp_path / "ledger"), "-o", str(tmp_path / "plan"), "--pack-size", "8192", capsys=capsys).out
    assert "tokens of a step's heaviest rank" in out
    assert "Fill against balance" not in out
    assert "no sample has pictures" in out
    assert "Nothing that was measured" in out


def test_ratios_are_coloured_by_what_they_cost() -> None:
    styles = {ratio: str(waiting(ratio, 0.5).spans[0].style) for ratio in (1.0, 1.02, 1.05, 1.2)}
    assert styles == {1.0: "green", 1.02: "green", 1.05: "yellow", 1.2: "red"}
    assert waiting(1.0, 0.0).plain == "1.000 "
    assert waiting(1.5, 0.5).plain == "1.500 " + "█" * 12


def test_no_advice_is_said_in_a_line() -> None:
    nothing: Any = advice_part({"advice": []})
    assert nothing.count("\n") == 1
