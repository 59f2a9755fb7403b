"""A "video" opens no other file, and a broken one is refused without a word on stderr."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import Recipe, clip
from vlmprep.mediafiles.containers import opened_container
from vlmprep.mediafiles.mp4 import promised_bytes
from vlmprep.mediafiles.videos import UNLIMITED, video_size
from vlmprep.schema.errors import RefuseSample

PLAYLISTS = {
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{name}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": "ffconcat version 1.0\nfile {name}\n",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "a.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{name}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_a_playlist_is_no_video(playlist: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.ts").write_bytes(clip(Recipe(container="mpegts")))
    (tmp_path / playlist).write_text(PLAYLISTS[playlist].format(name="other.ts"))
    if playlist in ("a.m3u8", "a.ffconcat"):
        with av.open(playlist, "r") as container:
            assert next(container.decode(video=0)).height == 48, "left alone, FFmpeg opens the other file"
    with (
        open(playlist, "rb") as file,
        pytest.raises(RefuseSample, match="is no video"),
        opened_container(file, playlist),
    ):
        pass


def test_damaged_clips_are_refused_or_counted_but_raise_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    outcomes = {"counted": 0, "refused": 0}
    for container in ("mp4", "matroska", "avi"):
        data = np.frombuffer(clip(Recipe(container=container, codec="mpeg4", num_frames=6)), np.uint8)
        capfd.readouterr()
        for _ in range(60):
            damaged = data.copy()
            places = rng.integers(0, len(data), 8)
            damaged[places] = rng.integers(0, 256, 8)
            file = io.BytesIO(damaged.tobytes())
            try:
                with opened_container(file, "it") as opened:
                    assert video_size(opened, len(data), "it", UNLIMITED).num_frames > 0
                outcomes["counted"] += 1
            except RefuseSample:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("num_samples", [1 << 16, 1 << 26, (1 << 32) - 1])
def test_an_index_that_promises_more_than_the_file_holds_is_not_spread_out(num_samples: int) -> None:
    data = bytearray(clip(Recipe()))
    struct.pack_into(">2I", data, data.index(b"stsz") + 8, 1, num_samples)
    with (
        pytest.raises(RefuseSample, match=f"its index promises {num_samples}"),
        opened_container(io.BytesIO(data), "it"),
    ):
        pass


def test_what_an_index_promises_is_read_from_any_file_without_harm() -> None:
    rng = np.random.default_rng(1)
    data = np.frombuffer(clip(Recipe(num_frames=2, sound="aac")), np.uint8)
    assert promised_bytes(io.BytesIO(data.tobytes())) == 0, "sizes of their own"
    for size in (0, 1, 7, 8, 9, 15, 16, 40):
        assert promised_bytes(io.BytesIO(data.tobytes()[:size])) == 0
    head = data.tobytes().index(b"moov") - 4
    for _ in range(300):
        damaged = data.copy()
        damaged[rng.integers(head, len(data), 6)] = rng.integers(0, 256, 6)
        file = io.BytesIO(damaged.tobytes())
        assert promised_bytes(file) >= 0
        assert file.tell() == 0
