"""Encoded images with every tag, mode and format that a loader may treat in a way of its own."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

__all__ = [
    "HEIGHT",
    "WIDTH",
    "app1",
    "chunk",
    "encode",
    "exif_app1",
    "jpeg",
    "pictures",
    "png",
    "text_chunk",
    "tiff_block",
    "xmp",
]

HEIGHT, WIDTH = 40, 60
"""Of every picture as it lies in its file."""
ORIENTATION = 0x0112
SHORT, LONG, ASCII = 3, 4, 2
"""TIFF's types of an entry."""


def picture(mode: str = "RGB") -> Image.Image:
    """A gradient with noise, in one of Pillow's modes."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3)
    return Image.fromarray((ramp + rng.integers(0, 55, ramp.shape)).astype(np.uint8)).convert(mode)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """What Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def tiff_block(
    orientation: int | Sequence[int],
    *,
    order: Literal["II", "MM"] = "II",
    kind: int = SHORT,
    decoys: int = 0,
    directory_at: int = 8,
    magic: int = 42,
) -> bytes:
    """An Exif block's TIFF structure with an orientation, or several.

    Args:
        orientation: The tag's value, or the values of several entries with that tag.
        order: Byte order.
        kind: Type of the entry.
        decoys: Entries of other tags before it; -1 for one whose tag is 65535.
        directory_at: Where the directory starts.
        magic: 42 in a right one.
    """
    end = "<" if order == "II" else ">"
    values = [orientation] if isinstance(orientation, int) else list(orientation)
    tags = [0xFFFF] if decoys < 0 else range(0x0100, 0x0100 + decoys)
    entries = b"".join(struct.pack(end + "HHIHH", tag, SHORT, 1, 7, 0) for tag in tags)
    for value in values:
        content = {
            SHORT: struct.pack(end + "HH", value, 0),
            LONG: struct.pack(end + "I", value),
            ASCII: str(value).encode().ljust(4, b"\0"),
        }[kind]
        entries += struct.pack(end + "HHI", ORIENTATION, kind, 2 if kind == ASCII else 1) + content
    head = order.encode() + struct.pack(end + "HI", magic, directory_at)
    return (
        head.ljust(directory_at, b"\0")
        + struct.pack(end + "H", abs(decoys) + len(values))
        + entries
        + struct.pack(end + "I", 0)
    )


def xmp(orientation: int, *, element: bool = False) -> bytes:
    """An XMP packet with an orientation, as an attribute or an element."""
    inside = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if element else ""
    attribute = "" if element else f' tiff:Orientation="{orientation}"'
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description{attribute}>{inside}</rdf:Description></x:xmpmeta>'
    ).encode()


def app1(payload: bytes) -> bytes:
    """A JPEG's APP1 segment."""
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload


def exif_app1(block: bytes) -> bytes:
    """The segment that holds an Exif block."""
    return app1(b"Exif\0\0" + block)


def xmp_app1(packet: bytes) -> bytes:
    """The segment that holds an XMP packet."""
    return app1(b"http://ns.adobe.com/xap/1.0/\0" + packet)


def jpeg(*segments: bytes, mode: str = "RGB", **options: Any) -> bytes:
    """A JPEG with segments behind its first marker."""
    data = encode(picture(mode), "JPEG", **options)
    return data[:2] + b"".join(segments) + data[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG's chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def text_chunk(kind: bytes, key: bytes, text: bytes) -> bytes:
    """A tEXt, zTXt or iTXt chunk."""
    body = {
        b"tEXt": lambda: key + b"\0" + text,
        b"zTXt": lambda: key + b"\0\0" + zlib.compress(text),
        b"iTXt": lambda: key + b"\0\0\0\0\0" + text,
    }[kind]()
    return chunk(kind, body)


def raw_profile(block: bytes) -> bytes:
    """An Exif block as ImageMagick writes it into a PNG's text."""
    body = b"Exif\0\0" + block
    return b"\nexif\n%8d\n%b\n" % (len(body), body.hex().encode())


def png(
    *,
    before: bytes = b"",
    after: bytes = b"",
    behind_end: bytes = b"",
    depth: int = 8,
    colour: int = 2,
    num_data_chunks: int = 1,
    interlace: int = 0,
) -> bytes:
    """A PNG written chunk by chunk.

    Args:
        before: Chunks before the pixels.
        after: Chunks behind them.
        behind_end: Bytes behind the last chunk.
        depth: Bits a level.
        colour: PNG's colour type: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA.
        num_data_chunks: Over how many chunks the pixels are spread.
        interlace: The header's flag.
    """
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row_bytes = (WIDTH * channels * depth + 7) // 8
    rows = np.random.default_rng(0).integers(0, 256, (HEIGHT, row_bytes), dtype=np.uint8)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    step = -(-len(pixels) // num_data_chunks)
    data = b"".join(chunk(b"IDAT", pixels[at : at + step]) for at in range(0, len(pixels), step))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlace)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), before, data, after, chunk(b"IEND", b""), behind_end]
    return b"".join(parts)


