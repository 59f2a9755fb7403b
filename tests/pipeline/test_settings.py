"""What is said when output was made with other settings."""

from __future__ import annotations

import pytest

from vlmprep.pipeline.settings import refuse_other_settings
from vlmprep.schema.errors import StopRun


def test_of_another_processor_the_family_is_told_first_and_the_rest_is_counted() -> None:
    old = {
        "fake_image": {"num_tokens": 6},
        "fingerprint": {"family": "qwen2_5_vl", "calls": dict.fromkeys("abcdefgh", 0)},
    }
    new = {
        "fake_image": {"num_tokens": 66},
        "fingerprint": {"family": "qwen3_vl", "calls": dict.fromkeys("abcdefgh", 1)},
    }
    with pytest.raises(StopRun) as stop:
        refuse_other_settings("the ledger", old, new)
    what = str(stop.value).splitlines()[0]
    assert what.startswith(
        "the ledger was made with other settings: fingerprint.family was 'qwen2_5_vl', now 'qwen3_vl'; "
    )
    assert what.count(" was ") - 1 == 8
    assert what.endswith("; and 2 more")
    refuse_other_settings("the ledger", old, old)
