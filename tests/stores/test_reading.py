from __future__ import annotations

import io
import pickle
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import DataLoader

import vlmprep
from tests.packsets import text_pack, write_pack_set
from tests.stores.conftest import patient_client
from vlmprep.runtime import Loader, PackSet
from vlmprep.runtime import remote as reading
from vlmprep.shardformat.errors import BrokenPack, BrokenPackSet, IncompletePackSet
from vlmprep.stores import retry
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.retry import StoreTrouble

if TYPE_CHECKING:
    from tests.stores.server import Server, Trouble

NUM_PACKS = 12


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve packs of some kilobytes in four shards."""
    packs = [text_pack(number, (2000, 500 + number)) for number in range(NUM_PACKS)]
    return write_pack_set(tmp_path_factory.mktemp("packs") / "set", packs, compression="zstd")


@pytest.fixture
def url(bucket: str, local: Path, s3: Server) -> str:
    """The same on the store."""
    upload(local, f"{bucket}/some/set")
    s3.calm()
    return f"{bucket}/some/set"


def upload(folder: Path, url: str) -> None:
    patient_client().put(f"{folder}/", f"{url}/", recursive=True)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def assert_same_packs(found: PackSet, local: Path) -> None:
    expected = vlmprep.open(local)
    assert len(found) == len(expected) == NUM_PACKS
    assert all(same(found[number], expected[number]) for number in range(NUM_PACKS))


def shard_reads(s3: Server) -> list[str]:
    return [each.path for each in s3.seen("GET", ".tar") if each.range]


def test_a_pack_set_on_s3_is_read_as_a_local_one_with_few_requests(url: str, local: Path, s3: Server) -> None:
    packs = vlmprep.open(url)
    assert len(s3.requests) <= 6, "not one for each shard"
    s3.requests.clear()
    assert_same_packs(packs, local)
    assert len(shard_reads(s3)) == NUM_PACKS == len(s3.requests), "one request a pack"
    assert packs.manifest == vlmprep.open(local).manifest


def test_packs_are_read_once_by_a_host(url: str, local: Path, s3: Server) -> None:
    assert_same_packs(vlmprep.open(url), local)
    s3.requests.clear()
    again = vlmprep.open(url)
    assert_same_packs(again, local)
    assert_same_packs(pickle.loads(pickle.dumps(again)), local)
    assert not s3.seen("GET", ".tar")
    assert not s3.seen("GET", "packs.arrow"), "the index is mapped from the cache"
    assert_same_packs(vlmprep.open(url, cache_bytes=0), local)
    assert len(shard_reads(s3)) == NUM_PACKS


def test_packs_from_the_cache_may_be_changed_in_place(url: str, local: Path) -> None:
    packs = vlmprep.open(url)
    for _ in range(3):
        assert same(packs[1], vlmprep.open(local)[1])
        packs[1]["input_ids"].zero_()


def test_sets_of_the_same_name_do_not_meet_in_the_cache(url: str, bucket: str, local: Path, tmp_path: Path) -> None:
    other = write_pack_set(tmp_path / "other", [text_pack(n + 20, (2000, 500 + n)) for n in range(NUM_PACKS)])
    upload(other, f"{bucket}/other/set")
    for _ in range(2):
        assert_same_packs(vlmprep.open(url), local)
        assert_same_packs(vlmprep.open(f"{bucket}/other/set"), other)
    upload(other, url)  # written anew where the first one was
    assert_same_packs(vlmprep.open(url), other)


def entries(cache: Path) -> list[Path]:
    found = [path for path in (cache / "packs").iterdir() if not path.name.startswith(".")]
    assert found
    return found


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_poisoned_entries_are_read_anew(url: str, local: Path, tmp_path: Path, s3: Server, damage: str) -> None:
    assert_same_packs(vlmprep.open(url), local)
    poisoned = entries(tmp_path / "cache")
    assert len(poisoned) == NUM_PACKS + 1
    for path in poisoned:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-1]), "empty": b""}[damage])
    s3.requests.clear()
    assert_same_packs(vlmprep.open(url), local)
    assert len(shard_reads(s3)) == NUM_PACKS
    s3.requests.clear()
    assert_same_packs(vlmprep.open(url), local)
    assert not shard_reads(s3), "the good ones were kept"


def test_the_cache_stays_within_its_bound(url: str, local: Path, tmp_path: Path, s3: Server) -> None:
    bound = 30_000
    for _ in range(2):
        packs = vlmprep.open(url, cache_bytes=bound)
        assert_same_packs(packs, local)
        assert 0 < sum(path.stat().st_size for path in entries(tmp_path / "cache")) <= bound
    assert NUM_PACKS < len(shard_reads(s3)) <= 2 * NUM_PACKS


@pytest.mark.parametrize("trouble", ["500", "503", "cut", "silence", "flipped"])
def test_troubles_on_the_way_change_nothing(
    url: str, local: Path, s3: Server, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmprep.stores import connection

    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.4)
    packs = vlmprep.open(url)
    for part in ("000000.tar", "000001.tar", "000002.tar"):
        s3.trouble(trouble, "GET", part, times=1)
    assert_same_packs(packs, local)
    assert [each.trouble for each in s3.requests].count(trouble) == 3
    s3.trouble(trouble, "GET", "manifest.json")
    if trouble != "flipped":
        assert_same_packs(vlmprep.open(url), local)


def test_a_store_that_stays_away_is_reported_and_a_broken_shard_too(
    url: str, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = vlmprep.open(url)
    s3.trouble("flipped", "GET", "000000.tar", times=100)
    with pytest.raises(BrokenPack, match=rf"{url}/shards/000000.tar, pack 000000001: .*digest"):
        packs[1]
    monkeypatch.setattr(retry, "TRIES", 2)
    s3.trouble("500", "GET", "000001.tar", times=100)
    with pytest.raises(StoreTrouble, match=rf"{url}/shards/000001.tar cannot be read, tried 2 times"):
        packs[4]


def test_missing_and_cut_files_are_noticed_on_opening(url: str, bucket: str) -> None:
    files = patient_client()
    files.pipe_file(f"{url}/shards/000001.tar", b"short")
    with pytest.raises(BrokenPackSet, match=r"shards/000001.tar has 5 bytes"):
        vlmprep.open(url)
    files.rm_file(f"{url}/shards/000001.tar")
    with pytest.raises(BrokenPackSet, match=r"shards/000001.tar is missing"):
        vlmprep.open(url)
    with pytest.raises(BrokenPack, match=r"shards/000001.tar, pack 000000003: the shard is missing"):
        vlmprep.open(url, verify=False)[3]
    with pytest.raises(IncompletePackSet, match=r"some/nothing has no manifest.json"):
        vlmprep.open(f"{bucket}/some/nothing")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many reads of this process were under way whenever one began."""
    import threading
    import time

    under_way, seen, lock = [0], [], threading.Lock()
    read = StoreFolder.read_range

    def slowly(*arguments: Any) -> bytes:
        with lock:
            under_way[0] += 1
            seen.append(under_way[0])
        time.sleep(0.05)
        try:
            return read(*arguments)
        finally:
            with lock:
                under_way[0] -= 1

    monkeypatch.setattr(StoreFolder, "read_range", slowly)
    return seen


