from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.running import run
from tests.packed import PackedDemo
from vlmprep.cli.histograms import bar, bin_labels, histogram_table
from vlmprep.cli.pack_view import document_text, elided
from vlmprep.cli.tables import visible
from vlmprep.pipeline.inspect.histogram import Histogram
from vlmprep.pipeline.inspect.pack import Span


def rendered(*parts: object, width: int = 80, colours: bool = False) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=colours, color_system="standard" if colours else None).print(*parts)
    return file.getvalue()


def span(text: str, *, trained: bool = False, role: str = "text") -> Span:
    return Span(text=text, role=role, trained=trained)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ledger", "plan", "packset"])
def test_every_kind_is_shown_within_80_columns(
    packed_demo: PackedDemo, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("inspect", str(getattr(packed_demo, kind)), capsys=capsys)
    assert (result.code, result.err) == (0, "")
    expected = {
        "ledger": ("Ledger", "Sources", "Tokens per sample", "Refused", "sharegpt", "not-json"),
        "plan": ("Plan", "Visual tokens per pack", "Largest packs", "Emptiest packs", "Refused", "overlong"),
        "packset": ("Pack set", "Tokens per pack", "Samples per pack", "fake images", "undecodable-media", "overlong"),
    }
    for text in expected[kind]:
        assert text in result.out
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize("kind", ["ledger", "plan", "packset"])
def test_json_is_one_document_with_the_same_numbers(
    packed_demo: PackedDemo, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = getattr(packed_demo, kind)
    result = run("inspect", str(path), "--json", capsys=capsys)
    document = json.loads(result.out)
    assert (result.code, document["complete"], document[kind]) == (0, True, str(path))
    if kind == "packset":
        assert sum(document["spread"]["tokens_per_pack"]["counts"]) == document["manifest"]["num_packs"]
        assert sum(entry["rows"] for entry in document["refused"]) == document["manifest"]["rows"]["refused"]


def test_unfinished_output_says_how_to_go_on(
    packed_demo: PackedDemo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packset = Path(shutil.copytree(packed_demo.packset, tmp_path / "packset"))
    (packset / "manifest.json").unlink()
    result = run("inspect", str(packset), capsys=capsys)
    assert result.code == 0
    assert "A pack set that is not complete" in result.out
    assert f"  vlmprep pack SOURCE... --processor {packed_demo.processor} --pack-size 384" in result.out
    document = json.loads(run("inspect", str(packset), "--json", capsys=capsys).out)
    assert document["complete"] is False
    assert document["kind"] == "pack set"


def test_a_folder_of_something_else_stops_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("inspect", str(tmp_path), capsys=capsys)
    assert (result.code, result.out) == (1, "")
    assert "holds no ledger, plan or pack set" in result.err


def test_a_pack_is_shown_with_documents_media_and_marks(
    packed_demo: PackedDemo, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run("inspect", str(packed_demo.packset), "--pack", "0", capsys=capsys)
    assert result.code == 0
    assert result.out.startswith("Pack 0  shards/000000.tar, ")
    assert "<|im_start|>assistant\n⟦" in result.out
    assert "<|im_end|>⟧\n" in result.out
    assert "<|vision_start|><image " in result.out
    assert result.out.count("⟦") == result.out.count("⟧") > 1

    document = json.loads(run("inspect", str(packed_demo.packset), "--pack", "0", "--json", capsys=capsys).out)
    trained = [s["text"] for d in document["documents"] for s in d["spans"] if s["trained"] and s["role"] == "text"]
    assert trained
    assert all(text in result.out for text in trained)


def test_the_fake_image_is_shown(packed_text: PackedDemo, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("inspect", str(packed_text.packset), "--pack", "0", capsys=capsys)
    assert "fake image ──" in result.out
    assert "<fake image 56x56, 4 tokens>" in result.out


def test_marks_say_without_colour_what_colour_says() -> None:
    spans = [span("Q\n"), span("A", trained=True), span("<|im_end|>", trained=True, role="control"), span("\n")]
    assert document_text(spans).plain == "Q\n⟦A<|im_end|>⟧\n"
    coloured = rendered(document_text(spans), colours=True)
    assert "\x1b[32mA\x1b[0m" in coloured
    assert "\x1b[2;32m<|im_end|>\x1b[0m" in coloured
    assert "\x1b" not in rendered(document_text(spans))


def test_text_cannot_steer_the_terminal() -> None:
    assert visible("a\x1b[31mb\r\x07\x9b\u202ec\n\td") == "a\\x1b[31mb\\x0d\\x07\\x9b\\u202ec\n\td"
    assert "\x1b" not in rendered(document_text([span("\x1b[2J\x1b]0;title\x07", trained=True)]))


def test_text_that_looks_like_markup_stays_as_it_is() -> None:
    assert document_text([span("[bold]x[/bold] :smile:")]).plain == "[bold]x[/bold] :smile:"


def test_long_documents_lose_their_middle_and_nothing_else() -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(5_000))
    spans = [
        span("<|im_start|>", role="control"),
        span(text, trained=True),
        span("<image 9x9, 4 tokens>", role="media"),
    ]
    shown = elided(spans)
    left_out = next(part for part in shown if "characters more" in part.text)
    head, _, tail = document_text(shown).plain.partition(left_out.text)
    whole = document_text(spans).plain
    assert whole.startswith(head.removesuffix("⟧"))
    assert whole.endswith(tail.removeprefix("⟦"))
    assert head.startswith("<|im_start|>⟦abc")
    assert head.endswith("⟧")
    assert tail.startswith("⟦")
    assert tail.endswith("⟧<image 9x9, 4 tokens>")
    num_left_out = int(left_out.text.split()[1].replace(",", ""))
    assert num_left_out + sum(len(part.text) for part in shown) - len(left_out.text) == sum(len(s.text) for s in spans)
    assert elided(spans[:1]) == spans[:1]


def test_full_shows_what_is_left_out_otherwise(
    packed_demo: PackedDemo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmprep.cli.pack_view.HEAD_CHARS", 60)
    monkeypatch.setattr("vlmprep.cli.pack_view.TAIL_CHARS", 40)
    short = run("inspect", str(packed_demo.packset), "--pack", "0", capsys=capsys).out
    full = run("inspect", str(packed_demo.packset), "--pack", "0", "--full", capsys=capsys).out
    assert "--full shows them" in short
    assert "--full shows them" not in full
    assert len(full) > len(short)


def test_bars_are_in_proportion_and_never_vanish() -> None:
    assert bar(8, 8, 10) == "█" * 10
    assert bar(4, 8, 10) == "█" * 5
    assert bar(1, 16, 1) == "▏"
    assert bar(1, 10**6, 10) == "▏"
    assert bar(0, 8, 10) == ""
    assert bar(15, 16, 1) == "█"
    assert bar(5, 8, 1) == "▋"


def test_bins_are_labelled_by_their_first_and_last_value() -> None:
    assert bin_labels((0, 1, 2, 10, 1000, 1001)) == ["0", "1", "2 -     9", "10 -   999", "1,000"]


def test_histograms_of_nothing_are_shown() -> None:
    empty = Histogram(num_values=0, least=0, median=0.0, mean=0.0, greatest=0, edges=(), counts=())
    assert "none" in rendered(histogram_table("Tokens", {"": empty}, bar_width=10))


def test_help_explains_the_marks(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("inspect", "--help", capsys=capsys).out
    assert "⟦" in out
    assert "--pack" in out