def single_frame_clip() -> bytes:
    """A WebP whose header announces an animation that has one frame."""
    data = bytearray(encode(picture("RGBA"), "WEBP", lossless=True, exif=tiff_block(1)))
    assert data[12:16] == b"VP8X"
    frame = bytearray(encode(picture(), "WEBP"))[12:]
    sizes = struct.pack("<I", WIDTH - 1)[:3] + struct.pack("<I", HEIGHT - 1)[:3]
    body = bytes(6) + sizes + bytes(3) + b"\0" + bytes(frame)
    head = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sizes
    inside = b"WEBP" + head + b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


def turned_clip(behind_frame: int) -> bytes:
    """An animated PNG with an Exif block behind the data of one of its three frames."""
    frames = [picture(), picture().rotate(180), picture().rotate(90)]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    starts = [data.index(b"fcTL") - 4]
    while len(starts) < len(frames):
        starts.append(data.index(b"fcTL", starts[-1] + 8) - 4)
    at = [*starts, len(data) - 12][behind_frame + 1]
    return data[:at] + chunk(b"eXIf", tiff_block(6)) + data[at:]


def pictures() -> dict[str, Callable[[], bytes]]:
    """Name -> what makes the encoded image; every kind that any loader treats in a way of its own."""
    found: dict[str, Callable[[], bytes]] = {}
    for number in range(10):
        found |= _turned(number)
    found |= _odd_tags() | _modes() | _formats() | _broken()
    return found


def _turned(number: int) -> dict[str, Callable[[], bytes]]:
    """One orientation in every place where it may stand; 0 and 9 mean nothing."""
    block = tiff_block(number)
    found: dict[str, Callable[[], bytes]] = {
        "jpeg exif": lambda: jpeg(exif_app1(block)),
        "jpeg exif big-endian": lambda: jpeg(exif_app1(tiff_block(number, order="MM", decoys=3))),
        "jpeg xmp": lambda: jpeg(xmp_app1(xmp(number))),
        "jpeg xmp element": lambda: jpeg(xmp_app1(xmp(number, element=True))),
        "jpeg xmp before exif": lambda: jpeg(xmp_app1(xmp(1)), exif_app1(block)),
        "jpeg exif before xmp": lambda: jpeg(exif_app1(block), xmp_app1(xmp(3))),
        "png exif before": lambda: png(before=chunk(b"eXIf", block)),
        "png exif after": lambda: png(after=chunk(b"eXIf", block), num_data_chunks=5),
        "png xmp before": lambda: png(before=text_chunk(b"iTXt", b"XML:com.adobe.xmp", xmp(number))),
        "png xmp after": lambda: png(after=text_chunk(b"iTXt", b"XML:com.adobe.xmp", xmp(number))),
        "png raw profile": lambda: png(before=text_chunk(b"zTXt", b"Raw profile type exif", raw_profile(block))),
        "png raw profile after": lambda: png(after=text_chunk(b"tEXt", b"Raw profile type exif", raw_profile(block))),
        "webp exif": lambda: encode(picture(), "WEBP", exif=block),
        "webp xmp": lambda: encode(picture(), "WEBP", xmp=xmp(number)),
        "tiff": lambda: encode(picture(), "TIFF", tiffinfo={ORIENTATION: number}),
        "tiff xmp": lambda: encode(picture(), "TIFF", tiffinfo={700: xmp(number)}),
        "mpo": lambda: encode(picture(), "MPO", save_all=True, append_images=[picture()], exif=block),
    }
    if 1 <= number <= 8:  # their writers check
        found["avif"] = lambda: encode(picture(), "AVIF", exif=block)
        found["tiff lzw"] = lambda: encode(picture(), "TIFF", tiffinfo={ORIENTATION: number}, compression="tiff_lzw")
    return {f"{name} {number}": make for name, make in found.items()}


