"""A ledger's counts as `--fake-image sample` makes them: with an image in every sample that has no pictures."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlmprep.counting.ledger import Ledger
from vlmprep.schema.ledger import ENCODER_WORK

__all__ = ["FAKE_COLUMNS", "gets_fake_image", "with_fakes"]

FAKE_COLUMNS = ("num_tokens_with_fake", "num_images", "num_videos")
"""What a table needs to tell which rows get an image, and how long they are then."""
ADDED = frozenset({"num_visual_tokens", "stored_bytes", "num_images", *ENCODER_WORK})
"""Counts that an image adds to."""


def gets_fake_image(table: pa.Table, fake_image: str) -> NDArray[np.bool_]:
    """Rows of a ledger that get a fake image into their conversation.

    Args:
        table: With the columns num_images and num_videos.
        fake_image: Of the plan's settings.
    """
    media = pc.add(pc.fill_null(table["num_images"], 0), pc.fill_null(table["num_videos"], 0)).combine_chunks()
    without: NDArray[np.bool_] = media.to_numpy(zero_copy_only=False) == 0
    return without if fake_image == "sample" else np.zeros_like(without)


def with_fakes(table: pa.Table, gets_fake: NDArray[np.bool_], ledger: Ledger) -> pa.Table:
    """Counts with those of the fake images that rows get.

    Args:
        table: With FAKE_COLUMNS and num_tokens; counts that the image adds to are counted up where it has them.
        gets_fake: From `gets_fake_image`.
        ledger: Knows what the image takes.

    Returns:
        The table; num_tokens is null where a row should get an image and has no place for it.
    """
    chosen = pa.chunked_array([pa.array(gets_fake)])
    tokens = pc.if_else(chosen, table["num_tokens_with_fake"], table["num_tokens"])
    table = table.set_column(table.column_names.index("num_tokens"), "num_tokens", tokens)
    added = {"num_images": 1, **ledger.settings["fake_image"]}
    for name in ADDED.intersection(table.column_names):
        more = pc.multiply(chosen.cast(pa.int64()), int(added[name]))
        total = pc.add(pc.fill_null(table[name], 0).cast(pa.int64()), more)
        table = table.set_column(table.column_names.index(name), name, total)
    return table
