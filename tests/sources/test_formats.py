"""Every kind of image is what the processor's own loader makes of it, bit for bit, or refused; and the docs say which."""

from __future__ import annotations

import builtins
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.sources.formats import AS_IT_IS, FORMATS, LOADERS, documented, outcome, table
from tests.sources.pictures import encode, picture
from vlmprep.mediafiles import heif
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import Loader
from vlmprep.sources import headers
from vlmprep.sources.media import MediaReader

pytestmark = [
    pytest.mark.skipif(find_spec("torchcodec") is not None, reason="transformers then decodes with torchcodec"),
    pytest.mark.skipif(find_spec("pillow_heif") is None, reason="HEIF needs pillow-heif"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


def refusal(data: bytes, loader: Loader) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        MediaReader().image_size(Media(kind="image", content=data), loader)
    return caught.value


def test_the_table_in_the_docs_is_what_happens(tmp_path: Path) -> None:
    found = table(tmp_path)
    assert found == documented(), "python -m tests.sources.formats writes it anew"
    assert found.count(AS_IT_IS) > 20
    assert found.count("refused") > 10


@pytest.mark.parametrize("loader", LOADERS)
def test_no_format_is_counted_and_then_refused(loader: Loader, tmp_path: Path) -> None:
    late = [
        line.name for line in FORMATS for file in line.files if outcome(file(), loader, tmp_path) == "undecodable-media"
    ]
    assert late == []


def test_a_photograph_of_a_telephone_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    heif.teach_pillow_heif()
    data = encode(picture(), "HEIF")
    real = builtins.__import__

    def without_pillow_heif(name: str, *rest: Any) -> Any:
        if name == "pillow_heif":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pillow_heif)
    monkeypatch.setattr(headers, "_formats", lambda _: ("PNG", "JPEG"))
    heif.teach_pillow_heif.cache_clear()
    said = {loader: refusal(data, loader) for loader in LOADERS}
    monkeypatch.undo()
    heif.teach_pillow_heif.cache_clear()
    assert {found.code for found in said.values()} == {"unread-format"}
    assert all("pip install pillow-heif" in found.reason for found in said.values())
    assert "--image-backend pil" in said["torchvision"].reason
    assert "--image-backend" not in said["pil"].reason


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"\0\0\1\0", "ICO"),
        (b"%!PS-Adobe-3.0", "PostScript"),
        (b"%PDF-1.7", "convert its pages"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a", "JPEG XL"),
    ],
)
@pytest.mark.parametrize("loader", LOADERS)
def test_what_nobody_reads_is_called_by_its_name(head: bytes, says: str, loader: Loader) -> None:
    found = refusal(head + bytes(100), loader)
    assert found.code == "unread-format"
    assert says in found.reason


def test_a_gif_that_torchvision_leaves_partly_unwritten_is_refused() -> None:
    data = bytearray(encode(picture("P"), "GIF"))
    data[6:8] = (picture().width + 20).to_bytes(2, "little")  # the screen is wider than its only picture
    assert refusal(bytes(data), "torchvision").code == "uncovered-image"
    size = MediaReader().image_size(Media(kind="image", content=bytes(data)), "pil")
    assert size.width == picture().width + 20


def test_a_broken_file_is_not_called_by_a_name() -> None:
    assert refusal(b"RIFF\x24\0\0\0WEBPVP8 ", "pil").code == "not-an-image"
    assert refusal(b"\0\0\0\x1cftypheic" + bytes(100), "pil").code == "not-an-image"


def test_the_words_are_the_same_in_a_process_that_saw_no_image_before() -> None:
    script = (
        "from vlmprep.sources.media import MediaReader; from vlmprep.schema.conversation import Media\n"
        "import sys\n"
        "size = MediaReader().image_size(Media(kind='image', content=sys.stdin.buffer.read()), 'pil')\n"
        "print(size.height, size.width)"
    )
    heif.teach_pillow_heif()
    data = encode(picture(), "HEIF")
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, check=True)
    assert done.stdout.decode().split() == [str(picture().height), str(picture().width)]