def _odd_tags() -> dict[str, Callable[[], bytes]]:
    six = tiff_block(6)
    return {
        "jpeg exif long": lambda: jpeg(exif_app1(tiff_block(6, kind=LONG))),
        "jpeg exif long big-endian": lambda: jpeg(exif_app1(tiff_block(6, kind=LONG, order="MM"))),
        "jpeg exif ascii": lambda: jpeg(exif_app1(tiff_block(6, kind=ASCII))),
        "jpeg exif twice in one": lambda: jpeg(exif_app1(tiff_block([6, 1]))),
        "jpeg exif in two segments": lambda: jpeg(exif_app1(six[:20]), exif_app1(six[20:])),
        "jpeg two exifs": lambda: jpeg(exif_app1(tiff_block(1)), exif_app1(six)),
        "jpeg exif elsewhere": lambda: jpeg(exif_app1(tiff_block(6, directory_at=40))),
        "jpeg exif truncated": lambda: jpeg(exif_app1(six[:-10])),
        "jpeg exif directory outside": lambda: jpeg(exif_app1(six[:4] + struct.pack("<I", 9_999) + six[8:])),
        "jpeg exif wrong magic": lambda: jpeg(exif_app1(tiff_block(6, magic=43))),
        "jpeg exif wrong order": lambda: jpeg(exif_app1(b"XX" + six[2:])),
        "jpeg exif behind tag 65535": lambda: jpeg(exif_app1(tiff_block(6, decoys=-1))),
        "jpeg exif empty": lambda: jpeg(exif_app1(b"")),
        "jpeg empty app1 before exif": lambda: jpeg(app1(b""), exif_app1(six)),
        "jpeg app1 of another kind before exif": lambda: jpeg(
            app1(b"abcdef" + tiff_block(8)), exif_app1(tiff_block(1))
        ),
        "jpeg app1 of another kind alone": lambda: jpeg(app1(b"abcdef" + tiff_block(8))),
        "jpeg xmp 1 behind exif 6": lambda: jpeg(exif_app1(six), xmp_app1(xmp(1))),
        "jpeg xmp 6 behind exif 1": lambda: jpeg(exif_app1(tiff_block(1)), xmp_app1(xmp(6))),
        "png exif twice": lambda: png(before=chunk(b"eXIf", tiff_block(1)), after=chunk(b"eXIf", six)),
        "png exif under xmp": lambda: png(
            before=chunk(b"eXIf", tiff_block(1)) + text_chunk(b"iTXt", b"XML:com.adobe.xmp", xmp(6))
        ),
        "png exif as text": lambda: png(before=text_chunk(b"tEXt", b"exif", b"Exif\0\0" + six)),
        "png exif behind the end": lambda: png(behind_end=chunk(b"eXIf", six)),
        "png exif long": lambda: png(before=chunk(b"eXIf", tiff_block(6, kind=LONG, order="MM"))),
        "png text that is no exif": lambda: png(before=text_chunk(b"tEXt", b"Comment", b"tiff:Orientation=6")),
        "png broken raw profile": lambda: png(before=text_chunk(b"tEXt", b"Raw profile type exif", b"\n\n\nxyz")),
        "png unknown chunks": lambda: png(before=chunk(b"vpAg", b"123"), after=chunk(b"zzZz", b"12")),
        "tiff orientation under xmp": lambda: encode(picture(), "TIFF", tiffinfo={ORIENTATION: 1, 700: xmp(6)}),
        "gif xmp": lambda: encode(picture("P"), "GIF", xmp=xmp(6)),
    }


