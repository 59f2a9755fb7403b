"""Reading media where they lie: files of every unfriendly kind, the web, and what tells that a file changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.clips import Recipe, clip, sound
from tests.sources.pictures import HEIGHT, WIDTH, png
from tests.sources.web import serve
from vlmprep.mediafiles import opening
from vlmprep.schema.conversation import Media, MediaKind
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.media import MediaReader

NOBODY = 65_534


def image(path: Path | str) -> Media:
    return Media(kind="image", location=str(path))


def refusal(medium: Media) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        MediaReader().image_size(medium, "torchvision")
    return caught.value


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_and_its_bytes_are_the_same_image(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    by_place = MediaReader().image_size(image(tmp_path / "a.png"), "torchvision")
    assert by_place == MediaReader().image_size(Media(kind="image", content=png()), "torchvision")
    assert (by_place.height, by_place.width, by_place.num_bytes) == (HEIGHT, WIDTH, len(png()))


def test_a_missing_file_is_missing_media(tmp_path):
    found = refusal(image(tmp_path / "none.png"))
    assert found.code == "missing-media"
    assert str(tmp_path / "none.png") in found.reason


def test_an_empty_file_is_empty_media(tmp_path):
    (tmp_path / "a.png").touch()
    assert refusal(image(tmp_path / "a.png")).code == "empty-media"
    assert refusal(Media(kind="image", content=b"")).code == "empty-media"


def test_a_folder_is_no_image(tmp_path):
    assert refusal(image(tmp_path)).code == "unreadable-media"


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe; who waits for it is let go after a while."""
    path = tmp_path / "pipe.png"
    os.mkfifo(path)

    def let_go() -> None:
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    timer = threading.Timer(8, let_go)
    timer.start()
    yield path
    timer.cancel()


def test_a_pipe_is_not_waited_for(pipe):
    started = time.monotonic()
    found = refusal(image(pipe))
    assert found.code == "unreadable-media"
    assert time.monotonic() - started < 5
    assert MediaReader().state(image(pipe)) != 0


def test_a_socket_and_a_device_are_no_images(tmp_path):
    assert refusal(image("/dev/zero")).code == "unreadable-media"
    assert refusal(image("/dev/null")).code == "unreadable-media"


def test_a_loop_of_links_is_unreadable(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "symbolic links" in refusal(image(tmp_path / "loop")).reason
    assert MediaReader().state(image(tmp_path / "loop")) == 0


def test_a_file_without_permission_is_unreadable(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.png").chmod(0)
    with as_nobody():
        found = refusal(image(tmp_path / "a.png"))
    assert found.code == "unreadable-media"
    assert "Permission denied" in found.reason


def test_an_endless_name_is_unreadable_and_shown_short(tmp_path):
    found = refusal(image("/" + "x" * 100_000))
    assert found.code == "unreadable-media"
    assert len(found.reason) < 1_000


def test_a_file_below_a_file_is_unreadable(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    assert refusal(image(tmp_path / "a.png" / "b.png")).code in ("missing-media", "unreadable-media")


def test_no_file_stays_open(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(b"text")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        MediaReader().image_size(image(tmp_path / "a.png"), "pil")
        for name in ("b.png", "none.png", "."):
            refusal(image(tmp_path / name))
    assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.fixture
def server() -> Iterator[str]:
    with serve() as address:
        yield address


def test_an_image_on_the_web_is_read(server):
    size = MediaReader().image_size(image(f"{server}/a.png"), "torchvision")
    assert (size.height, size.width, size.num_bytes) == (HEIGHT, WIDTH, len(png()))


def test_what_the_web_does_not_give_is_unreadable(server, monkeypatch):
    assert "404" in refusal(image(f"{server}/b.png")).reason
    assert refusal(image("http://127.0.0.1:9/a.png")).code == "unreadable-media"
    assert refusal(image("http://[broken/a.png")).code == "unreadable-media"
    monkeypatch.setattr(opening, "WEB_BYTES", 100)
    assert "larger than" in refusal(image(f"{server}/a.png")).reason


def test_a_url_that_no_file_system_knows_is_unreadable():
    assert refusal(image("nonsense://bucket/a.png")).code == "unreadable-media"
    assert MediaReader().state(image("nonsense://bucket/a.png")) != 0


def test_an_image_in_another_file_system_is_read():
    import fsspec

    with fsspec.open("memory://media/a.png", "wb") as file:
        file.write(png())
    assert MediaReader().image_size(image("memory://media/a.png"), "pil").height == HEIGHT


def test_the_state_of_a_file_changes_when_the_file_does(tmp_path):
    path, reader = tmp_path / "a.png", MediaReader()
    assert reader.state(image(path)) == 0
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))
    states = [reader.state(image(path))]
    os.utime(path, ns=(2, 2))
    states.append(reader.state(image(path)))
    path.write_bytes(b"abcd")
    os.utime(path, ns=(2, 2))
    states.append(reader.state(image(path)))
    (tmp_path / "b.png").hardlink_to(path)
    states.append(reader.state(image(tmp_path / "b.png")))
    states.append(reader.state(Media(kind="image", content=b"abcd")))
    states.append(reader.state(Media(kind="image", content=b"abce")))
    assert len({0, *states}) == 7
    assert reader.state(image(path)) == states[2]


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_clips_and_sounds_meet_the_same_files_as_images(kind, tmp_path, pipe, server):
    def found(location: Path | str) -> RefuseSample:
        with pytest.raises(RefuseSample) as caught:
            MediaReader().size(Media(kind=kind, location=str(location)), "torchvision")
        return caught.value

    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("text" * 100)
    assert found(tmp_path / "none").code == "missing-media"
    assert found(tmp_path / "empty").code == "empty-media"
    assert found(tmp_path).code == "unreadable-media"
    assert found("/dev/zero").code == "unreadable-media"
    assert found(f"{server}/none").code == "unreadable-media"
    assert found(tmp_path / "text").code == {"video": "not-a-video", "audio": "not-a-sound"}[kind]
    started = time.monotonic()
    assert found(pipe).code == "unreadable-media"
    assert time.monotonic() - started < 5


def test_a_clip_and_a_sound_are_the_same_wherever_they_lie(tmp_path):
    import fsspec

    files: list[tuple[MediaKind, bytes]] = [("video", clip(Recipe(sound="aac"))), ("audio", sound())]
    for kind, data in files:
        (tmp_path / kind).write_bytes(data)
        with fsspec.open(f"memory://media/{kind}", "wb") as file:
            file.write(data)
        media = [
            Media(kind=kind, content=data),
            Media(kind=kind, location=str(tmp_path / kind)),
            Media(kind=kind, location=f"memory://media/{kind}"),
        ]
        sizes = {MediaReader().size(medium, "pil", with_sound=True) for medium in media}
        assert len(sizes) == 1
        assert sizes.pop().num_bytes == len(data)


def test_no_clip_or_sound_stays_open(tmp_path):
    (tmp_path / "a.mp4").write_bytes(clip(Recipe()))
    (tmp_path / "a.wav").write_bytes(sound())
    (tmp_path / "b.txt").write_bytes(b"text")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        MediaReader().clip_size(image(tmp_path / "a.mp4"))
        MediaReader().audio_size(image(tmp_path / "a.wav"))
        for read in (MediaReader().clip_size, MediaReader().audio_size):
            with pytest.raises(RefuseSample):
                read(image(tmp_path / "b.txt"))
    assert len(os.listdir("/proc/self/fd")) <= before + 1
