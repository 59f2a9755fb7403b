"""Media paths: what may be reached, and what is refused however it is spelled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.locations import resolve_location


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A media folder beside things that it must not give away."""
    folder = tmp_path / "media"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"a")
    (folder / "sub" / "b.jpg").write_bytes(b"b")
    (tmp_path / "media-other").mkdir()
    (tmp_path / "media-other" / "c.jpg").write_bytes(b"c")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "file-out").symlink_to(tmp_path / "secret.jpg")
    (folder / "file-in").symlink_to(folder / "a.jpg")
    (folder / "folder-out").symlink_to(tmp_path / "media-other")
    (folder / "folder-in").symlink_to(folder / "sub")
    (folder / "up").symlink_to("..")
    (folder / "twice").symlink_to(folder / "up")
    return folder


def refusal(location: str, media_dir: Path | str, **allowed: bool) -> str:
    with pytest.raises(RefuseSample) as caught:
        resolve_location(location, str(media_dir), **allowed)
    return caught.value.code


@pytest.mark.parametrize(
    "location", ["a.jpg", "./a.jpg", "sub//../a.jpg", "sub/../sub/b.jpg", "file-in", "folder-in/b.jpg"]
)
def test_what_lies_inside_is_reached(location, media):
    found = resolve_location(location, str(media))
    assert os.path.isabs(found)
    assert Path(found).samefile(media / location)


def test_an_absolute_path_inside_is_reached(media):
    assert resolve_location(str(media / "a.jpg"), str(media)) == str(media / "a.jpg")


def test_a_file_that_is_not_there_yet_resolves(media):
    assert resolve_location("none/x.jpg", str(media)) == str(media / "none" / "x.jpg")


@pytest.mark.parametrize(
    "location",
    [
        "../secret.jpg",
        "sub/../../secret.jpg",
        "../media-other/c.jpg",
        "../media/../secret.jpg",
        "/etc/hostname",
        "//etc/hostname",
        "file-out",
        "folder-out/c.jpg",
        "folder-out",
        "up/secret.jpg",
        "twice/secret.jpg",
        "up/media-other/c.jpg",
        "folder-in/../../secret.jpg",
        "..",
        "",
    ],
)
def test_what_lies_outside_is_refused(location, media):
    assert refusal(location, media) == ("outside-media" if location else "bad-media-path")


def test_a_folder_whose_name_goes_on_is_another_folder(media):
    assert refusal(str(media) + "-other/c.jpg", media) == "outside-media"


def test_what_lies_outside_is_reached_where_that_is_allowed(media):
    found = resolve_location("../secret.jpg", str(media), allow_outside_media=True)
    assert Path(found).read_bytes() == b"secret"
    assert resolve_location("/etc/hostname", str(media), allow_outside_media=True) == "/etc/hostname"


def test_a_step_back_from_a_link_goes_where_the_file_system_goes(media):
    (media / "folder-in" / "deep").mkdir()
    (media / "link").symlink_to(media / "sub" / "deep")
    (media / "b.jpg").write_bytes(b"wrong")
    assert Path(resolve_location("link/../b.jpg", str(media))).read_bytes() == b"b"


def test_a_media_folder_behind_a_link_holds_its_files(media, tmp_path):
    (tmp_path / "linked").symlink_to(media)
    assert Path(resolve_location("a.jpg", str(tmp_path / "linked"))).read_bytes() == b"a"
    assert refusal("../secret.jpg", tmp_path / "linked") == "outside-media"


def test_the_root_may_be_the_media_folder(media):
    assert resolve_location(str(media / "a.jpg")[1:], "/") == str(media / "a.jpg")


def test_loops_and_endless_names_are_left_to_the_reader(media):
    (media / "loop").symlink_to(media / "loop")
    assert resolve_location("loop", str(media)) == str(media / "loop")
    assert resolve_location("loop/x.jpg", str(media)).endswith("loop/x.jpg")
    assert resolve_location("x" * 5_000, str(media)).endswith("x")


@pytest.mark.parametrize("location", ["a\0b", "\0", "a.jpg\0.png"])
def test_nul_bytes_are_refused(location, media):
    assert refusal(location, media) == "bad-media-path"
    assert refusal(location, media, allow_outside_media=True) == "bad-media-path"


@pytest.mark.parametrize("url", ["http://host/a.jpg", "https://host/a.jpg"])
def test_the_web_is_reached_only_where_that_is_allowed(url, media):
    assert refusal(url, media) == "remote-media"
    assert refusal(url, media, allow_outside_media=True) == "remote-media"
    assert resolve_location(url, str(media), allow_remote_media=True) == url


def test_a_media_folder_on_the_web_is_the_web_too():
    assert refusal("a.jpg", "http://host/media") == "remote-media"
    assert resolve_location("a.jpg", "http://host/media", allow_remote_media=True) == "http://host/media/a.jpg"


@pytest.mark.parametrize(
    "url", ["s3://bucket/media/a.jpg", "ftp://host/a.jpg", "HTTP://host/a.jpg", "gs://b/a", "x://y"]
)
def test_other_urls_are_outside_a_local_folder(url, media):
    assert refusal(url, media) == "outside-media"
    assert refusal(url, media, allow_remote_media=True) == "outside-media"


def test_an_object_store_is_a_media_folder():
    assert resolve_location("sub/a.jpg", "s3://bucket/media/") == "s3://bucket/media/sub/a.jpg"
    assert resolve_location("s3://bucket/media/a.jpg", "s3://bucket/media") == "s3://bucket/media/a.jpg"


@pytest.mark.parametrize(
    "location",
    [
        "../other/a.jpg",
        "sub/../../a.jpg",
        "s3://bucket/media-other/a.jpg",
        "s3://other/media/a.jpg",
        "a.jpg::file:///etc/hostname",
        "s3://bucket/media/a::s3://other/b",
    ],
)
def test_nothing_escapes_from_an_object_store(location):
    assert refusal(location, "s3://bucket/media") == "outside-media"


def test_an_endless_name_does_not_fill_the_reason(media):
    with pytest.raises(RefuseSample) as caught:
        resolve_location("../" + "x" * 100_000, str(media))
    assert len(caught.value.reason) < 1_000
