"""What becomes of each kind of image under each loader of transformers: the table in docs/media.md.

    python -m tests.sources.formats

writes it anew. "as it is" means: counted at the size, and loaded to the very levels, that the processor's own
`fetch_images` makes of the file.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import Qwen2VLImageProcessor, Qwen2VLImageProcessorPil

from tests.sources.pictures import encode, exif_app1, jpeg, picture, png, tiff_block
from vlmprep.families.media.images import load_image
from vlmprep.mediafiles.heif import teach_pillow_heif
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample
from vlmprep.schema.media import Loader
from vlmprep.sources.media import MediaReader

__all__ = ["AS_IT_IS", "DOCS", "FORMATS", "LOADERS", "outcome", "table"]

LOADERS: tuple[Loader, ...] = ("torchvision", "pil")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "media.md"
BEGIN, END = "<!-- formats: written by tests/sources/formats.py -->\n", "<!-- end of formats -->\n"
AS_IT_IS = "as it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A line of the table."""

    name: str
    files: Sequence[Callable[[], bytes]]
    """Of this form; all have to fare alike."""


def form(name: str, *files: Callable[[], bytes]) -> Form:
    """A line of the table."""
    return Form(name=name, files=files)


def written(file_format: str, *modes: str, **options: Any) -> list[Callable[[], bytes]]:
    """What Pillow writes of a picture, in some modes."""
    return [partial(lambda mode: encode(picture(mode), file_format, **options), mode) for mode in modes or ("RGB",)]


def several(file_format: str) -> Callable[[], bytes]:
    """Three pictures in one file."""
    more = [picture().rotate(180), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return lambda: encode(picture(), file_format, save_all=True, append_images=more)


def deep_tiff(*kinds: type) -> list[Callable[[], bytes]]:
    """TIFFs of other numbers."""
    levels = np.asarray(picture("L"))
    return [partial(lambda kind: encode(Image.fromarray(levels.astype(kind) * 100), "TIFF"), kind) for kind in kinds]


def heif(**options: Any) -> bytes:
    """A photograph as a telephone writes it."""
    assert teach_pillow_heif(), "needs pillow-heif"
    return encode(picture(), "HEIF", **options)


def turned(number: int) -> list[Callable[[], bytes]]:
    """Every format that the loaders turn, under one orientation tag."""
    block = tiff_block(number)
    return [lambda: jpeg(exif_app1(block)), lambda: encode(picture(), "PNG", exif=block)]


ALL_TURNED = [file for number in range(1, 9) for file in turned(number)]
PLAIN_JPEGS: list[Callable[[], bytes]] = [
    jpeg,
    partial(jpeg, progressive=True),
    partial(jpeg, mode="L"),
    partial(jpeg, subsampling=0),
]
FORMATS = (
    form("JPEG: baseline, progressive, gray, 4:4:4", *PLAIN_JPEGS),
    form("JPEG, CMYK", *written("JPEG", "CMYK")),
    form("MPO (several JPEGs: the first)", several("MPO")),
    form("JPEG and PNG under Exif orientations 1 to 8", *ALL_TURNED),
    form(
        "PNG: RGB, gray, palette, 1, 2 and 4 bits",
        *written("PNG", "RGB", "L", "P", "1"),
        partial(png, depth=4, colour=0),
    ),
    form("PNG with alpha or transparency", *written("PNG", "RGBA", "LA"), *written("PNG", "P", transparency=3)),
    form("PNG of 16 bits, gray", partial(png, depth=16, colour=0)),
    form("PNG of 16 bits, with colour or alpha", *(partial(png, depth=16, colour=colour) for colour in (2, 4, 6))),
    form("PNG, animated (its first picture)", several("PNG")),
    form("GIF", *written("GIF", "P", "L")),
    form("GIF, animated", several("GIF")),
    form("WebP: lossy, lossless, alpha", *written("WEBP"), *written("WEBP", lossless=True), *written("WEBP", "RGBA")),
    form("WebP, animated", several("WEBP")),
    form("AVIF", *written("AVIF")),
    form("AVIF, animated", several("AVIF")),
    form("HEIF, with pillow-heif", heif, partial(heif, exif=tiff_block(6))),
    form("TIFF: RGB, gray, 1 bit, alpha, CMYK, LAB", *written("TIFF", "RGB", "L", "1", "RGBA", "CMYK", "LAB")),
    form(
        "TIFF, LZW or deflate", *(f for c in ("tiff_lzw", "tiff_adobe_deflate") for f in written("TIFF", compression=c))
    ),
    form("TIFF of several pages (the first)", several("TIFF")),
    form("TIFF of 16 bits, 32 bits, floats", *deep_tiff(np.uint16, np.int32, np.float32)),
    form("BMP: RGB, gray, palette, 1 bit, alpha", *written("BMP", "RGB", "L", "P", "1", "RGBA")),
    form("JPEG 2000", *written("JPEG2000")),
    form(
        "TGA, PCX, PPM, QOI, SGI, DDS",
        *(f for name in ("TGA", "PCX", "PPM", "QOI", "SGI", "DDS") for f in written(name)),
    ),
    form("ICO", *written("ICO")),
    form("EPS", *written("EPS")),
    form("JPEG XL", lambda: b"\xff\x0a" + bytes(60)),
    form("PDF", *written("PDF")),
    form("SVG, text, anything else", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', lambda: b"text" * 20),
)


@cache
def image_processor(loader: Loader) -> Any:
    """One with the loader wanted."""
    return {"torchvision": Qwen2VLImageProcessor, "pil": Qwen2VLImageProcessorPil}[loader]()


def levels_of(loaded: Any) -> tuple[tuple[int, int], bytes]:
    """Height and width, and the levels as [height, width, 3]."""
    array = np.asarray(loaded) if isinstance(loaded, Image.Image) else loaded.permute(1, 2, 0).contiguous().numpy()
    return array.shape[:2], np.ascontiguousarray(array).tobytes()


def outcome(data: bytes, loader: Loader, folder: Path) -> str:
    """What becomes of a file, in a word: AS_IT_IS or the code of its refusal.

    Raises:
        AssertionError: It is counted or loaded otherwise than the loader does.
    """
    path = folder / "picture"
    path.write_bytes(data)
    medium, processor = Media(kind="image", location=str(path)), image_processor(loader)
    try:
        size = MediaReader().image_size(medium, loader)
        loaded = levels_of(load_image(processor, medium))
    except RefuseSample as refusal:
        return refusal.code
    assert loaded == levels_of(processor.fetch_images(str(path))), "other levels than the loader's"
    assert loaded == levels_of(load_image(processor, Media(kind="image", content=data))), "other levels inside a row"
    assert loaded[0] == (size.height, size.width), "another size than its header's"
    return AS_IT_IS


def table(folder: Path) -> str:
    """The whole table."""
    lines = ["| image | torchvision (the default) | `--image-backend pil` |", "| --- | --- | --- |"]
    for line in FORMATS:
        words = [word_of({outcome(file(), loader, folder) for file in line.files}) for loader in LOADERS]
        lines.append(f"| {line.name} | {' | '.join(words)} |")
    return "\n".join(lines) + "\n"


def word_of(outcomes: set[str]) -> str:
    """What all files of a line came to."""
    (found,) = outcomes
    return found if found == AS_IT_IS else f"refused: `{found}`"


def documented() -> str:
    """The table as the page has it."""
    return DOCS.read_text().partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    """Write the page's table anew."""
    page = DOCS.read_text()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new = table(Path(folder))
    before, _, rest = page.partition(BEGIN)
    DOCS.write_text(before + BEGIN + new + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
