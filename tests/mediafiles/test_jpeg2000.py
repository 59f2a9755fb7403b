"""JPEG 2000 that was cut between two tiles is refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlmprep.families.media.images import load_image
from vlmprep.schema.conversation import Media
from vlmprep.schema.errors import RefuseSample


def tiled(*, bare: bool) -> tuple[bytes, list[int]]:
    """A picture of four tiles, and where in the file the marker that begins a tile ends."""
    levels = np.random.default_rng(0).integers(1, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG2000", tile_size=(16, 16), no_jp2=bare)
    data = file.getvalue()
    return data, [at + 2 for at in range(len(data)) if data.startswith(b"\xff\x90\0\x0a", at)]


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(load_image(Qwen2VLImageProcessorPil(), Media(kind="image", content=data)))


@pytest.mark.parametrize("bare", [False, True])
def test_one_that_ends_between_two_tiles_is_refused(bare: bool) -> None:
    """Pillow leaves the rest black."""
    data, tiles = tiled(bare=bare)
    assert len(tiles) == 4
    whole = decoded(data)
    assert whole.any(axis=2).all()
    for at in tiles[1:]:
        assert not np.array_equal(np.asarray(Image.open(io.BytesIO(data[:at]))), whole)
        with pytest.raises(RefuseSample, match="cut off"):
            decoded(data[:at])


def test_the_bytes_of_the_end_in_a_box_before_the_picture_are_no_end() -> None:
    data, tiles = tiled(bare=False)
    box = struct.pack(">I4s", 26, b"uuid") + bytes(16) + b"\xff\xd9"
    start = data.index(b"jp2c") - 4
    whole = data[:start] + box + data[start:]
    assert np.array_equal(decoded(whole), decoded(data))
    with pytest.raises(RefuseSample, match="cut off"):
        decoded(whole[: tiles[2] + len(box)])
