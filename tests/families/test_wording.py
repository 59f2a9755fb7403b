"""What other libraries' errors leave in a reason."""

from __future__ import annotations

import pytest

from vlmprep.families.wording import first_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("decode_jpeg, /__w/vision/csrc/io/image/cpu/decode_jpeg.cpp:171, Image is incomplete", "Image is incomplete"),
        ("  bad size: 3, /data/a.jpg\nand more", "bad size: 3, /data/a.jpg"),
        ("", "ValueError"),
    ],
)
def test_a_reason_is_what_was_wrong_and_not_where_a_library_noticed(said: str, told: str) -> None:
    assert first_line(ValueError(said)) == told
