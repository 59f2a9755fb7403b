from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from vlmprep.stores.cache import DiskCache, entry_name


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != ".used")


def test_what_is_kept_is_found_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 1000)
    assert cache.find("a", 300) is None
    for number, name in enumerate("abc"):
        kept = cache.keep(name, name.encode() * 300)
        assert kept is not None
        os.utime(kept, (1000 + number, 1000 + number))
    assert cache.find("a", 300) == tmp_path / "cache" / "a", "and it counts as used"
    assert cache.find("a", 299) is None, "another size is another thing"
    assert cache.keep("d", b"d" * 300) is not None
    assert [name for name in "abcd" if cache.find(name, 300)] == ["a", "c", "d"]
    assert cache.keep("e", b"e" * 1001) is None, "larger than the bound"
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert cache.drop("a")
    assert not cache.drop("a")
    assert cache.find("a", 300) is None


def test_a_full_or_forbidden_disk_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = DiskCache(tmp_path / "file" / "cache", 1000)
    assert cache.keep("a", b"a") is None
    assert cache.find("a", 1) is None
    assert not cache.drop("a")


def test_what_a_dead_process_left_is_pushed_out(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1000)
    (tmp_path / ".x.1-1.tmp").write_bytes(bytes(900))
    os.utime(tmp_path / ".x.1-1.tmp", (1, 1))
    (tmp_path / ".used").write_bytes(b"9")
    (tmp_path / ".used").write_bytes(b"12x")
    assert cache.keep("a", b"a" * 300) is not None
    assert held(tmp_path) == 300


def test_names_tell_contents_apart() -> None:
    names = {entry_name("s3://a/b", "c", 1), entry_name("s3://a", "b/c", 1), entry_name("s3://a/b", "c", 2)}
    assert len(names) == 3


def write_many(folder: str, own: int) -> None:
    cache = DiskCache(Path(folder), 20_000)
    for number in range(120):
        size = 500 + 37 * (number % 20)
        cache.keep(entry_name(own % 2, number), bytes([number]) * size)


@pytest.mark.parametrize("num_processes", [4])
def test_many_processes_keep_within_the_bound_and_whole(tmp_path: Path, num_processes: int) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(str(tmp_path), n)) for n in range(num_processes)]
    for writer in writers:
        writer.start()
    most = looks = 0
    while any(writer.is_alive() for writer in writers):
        sizes = 0
        for path in tmp_path.iterdir():
            try:
                sizes += path.stat().st_size if path.name != ".used" else 0
            except FileNotFoundError:
                continue
        most, looks = max(most, sizes), looks + 1
        time.sleep(0.001)
    assert [writer.exitcode for writer in writers] == [0] * num_processes
    assert looks > 3
    assert held(tmp_path) <= 20_000
    assert 10_000 < most < 25_000, "a look takes time, in which things come and go"
    kept = [path for path in tmp_path.iterdir() if path.name != ".used"]
    assert len(kept) > 5
    for path in kept:
        assert not path.name.startswith("."), "nothing half written is left"
        assert len(set(path.read_bytes())) == 1
