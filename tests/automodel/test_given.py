"""Media in every form that an example may give them in: all make the same batch, and what cannot be read is named."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import lmdb
import pytest
import soundfile
import torch
from PIL import Image

from tests.automodel.examples import a_clip, a_picture, a_sound, plain, processor
from tests.automodel.remote_processors import kimi_k25_remote, kimi_vl_remote, nemotron_parse_remote, phi4_remote
from vlmprep.automodel.collate_fns import (
    _estimate_media_tokens,
    kimi_k25_vl_collate_fn,
    kimi_vl_collate_fn,
    nemotron_parse_collate_fn,
    phi4_mm_collate_fn,
    qwen2_5_collate_fn,
    qwen3_omni_collate_fn,
)
from vlmprep.automodel.datasets import PreTokenizedDatasetWrapper, RobustDatasetWrapper
from vlmprep.schema.conversation import MediaKind
from vlmprep.schema.errors import RefuseSample


def rows(kind: MediaKind, value: Any) -> list[dict[str, Any]]:
    question = {"type": "text", "text": "What?"}
    return [{"conversation": plain(("user", [{"type": kind, kind: value}, question]), ("assistant", "A."))}]


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def every_form(folder: Path, name: str) -> list[Any]:
    """A file by path and URL, and as bytes, data URI and struct."""
    path = folder / name
    content = path.read_bytes()
    with fsspec.open(f"memory://given/{name}", "wb") as file:
        file.write(content)
    uri = f"data:any/any;base64,{base64.b64encode(content).decode()}"
    places = [str(path), path, f"file://{path}", f"memory://given/{name}"]
    return [*places, content, uri, {"bytes": content, "path": "x"}, {"bytes": None, "path": str(path)}]


def pictures(folder: Path) -> list[Any]:
    """The same picture in every form, those of an LMDB among them."""
    (folder / "a.png").write_bytes(encoded(a_picture()))
    with lmdb.open(str(folder / "a.lmdb"), map_size=1 << 20) as environment, environment.begin(write=True) as writes:
        writes.put(b"k", (folder / "a.png").read_bytes())
    return [*every_form(folder, "a.png"), f"{folder}/a.lmdb::k"]


def assert_same(found: Any, truth: Any) -> None:
    assert list(found) == list(truth)
    assert any(name.startswith(("pixel", "input_")) for name in found)
    for name, values in truth.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(values)), name


@pytest.mark.parametrize(
    ("collate", "make"),
    [
        (qwen2_5_collate_fn, lambda: processor("qwen2_5_vl")),
        (kimi_vl_collate_fn, kimi_vl_remote),
        (kimi_k25_vl_collate_fn, kimi_k25_remote),
        (phi4_mm_collate_fn, phi4_remote),
        (nemotron_parse_collate_fn, nemotron_parse_remote),
    ],
)
def test_images_make_the_same_batch_in_every_form(collate: Callable[..., Any], make: Callable[[], Any], tmp_path: Path):
    made_by = make()
    truth = collate(rows("image", a_picture()), made_by)
    forms = pictures(tmp_path)
    assert len(forms) == 9
    for value in forms:
        assert_same(collate(rows("image", value), made_by), truth)


def test_clips_make_the_same_batch_in_every_form(tmp_path: Path):
    made_by = processor("qwen2_5_vl")
    clip = a_clip(tmp_path / "c.mp4", 8)
    truth = qwen2_5_collate_fn(rows("video", clip), made_by)
    for value in every_form(tmp_path, "c.mp4"):
        assert_same(qwen2_5_collate_fn(rows("video", value), made_by), truth)
    frames = [a_picture()] * 2
    of_frames = qwen2_5_collate_fn(rows("video", frames), made_by)
    for value in pictures(tmp_path):
        assert_same(qwen2_5_collate_fn(rows("video", [value] * 2), made_by), of_frames)


def test_sounds_make_the_same_batch_in_every_form(tmp_path: Path):
    made_by = processor("qwen3_omni")
    soundfile.write(tmp_path / "s.wav", a_sound(), 16_000, subtype="FLOAT")
    truth = qwen3_omni_collate_fn(rows("audio", a_sound()), made_by)
    for value in every_form(tmp_path, "s.wav"):
        assert_same(qwen3_omni_collate_fn(rows("audio", value), made_by), truth)


def test_samples_are_the_same_in_every_form(tmp_path: Path):
    made_by = processor("qwen2_5_vl")
    truth = PreTokenizedDatasetWrapper(rows("image", a_picture()), made_by)[0]
    for value in pictures(tmp_path):
        assert_same(PreTokenizedDatasetWrapper(rows("image", value), made_by)[0], truth)
        assert _estimate_media_tokens(rows("image", value)[0]["conversation"], made_by) > 0
        robust = RobustDatasetWrapper(rows("image", value))
        robust.preload_media = True
        assert robust[0]["conversation"][0]["content"][0]["image"] == a_picture()
        assert not robust.failures


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("/nowhere/a.png", "/nowhere/a.png does not exist"),
        ("/nowhere/a.lmdb::k", "/nowhere/a.lmdb::k does not exist"),
        ("memory://given/none.png", "memory://given/none.png does not exist"),
        ("/", "/ cannot be read"),
        (b"", "the image inside the row is empty"),
        (b"no picture", "is not an image that can be read"),
        (encoded(a_picture())[:300], "does not decode"),
        ("data:image/png,x", "is not base64"),
        ("", "empty or holds a NUL"),
        ({"path": "\0"}, "empty or holds a NUL"),
        ({}, "expected a path"),
        (3, "image is int"),
    ],
)
@pytest.mark.parametrize(
    ("collate", "make"),
    [(qwen2_5_collate_fn, lambda: processor("qwen2_5_vl")), (nemotron_parse_collate_fn, nemotron_parse_remote)],
)
def test_images_that_cannot_be_used_are_refused_in_words(
    value: Any, says: str, collate: Callable[..., Any], make: Callable[[], Any]
):
    with pytest.raises(RefuseSample, match=says):
        collate(rows("image", value), make())


def test_clips_are_no_pages_and_no_sounds():
    with pytest.raises(RefuseSample, match="1 media and 1 answers"):
        nemotron_parse_collate_fn(rows("video", "a.mp4"), nemotron_parse_remote())
    with pytest.raises(RefuseSample, match="takes images and sounds, not video"):
        phi4_mm_collate_fn(rows("video", "a.mp4"), phi4_remote())
