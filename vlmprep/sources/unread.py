"""Images that no loader here reads: what they are, and what to do about it."""

from __future__ import annotations

from PIL import features

from vlmprep.mediafiles.heif import teach_pillow_heif
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import Loader

__all__ = ["HEAD_BYTES", "unread_image"]

HEAD_BYTES = 12
"""Of a file, to be told apart by."""
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})
BY_HEAD = {
    b"\0\0\1\0": "an icon (ICO), which Pillow decodes as it opens it; convert it to PNG",
    b"%!PS": "a PostScript program (EPS), which is not run; convert it to PNG",
    b"\xc5\xd0\xd3\xc6": "a PostScript program (EPS), which is not run; convert it to PNG",
    b"%PDF": "a PDF, which no loader reads; convert its pages to PNG",
    b"\xff\x0a": "JPEG XL, which no loader reads; convert it to PNG or JPEG",
    b"\0\0\0\x0cJXL ": "JPEG XL, which no loader reads; convert it to PNG or JPEG",
}


def unread_image(head: bytes, name: str, loader: Loader) -> RefuseSample:
    """The refusal of a file that Pillow does not know.

    Args:
        head: Its first HEAD_BYTES.
        name: What a person calls it.
        loader: Which of the processors' loaders would decode it.
    """
    for start, known in BY_HEAD.items():
        if head.startswith(start):
            return RefuseSample("unread-format", f"{name} is {known}")
    if what := _lacking(head):
        pil = "" if loader == "pil" else " and --image-backend pil"
        return RefuseSample("unread-format", f"{name} is {what}{pil}, or convert it to JPEG or PNG")
    return RefuseSample("not-an-image", f"{name} is not an image that can be read")


def _lacking(head: bytes) -> str | None:
    """What the file is and what reading it takes; None where nothing is lacking, so that the file is broken."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in HEIF_BRANDS and not teach_pillow_heif():
        return "HEIF, which takes `pip install pillow-heif`"
    if brand in AVIF_BRANDS and not features.check("avif"):
        return "AVIF, which takes `pip install -U 'pillow>=11.3'`"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and not features.check("webp"):
        return "WebP, which takes a Pillow with it (`pip install -U pillow`)"
    return None