def _modes() -> dict[str, Callable[[], bytes]]:
    found: dict[str, Callable[[], bytes]] = {
        "png P with transparency": lambda: encode(picture("P"), "PNG", transparency=3),
        "png RGB with transparency": lambda: encode(picture(), "PNG", transparency=(1, 2, 3)),
        "png 16-bit gray": lambda: png(depth=16, colour=0),
        "png 16-bit RGB": lambda: png(depth=16, colour=2),
        "png 16-bit gray and alpha": lambda: png(depth=16, colour=4),
        "png 16-bit RGBA": lambda: png(depth=16, colour=6),
        "png 1-bit": lambda: png(depth=1, colour=0),
        "png 2-bit": lambda: png(depth=2, colour=0),
        "png 4-bit": lambda: png(depth=4, colour=0),
        "tiff 32-bit": lambda: encode(Image.fromarray(np.full((HEIGHT, WIDTH), 70_000, np.int32)), "TIFF"),
        "tiff 16-bit": lambda: encode(Image.fromarray(np.full((HEIGHT, WIDTH), 20_000, np.uint16)), "TIFF"),
        "tiff float": lambda: encode(Image.fromarray(np.full((HEIGHT, WIDTH), 900.5, np.float32)), "TIFF"),
        "jpeg CMYK": lambda: jpeg(mode="CMYK"),
        "jpeg gray": lambda: jpeg(mode="L"),
        "jpeg progressive": lambda: jpeg(progressive=True),
        "tiff CMYK": lambda: encode(picture("CMYK"), "TIFF"),
        "tiff LAB": lambda: encode(picture("LAB"), "TIFF"),
        "webp RGBA": lambda: encode(picture("RGBA"), "WEBP"),
        "webp lossless": lambda: encode(picture(), "WEBP", lossless=True),
    }
    for mode in ("P", "L", "LA", "RGB", "RGBA", "1"):
        found[f"png {mode}"] = lambda mode=mode: encode(picture(mode), "PNG")  # type: ignore[misc]
    return found


def _formats() -> dict[str, Callable[[], bytes]]:
    more = {"save_all": True, "append_images": [picture().rotate(180), picture().rotate(90)]}
    found: dict[str, Callable[[], bytes]] = {
        "animated gif": lambda: encode(picture(), "GIF", **more),
        "animated webp": lambda: encode(picture(), "WEBP", **more),
        "webp clip of one frame": single_frame_clip,
        "animated png": lambda: encode(picture(), "PNG", **more),
        "animated png with a picture before": lambda: encode(picture(), "PNG", default_image=True, **more),
        "animated png turned behind its first frame": lambda: turned_clip(behind_frame=0),
        "animated png turned behind its last frame": lambda: turned_clip(behind_frame=2),
        "animated avif": lambda: encode(picture(), "AVIF", **more),
        "tiff of several pages": lambda: encode(picture(), "TIFF", **more),
        "gif": lambda: encode(picture(), "GIF"),
        "ultra hdr jpeg": lambda: jpeg(xmp_app1(b'<rdf hdrgm:Version="1.0"/>'), exif_app1(tiff_block(6))),
    }
    for name in ("BMP", "PPM", "TGA", "JPEG2000", "AVIF", "ICO", "PCX", "SGI", "DDS", "QOI", "EPS"):
        found[name.lower()] = lambda name=name: encode(picture(), name)  # type: ignore[misc]
    return found


def _broken() -> dict[str, Callable[[], bytes]]:
    def png_without_header() -> bytes:
        data = png()
        return data[:8] + chunk(b"CgBI", b"\0\0\0\0") + data[8:]

    return {
        "jpeg without pixels": lambda: jpeg()[:200],
        "jpeg signature alone": lambda: b"\xff\xd8\xff",
        "png signature alone": lambda: b"\x89PNG\r\n\x1a\n",
        "png from a telephone": png_without_header,
        "png of a strange filter": lambda: png()[:28] + b"\0\0\0\0\0" + png()[33:],
        "gif header alone": lambda: encode(picture(), "GIF")[:13],
        "riff": lambda: b"RIFF\x24\0\0\0WEBPVP8 ",
        "text": lambda: b"not an image at all\n" * 10,
    }