def test_a_loader_reads_ahead_several_packs_at_a_time_and_each_once(
    url: str, local: Path, s3: Server, at_once: list[int]
) -> None:
    settings: dict[str, Any] = {"packs_per_rank": 2, "seed": 3, "collate": list_of}
    expected = [batch["packs"] for batch in Loader(vlmprep.open(local), **settings)]
    found = [batch["packs"] for batch in Loader(vlmprep.open(url), **settings)]
    assert len(found) == NUM_PACKS // 2
    assert [[same(*pair) for pair in zip(*pairs, strict=True)] for pairs in zip(found, expected, strict=True)] == [
        [True, True]
    ] * len(found)
    assert len(at_once) == len(shard_reads(s3)) == NUM_PACKS
    assert max(at_once) >= 4


def list_of(packs: Any) -> dict[str, Any]:
    return {"packs": list(packs)}


def test_reads_that_nobody_takes_make_room(url: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_AHEAD", 3)
    packs = vlmprep.open(url)
    for _ in range(3):
        packs.read_ahead(range(NUM_PACKS))
        assert_same_packs(packs, local)


class Ranged(SimpleHTTPRequestHandler):
    """The standard library's server: pages of links for folders; and parts of files, where asked for them."""

    knows_ranges = True

    def send_head(self) -> Any:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None or not self.knows_ranges:
            return super().send_head()
        first, last = map(int, asked.groups())
        part = Path(self.translate_path(self.path)).read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return io.BytesIO(part)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_web_servers_that_show_folders_as_pages_are_read(local: Path, knows_ranges: bool) -> None:
    handler = type("Handler", (Ranged,), {"knows_ranges": knows_ranges})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(local.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            found = vlmprep.open(f"http://127.0.0.1:{server.server_port}/{local.name}")
            if knows_ranges:
                assert_same_packs(found, local)
            else:
                with pytest.raises(StoreTrouble, match=r"(?s)000000.tar: asked for \d+ bytes .* knows no ranged reads"):
                    found[1]
        finally:
            server.shutdown()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_ranks_share_a_cache_and_read_the_same(url: str, local: Path, start: str, s3: Server) -> None:
    expected = vlmprep.open(local)
    packs = vlmprep.open(url)
    packs[0]  # connections and threads that a forked worker must not use
    packs.read_ahead([1, 2])
    for _ in range(2 if start == "fork" else 1):
        workers = DataLoader(packs, batch_size=None, num_workers=2, multiprocessing_context=start, collate_fn=as_it_is)
        read: list[dict[str, torch.Tensor]] = list(workers)
        assert [same(pack, expected[number]) for number, pack in enumerate(read)] == [True] * NUM_PACKS
    assert len(shard_reads(s3)) <= NUM_PACKS + 2, "the second time all came from the cache"


def as_it_is(pack: Any) -> Any:
    return pack
