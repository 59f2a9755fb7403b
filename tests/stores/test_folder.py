from __future__ import annotations

import base64
import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.stores.server import Trouble
from vlmprep.stores import connection, retry
from vlmprep.stores import folder as folders
from vlmprep.stores.etags import etag_says, md5_etags
from vlmprep.stores.folder import StoreFolder
from vlmprep.stores.retry import StoreTrouble
from vlmprep.stores.stored import stored
from vlmprep.stores.uploads import abort_uploads

if TYPE_CHECKING:
    from tests.stores.server import Server

PART = 5 << 20
"""The smallest that S3 takes."""


@pytest.fixture
def root(bucket: str) -> StoreFolder:
    return StoreFolder(f"{bucket}/a/set")


def a_file(path: Path, size: int = 1000) -> tuple[Path, str]:
    content = hashlib.shake_128(str(size).encode()).digest(size)
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_what_is_published_is_read_again_whole_and_in_parts(root: StoreFolder, tmp_path: Path) -> None:
    assert root.files() == {}
    assert root.look("shards/0") is None
    path, sha256 = a_file(tmp_path / "file")
    root.publish_file("shards/0", path, sha256)
    root.publish_bytes("manifest.json", b"{}")
    assert {name: stored.size for name, stored in root.files().items()} == {"manifest.json": 2, "shards/0": 1000}
    assert {name: stored.size for name, stored in root.files("shards").items()} == {"shards/0": 1000}
    again: StoreFolder = pickle.loads(pickle.dumps(root))
    assert again.read("shards/0") == path.read_bytes()
    assert again.read_range("shards/0", 10, 50) == path.read_bytes()[10:60]
    assert again.read_range("shards/0", 990, 50) == path.read_bytes()[990:]
    again.fetch("shards/0", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    for missing in ("shards/1", "shards"):
        with pytest.raises(FileNotFoundError):
            root.read(missing)
        with pytest.raises(FileNotFoundError):
            root.fetch(missing, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    root.delete("shards/0")
    root.delete("shards/0")
    assert list(root.files()) == ["manifest.json"]


def test_large_files_go_in_parts_and_are_named_last(
    root: StoreFolder, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PART_BYTES", PART)
    path, sha256 = a_file(tmp_path / "file", 2 * PART + 77)
    root.publish_file("shard", path, sha256)
    parts = s3.seen("PUT", "partNumber")
    assert len(parts) == 3
    assert s3.requests.index(s3.seen("POST", "uploadId")[-1]) > max(map(s3.requests.index, parts))
    assert not s3.seen("GET", "/shard"), "the digest of the parts was enough"
    assert root.read("shard") == path.read_bytes()


@pytest.mark.parametrize("trouble", ["500", "503", "silence"])
def test_uploads_are_tried_again(
    root: StoreFolder, s3: Server, tmp_path: Path, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.3)
    path, sha256 = a_file(tmp_path / "file")
    s3.trouble(trouble, "PUT", "/shard", times=2)
    s3.trouble(trouble, "HEAD", "/shard", times=1)
    root.publish_file("shard", path, sha256)
    assert [each.trouble for each in s3.seen("PUT", "/shard")][:2] == [trouble] * 2
    assert root.read("shard") == path.read_bytes()


@pytest.mark.parametrize("trouble", ["500", "503", "silence", "cut"])
def test_reads_are_tried_again(
    root: StoreFolder, s3: Server, tmp_path: Path, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.3)
    path, sha256 = a_file(tmp_path / "file", 30_000)
    root.publish_file("shard", path, sha256)
    for _ in range(2):
        s3.trouble(trouble, "GET", "/shard", times=2)
        assert root.read_range("shard", 100, 20_000) == path.read_bytes()[100:20_100]
    s3.trouble(trouble, "GET", "/shard", times=2)
    root.fetch("shard", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert len([each for each in s3.seen("GET", "/shard") if each.trouble]) == 6


def test_a_store_that_stays_in_trouble_is_reported_with_what_was_tried(
    root: StoreFolder, s3: Server, tmp_path: Path
) -> None:
    path, sha256 = a_file(tmp_path / "file")
    s3.trouble("500", "PUT", "/shard", times=10_000)
    with pytest.raises(StoreTrouble, match=rf"{root}/shard cannot be written, tried {retry.TRIES} times: .*injected"):
        root.publish_file("shard", path, sha256)
    assert root.files() == {}


def test_a_part_that_fails_leaves_no_name_and_no_upload(
    root: StoreFolder, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PART_BYTES", PART)
    monkeypatch.setattr(retry, "TRIES", 2)
    path, sha256 = a_file(tmp_path / "file", 2 * PART + 77)
    s3.trouble("500", "PUT", "partNumber=2", times=10_000)
    with pytest.raises(StoreTrouble, match="cannot be written"):
        root.publish_file("shard", path, sha256)
    assert root.files() == {}
    assert abort_uploads(root.url) == 0, "nothing is left half uploaded"
    s3.calm()
    root.publish_file("shard", path, sha256)
    assert root.read("shard") == path.read_bytes()


def test_what_killed_runs_left_half_uploaded_is_aborted(root: StoreFolder, bucket: str) -> None:
    files = root._connection.files
    begun = files.call_s3("create_multipart_upload", Bucket=bucket[5:], Key="a/set/shards/0")
    other = files.call_s3("create_multipart_upload", Bucket=bucket[5:], Key="a/set-of-others/0")
    files.call_s3(
        "upload_part",
        Bucket=bucket[5:],
        Key="a/set/shards/0",
        UploadId=begun["UploadId"],
        PartNumber=1,
        Body=b"1",
    )
    assert root.files() == {}, "it has no name"
    assert abort_uploads(root.url) == 1
    assert abort_uploads(root.url) == 0
    left = files.call_s3("list_multipart_uploads", Bucket=bucket[5:])["Uploads"]
    assert [each["UploadId"] for each in left] == [other["UploadId"]]


def test_a_store_that_does_not_let_us_look_for_uploads_stops_nothing(
    root: StoreFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def deny(self: connection.Connection, what: str, *arguments: str, **options: str) -> None:
        asked.append(arguments[0])
        raise PermissionError("Access Denied")

    monkeypatch.setattr(connection.Connection, "run", deny)
    assert abort_uploads(root.url) == 0
    assert asked == ["list_multipart_uploads"]


def test_content_that_changes_on_the_way_is_noticed_and_removed(
    root: StoreFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sha256 = a_file(tmp_path / "file")
    other, _ = a_file(tmp_path / "other", 999)
    other.write_bytes(b"x" * 1000)
    files = root._connection.files
    put = files._put_file
    monkeypatch.setattr(files, "_put_file", lambda _, name, **options: put(str(other), name, **options))
    with pytest.raises(StoreTrouble, match="what arrived is not what was sent"):
        root.publish_file("shard", path, sha256)
    assert root.files() == {}


def test_stores_without_a_digest_are_read_back(
    root: StoreFolder, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "md5_etags", lambda *_: set)
    monkeypatch.setattr(folders, "BLOCK_BYTES", 300)
    path, sha256 = a_file(tmp_path / "file")
    root.publish_file("shard", path, sha256)
    assert len(s3.seen("GET", "/shard")) >= 4
    with pytest.raises(StoreTrouble, match="what arrived is not what was sent"):
        root.publish_file("shard", path, "0" * 64)


def test_one_of_many_creates_a_file(bucket: str) -> None:
    def create(number: int) -> bool:
        return StoreFolder(f"{bucket}/set").create("lease", str(number).encode())

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(create, range(8)))
    assert made.count(True) == 1
    assert StoreFolder(f"{bucket}/set").read("lease") == str(made.index(True)).encode()


def test_a_bucket_that_is_not_there_and_a_kind_of_url_that_nobody_knows_are_named(s3: Server, tmp_path: Path) -> None:
    path, sha256 = a_file(tmp_path / "file")
    nowhere = StoreFolder("s3://no-such-bucket-of-ours/set")
    assert nowhere.files() == {}
    with pytest.raises(StoreTrouble, match="s3://no-such-bucket-of-ours/set/shard cannot be written"):
        nowhere.publish_file("shard", path, sha256)
    with pytest.raises(StoreTrouble, match="nosuch://bucket/set cannot be used"):
        StoreFolder("nosuch://bucket/set").files()


def test_digests_are_known_as_each_store_spells_them() -> None:
    md5 = hashlib.md5(b"content").digest()
    spelled = ({"ETag": f'"{md5.hex()}"'}, {"etag": "CJ1x=", "md5Hash": base64.b64encode(md5).decode()})
    for info in spelled:
        found = stored({"size": 7, **info})
        assert etag_says(found.state, md5_etags(b"content"))
        assert not etag_says(found.state, md5_etags(b"others"))
    assert etag_says("CJ1x=", md5_etags(b"content")) is None
    assert stored({"size": 7}).state == ""
