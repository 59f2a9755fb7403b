"""What stops a run says which file it is about, ends with 1, and keeps what was finished."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.cli.running import run, run_alone
from tests.conftest import ProcessorDir
from tests.kills.server import kept_shards, tree
from tests.runs import chat, picture, write_jsonl
from tests.schema.test_files import no_file_above


@pytest.fixture(scope="module")
def words(processor_dir: ProcessorDir, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command, less its output: a shard for every two rows or so."""
    folder = tmp_path_factory.mktemp("rows")
    names = [picture(folder / f"{number}.png", 60, 90 + 20 * number) for number in range(8)]
    source = write_jsonl(folder / "rows.jsonl", [chat(name, "What is it?", f"It is {name}.", [name]) for name in names])
    options = ["--pack-size", "96", "--shard-bytes", "32768", "--compression", "none", "--quiet", "--workers", "0"]
    return ["pack", str(source), "--processor", str(processor_dir(max_pixels=50_176)), *options]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    assert run_alone(*words, "--out", str(out)) == 0
    return out


def test_a_full_disk_names_the_shard_and_the_rest_is_kept(
    words: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted((whole / "shards").glob("*.tar"))}
    largest = max(list(sizes)[1:], key=lambda name: sizes[name])
    out = tmp_path / "set"
    with no_file_above(sizes[largest] - 1):
        stopped = run(*words, "--out", str(out), capsys=capsys)
    assert stopped.code == 1
    assert "cannot be written: File too large" in stopped.err
    assert f"{out}/shards/0" in stopped.err
    assert "What was finished is kept" in stopped.err
    before = kept_shards(out)
    assert not list(out.rglob(".*.tmp"))
    assert run(*words, "--out", str(out), capsys=capsys).code == 0
    assert tree(out) == tree(whole)
    assert {name: shard for name, shard in kept_shards(out).items() if name in before} == before


@pytest.mark.parametrize("name", [".lock", "ledger", "shards", "packs.arrow", "samples.parquet", "manifest.json"])
def test_an_output_that_cannot_be_written_names_the_file(
    name: str,
    words: list[str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, opened, replaced = tmp_path / "set", Path.open, os.replace

    def refuse(path: Path) -> None:
        if path.relative_to(out).parts[0] == name:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def open_path(path: Path, mode: str = "r", *arguments: object, **named: object) -> object:
        if mode != "r" and path.is_relative_to(out):
            refuse(path)
        return opened(path, mode, *arguments, **named)  # type: ignore[call-overload]

    def replace(old: Path, new: Path) -> None:
        refuse(Path(new))
        replaced(old, new)

    monkeypatch.setattr(Path, "open", open_path)
    monkeypatch.setattr(os, "replace", replace)
    stopped = run(*words, "--out", str(out), capsys=capsys)
    monkeypatch.undo()
    assert stopped.code == 1
    assert f"{out}/{name}" in stopped.err or name == ".lock"
    assert str(out) in stopped.err
    assert "cannot be written: Read-only file system" in stopped.err
    assert run(*words, "--out", str(out), capsys=capsys).code == 0
    assert tree(out) == tree(whole)


def test_a_source_that_vanished_is_named_and_packed_when_it_is_back(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, rows, *options = words
    source = Path(rows).with_name("moving.jsonl")
    source.write_bytes(Path(rows).read_bytes())
    ledger, out = tmp_path / "ledger", tmp_path / "set"
    processor = options[:2]
    assert run("estimate", str(source), *processor, "-j", "0", "-o", str(ledger), capsys=capsys).code == 0
    source.rename(tmp_path / "aside")
    again = [command, str(ledger), *options[2:], "--out", str(out)]
    stopped = run(*again, capsys=capsys)
    assert stopped.code == 1
    assert f"{source} cannot be read: No such file or directory" in stopped.err
    assert "Bring it back and run the same command again" in stopped.err
    (tmp_path / "aside").rename(source)
    assert run(*again, capsys=capsys).code == 0
    source.unlink()
